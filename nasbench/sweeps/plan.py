"""What is left of a sweep to do: what is finished already, what was broken off, and whether all runs can work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasbench.config import SETTING
from nasbench.errors import DataError, NasbenchError
from nasbench.nni_bridge.experiment import check_algorithms
from nasbench.nni_bridge.machines import Machines
from nasbench.sweeps.allocation import Allocation, allocate, gpu_count
from nasbench.sweeps.config import SweepConfig, SweepRun
from nasbench.sweeps.runs import (
    Run,
    broken_run,
    expected_seconds,
    find_runs,
    finished_run,
    held_out,
    parameters_of,
    seconds_of,
)

RESULTS = "sweep.json"  # in the sweep's folder


@dataclass(frozen=True)
class Result:
    """What became of one run of a sweep.

    Attributes:
        label: of the run.
        parameters: of the run.
        state: `finished`, `failed`, `stopped early`, `cancelled` or `not finished`.
        how: `from its record`, `run`, or `run again` where it had been broken off or had failed before.
        error: why it failed, one line.
        record: its folder.
        seconds: it took, now or when it was run.
    """

    label: str
    parameters: Mapping[str, Any]
    state: str
    how: str
    error: str | None = None
    record: Path | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Planned:
    """A run that a sweep still has to make.

    Attributes:
        run: what it is.
        broken: the record with which it goes on.
        seconds: that it is expected to take; `None` where no finished run is like it.
    """

    run: SweepRun
    broken: Run | None
    seconds: float | None


@dataclass(frozen=True)
class Plan:
    """What is left of a sweep to do.

    Attributes:
        results: of the runs that need no more work.
        todo: the other runs of a grid; the runs of a tuner's sweep that were broken off.
        proposals: how many runs a tuner shall propose beside these.
        known: results of a tuner's sweep, as NNI's `import_data` takes them.
        seconds: that a run is expected to take that a tuner proposes.
    """

    results: list[Result]
    todo: list[Planned]
    proposals: int = 0
    known: tuple[Mapping[str, Any], ...] = ()
    seconds: float | None = None


def check(sweep: SweepConfig, machines: Machines | None = None) -> Allocation:
    """Check every run of a sweep as far as can be done without training, and allocate the machine.

    Args:
        sweep: the sweep.
        machines: where the runs take place, if not here; data that are missing here may be there.

    Raises:
        NasbenchError: a setting is wrong or data are missing; the message names the run.
    """
    from nasbench.pipeline import prepare

    samples = sweep.samples()
    configs = [run.config for run in samples]
    if machines is None or machines.platform == "local":
        gpus = gpu_count() if any(config.device != "cpu" for config in configs) else 0
        allocation = allocate(configs, sweep.trials if sweep.search else len(samples), sweep.concurrency, gpus)
    else:
        allocation = Allocation(machines.concurrency(sweep.concurrency, configs), threads=0, gpus=0)
    check_algorithms(sweep)
    checked: set[str] = set()
    for run in samples:
        setting = run.config.digest(*SETTING)
        if setting not in checked:
            checked.add(setting)
            try:
                prepare(run.config)
            except NasbenchError as e:
                if not isinstance(e, DataError) or machines is None or machines.platform == "local":
                    raise type(e)(f"run {run.label!r}: {e}") from e
    return allocation


def plan(sweep: SweepConfig, out: Path, timed: Sequence[Path] = ()) -> Plan:
    """Find out what is left of a sweep to do. Nothing is started or written.

    Args:
        sweep: the sweep.
        out: folder of its records.
        timed: folders of further records by which times are estimated.
    """
    records = find_runs([out])
    like = [*records, *find_runs(timed)]
    stopped = _stopped_early(out)
    if sweep.search:
        return _plan_search(sweep, records, like, stopped)
    results: list[Result] = []
    todo: list[Planned] = []
    for run in sweep.runs():
        finished = finished_run(run.config, records)
        if finished is not None:
            results.append(_from_record(run, finished))
        elif dict(run.parameters) in stopped:
            results.append(Result(run.label, run.parameters, "stopped early", "from its record"))
        else:
            todo.append(Planned(run, broken_run(run.config, records), expected_seconds(run.config, like)))
    return Plan(results, todo)


def _plan_search(
    sweep: SweepConfig, records: Sequence[Run], like: Sequence[Run], stopped: Sequence[Mapping[str, Any]]
) -> Plan:
    results: list[Result] = []
    broken: list[Planned] = []
    known: list[Mapping[str, Any]] = []
    for earlier in records:
        parameters = parameters_of(earlier.config, sweep)
        if parameters is None:
            continue
        run = sweep.run(parameters)
        if earlier.finished:
            results.append(_from_record(run, earlier))
            known.append({"parameter": parameters, "value": held_out(earlier.record)})
        elif parameters not in stopped and broken_run(run.config, [earlier]):
            broken.append(Planned(run, earlier, expected_seconds(run.config, like)))
    results += [Result(sweep.label(given), given, "stopped early", "from its record") for given in stopped]
    todo = broken[: max(0, sweep.trials - len(results))]
    proposals = max(0, sweep.trials - len(results) - len(todo))
    return Plan(results, todo, proposals, tuple(known), expected_seconds(sweep.samples()[0].config, like))


def _from_record(run: SweepRun, earlier: Run) -> Result:
    return Result(
        run.label,
        run.parameters,
        "finished",
        "from its record",
        record=earlier.record.path,
        seconds=seconds_of(earlier),
    )


def _stopped_early(out: Path) -> list[dict[str, Any]]:
    try:
        runs = json.loads((out / RESULTS).read_text(encoding="utf-8"))["runs"]
        return [dict(run["parameters"]) for run in runs if run["state"] == "stopped early"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
