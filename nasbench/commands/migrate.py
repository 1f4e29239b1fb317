from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import records
from nasbench.migrate import migrate
from nasbench.terminal import say, write


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Records, or folders with records.")],
) -> None:
    """Bring records of earlier versions up to date, in place."""
    changed = total = 0
    for folder in runs:
        total += len(records(folder, packs=False))
        for path in migrate(folder):
            write(str(path))
            changed += 1
    say(f"{changed} of {total} record(s) brought up to date")
