from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import show_table
from nasbench.commands.shared import Format, Output
from nasbench.results.tables import compare


def command(
    run_a: Annotated[Path, typer.Argument(help="Record of a finished run.")],
    run_b: Annotated[Path, typer.Argument(help="Record of another.")],
    how: Format = "rich",
    output: Output = None,
) -> None:
    """Show what differs between two runs in configuration, architecture and result."""
    show_table(compare(run_a, run_b), how, output)
