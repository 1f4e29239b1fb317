from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.shared import Trust
from nasbench.export import FORMATS
from nasbench.export.write import QUANTISED, export
from nasbench.record import Record
from nasbench.terminal import say


def command(
    record: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File that is written.")],
    form: Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")] = FORMATS[0],
    quantise: Annotated[
        str,
        typer.Option(help=f"{', '.join(QUANTISED)}: whole numbers, calibrated on training images (onnx, executorch)."),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
    trust: Trust = False,
) -> None:
    """Write the network of a run to one file for other runtimes, and try it there on the test images."""
    report = export(Record(record), form, output, force, trust, quantise)
    if report.note:
        say(report.note)
    seen, card = report.comparison, report.card
    if seen is None:
        say(f"parsed; not tried on images: {form} runs on macOS only")
    else:
        what = f"{seen.images:,} random images" if report.note else f"all {seen.images:,} test images"
        accuracy = "" if seen.correct is None else f" (top-1 {100 * seen.correct / seen.images:.2f} %)"
        if card.quantised_top1 is not None:
            same = 100 * (1 - seen.others / seen.images)
            found = f"{card.quantised} top-1 {100 * card.quantised_top1:.2f} %, the same class for {same:.1f} %"
            say(f"on {what}: {found}; PyTorch{accuracy}")
        else:
            say(f"as PyTorch on {what}{accuracy}: the same classes, logits within {seen.difference:.0e}")
    files = [output, *output.rglob("*")] if output.is_dir() else [output]
    size = sum(file.stat().st_size for file in files if file.is_file())
    say(f"written: {output}, {size / 2**20:.1f} MiB; {card.usage}")
