"""`nasbench verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasbench.errors import NasbenchError, RecordError
from nasbench.integrity import check
from nasbench.record import Record, find_records
from nasbench.terminal import say, write


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Records, packs, or folders with them.")],
) -> None:
    """Compare every file of records with the SHA-256 that the run noted, and read them all."""
    good = bad = 0
    for folder in runs:
        found = list(find_records(folder))
        if not found:
            raise RecordError(f"there is no run record in {folder}")
        for path in found:
            try:
                how = check(Record(path))
            except NasbenchError as e:
                bad += 1
                write(f"damaged  {path}: {e}")
            else:
                good += 1
                write(f"{how:<8} {path}")
    say(f"{good} of {good + bad} record(s) are whole")
    if bad:
        raise typer.Exit(1)
