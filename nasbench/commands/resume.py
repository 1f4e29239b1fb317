from pathlib import Path
from typing import Annotated

import typer

from nasbench import pipeline
from nasbench.commands.found import show_run
from nasbench.commands.shared import Json, StopAfter, Verbose, display, seconds
from nasbench.record import Record


def command(
    run: Annotated[Path, typer.Argument(help="Record of a run that was interrupted, or failed.")],
    stop_after: StopAfter = None,
    verbose: Verbose = None,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted run after its last whole epoch, with its own settings."""
    record = pipeline.run(Record(run).config(), run, display(verbose), stop_after=seconds(stop_after))
    show_run(record, as_json)
