from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import records
from nasbench.errors import NasbenchError
from nasbench.integrity import check
from nasbench.record import Record
from nasbench.terminal import say, write


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Records, packs, or folders with them.")],
) -> None:
    """Compare every file of records with the SHA-256 that the run noted, and read them all."""
    good = bad = 0
    for folder in runs:
        for path in records(folder):
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
