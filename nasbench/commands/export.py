"""`nasbench export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.options import Trust
from nasbench.export import FORMATS
from nasbench.export.write import export
from nasbench.record import Record
from nasbench.terminal import say


def command(
    record: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File that is written.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = FORMATS[0],
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
    trust: Trust = False,
) -> None:
    """Write the network of a run to one file for other runtimes, and try it there on the test images."""
    report = export(Record(record), form, output, force, trust)
    seen, card = report.comparison, report.card
    what = f"{seen.images:,} random images" if report.note else f"all {seen.images:,} test images"
    if report.note:
        say(report.note)
    accuracy = "" if seen.correct is None else f" (top-1 {100 * seen.correct / seen.images:.2f} %)"
    say(f"as PyTorch on {what}{accuracy}: the same classes, logits within {seen.difference:.0e}")
    say(f"written: {output}, {output.stat().st_size / 2**20:.1f} MiB; {card.usage}")
