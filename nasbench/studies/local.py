"""Making the runs of a study in this process, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from nasbench.errors import NasbenchError
from nasbench.pipeline import run
from nasbench.registry import describe_exception
from nasbench.studies.plan import Plan, Result, check


def run_missing(planned: Plan, out: Path, say: Callable[[str], None]) -> list[Result]:
    """Make what is missing of a grid; a run that fails does not stop the rest, and one that was broken off goes on.

    Before each run `say` is told what it is, and of each that failed why. Raises NasbenchError: a run can never work,
    and none was started; the message names it.
    """
    check(planned.missing)
    results = []
    for number, item in enumerate(planned.missing, 1):
        say(f"[{number}/{len(planned.missing)}] {item.label}")
        how = "run" if item.interrupted is None else "run again"
        start = time.monotonic()
        try:
            record = run(item.config, out if item.interrupted is None else item.interrupted.record.path)
            seconds = time.monotonic() - start
            result = Result(item.label, item.parameters, "finished", how, record=record.path, seconds=seconds)
        except Exception as e:  # one of many, whatever went wrong in it
            error = " ".join((str(e) if isinstance(e, NasbenchError) else describe_exception(e)).split())
            result = Result(item.label, item.parameters, "failed", how, error)
            say(f"failed: {item.label}: {error}")
        results.append(result)
    return results
