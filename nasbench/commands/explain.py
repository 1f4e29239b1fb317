from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import write_file
from nasbench.commands.shared import OneRecord, Trust
from nasbench.record import Record
from nasbench.results.explain import explain, page, terminal
from nasbench.results.formats import grid
from nasbench.results.seen import see
from nasbench.terminal import plain_console

PAGE = "explained.html"


def command(
    record: OneRecord,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help=f"HTML file to write; by default {PAGE} in the record.")
    ] = None,
    trust: Trust = False,
) -> None:
    """Explain in words and pictures what a search knows of each layer, what the network sees, and what to do next."""
    found = Record(record)
    explanation = explain(found)
    seen = see(found, trust)
    if output is None:
        console = plain_console(fit=grid(seen.layers) if seen.layers else None)
        console.print(terminal(explanation, seen), crop=False)  # commands stay on one line, to be copied
        if not record.is_dir():
            return  # in a pack
        output = record / PAGE
    write_file(output, page(explanation, seen))
