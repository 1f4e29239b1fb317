"""`nasbench explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasbench.errors import NasbenchError
from nasbench.record import Record, write_atomic
from nasbench.results.explain import explain, page, terminal
from nasbench.terminal import plain_console, say

app = typer.Typer(add_completion=False)


@app.command()
def command(
    record: Annotated[Path, typer.Argument(help="Folder of a run, or FILE.records.xz/NAME of one in a pack.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="HTML file to write instead of printing to the terminal.")
    ] = None,
) -> None:
    """Explain in plain words what a search knows of each layer, how sure that is, and what to do next."""
    explanation = explain(Record(record))
    if output is None:
        plain_console().print(terminal(explanation))
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, page(explanation))
    except OSError as e:
        raise NasbenchError(f"{output} cannot be written: {e.strerror}") from e
    say(f"written: {output}")
