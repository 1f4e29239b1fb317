"""`nasbench clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasbench.errors import RecordError
from nasbench.integrity import superfluous
from nasbench.packs import is_inside
from nasbench.record import Record, find_records
from nasbench.terminal import say, write


def command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Records, or folders with records.")],
    force: Annotated[bool, typer.Option("--force", "-f", help="Remove the files; without it they are listed.")] = False,
) -> None:
    """Remove what no result needs: checkpoints of finished runs, and what killed processes left behind."""
    freed = 0
    for folder in runs:
        found = [path for path in find_records(folder) if not is_inside(path)]
        if not found:
            raise RecordError(f"there is no run record in {folder} (packs stay as they are)")
        for path in found:
            for file in superfluous(Record(path)):
                size = file.stat().st_size
                write(f"{size / 2**20:8.1f} MiB  {file}")
                freed += size
                if force:
                    file.unlink()
    say(f"{freed / 2**20:.1f} MiB {'freed' if force else 'would be freed: give --force'}")
