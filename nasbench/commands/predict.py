from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from nasbench.commands.shared import Trust
from nasbench.errors import OptionError, unknown
from nasbench.export.format import load_network
from nasbench.export.predict import pictures, predict
from nasbench.terminal import plain_console, plain_table, print_json, say, write

FORMATS = ("table", "csv", "json")


def command(
    network: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A finished run, or what `export` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Picture files, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes of each picture, the likeliest first.")] = 3,
    form: Annotated[str, typer.Option("--format", help="table, csv or json.")] = "table",
    trust: Trust = False,
) -> None:
    """Tell the likeliest classes of pictures, and their probabilities."""
    if form not in FORMATS:
        raise OptionError(unknown("format", form, FORMATS))
    found = list(predict(load_network(network, trust), pictures(images), top))
    good = [prediction for prediction in found if not prediction.error]
    if form == "json":
        told = [(p.path, [{"class": name, "probability": value} for name, value in p.classes]) for p in good]
        print_json([{"image": str(path), "classes": classes} for path, classes in told])
    elif form == "csv":
        rows = [(p.path, rank, *seen) for p in good for rank, seen in enumerate(p.classes, 1)]
        frame = pd.DataFrame(rows, columns=["image", "rank", "class", "probability"])
        write(frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").rstrip("\n"))
    else:
        most = max((len(p.classes) for p in good), default=0)
        table = plain_table("image", *["class", "%"] * most, right=("%",))
        for p in good:
            table.add_row(str(p.path), *(cell for name, value in p.classes for cell in (name, f"{100 * value:.1f}")))
        plain_console(fit=table).print(table)
    for prediction in found:
        if prediction.error:
            say(prediction.error)
    if len(good) < len(found):
        raise typer.Exit(1)
