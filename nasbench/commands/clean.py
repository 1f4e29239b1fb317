from typing import Annotated

import typer

from nasbench.commands.found import records
from nasbench.commands.shared import Records
from nasbench.integrity import superfluous
from nasbench.record import Record
from nasbench.terminal import say, write


def command(
    runs: Records,
    force: Annotated[bool, typer.Option("--force", "-f", help="Remove the files; without it they are listed.")] = False,
) -> None:
    """Remove what no result needs: checkpoints of finished runs, and what killed processes left behind."""
    freed = 0
    for folder in runs:
        for path in records(folder, packs=False):
            for file in superfluous(Record(path)):
                size = file.stat().st_size
                write(f"{size / 2**20:8.1f} MiB  {file}")
                freed += size
                if force:
                    file.unlink()
    say(f"{freed / 2**20:.1f} MiB {'freed' if force else 'would be freed: give --force'}")
