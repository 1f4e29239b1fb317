"""`nasbench resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasbench import pipeline
from nasbench.commands.options import Json, StopAfter, seconds
from nasbench.record import Record
from nasbench.show import summary
from nasbench.terminal import plain_console, print_json


def command(
    run: Annotated[Path, typer.Argument(help="Record of a run that was interrupted, or failed.")],
    stop_after: StopAfter = None,
    as_json: Json = False,
) -> None:
    """Go on with an interrupted run after its last whole epoch, with its own settings."""
    record = pipeline.run(Record(run).config(), run, stop_after=seconds(stop_after))
    plain_console(stderr=as_json).print(summary(record))
    if as_json:
        print_json(record.result().model_dump(mode="json"))
