"""`nasbench migrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasbench.errors import RecordError
from nasbench.migrate import migrate
from nasbench.packs import is_inside
from nasbench.record import find_records
from nasbench.terminal import say, write


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Records, or folders with records.")],
) -> None:
    """Bring records of earlier versions up to date, in place."""
    changed = total = 0
    for folder in runs:
        found = [path for path in find_records(folder) if not is_inside(path)]
        if not found:
            raise RecordError(f"there is no run record in {folder} (packs stay as they are)")
        total += len(found)
        for path in migrate(folder):
            write(str(path))
            changed += 1
    say(f"{changed} of {total} record(s) brought up to date")
