from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import finished
from nasbench.commands.shared import Runs, Trust
from nasbench.errors import OptionError, RecordError, unknown
from nasbench.results.figures import WHAT, plot
from nasbench.results.style import save
from nasbench.terminal import say, write


def command(
    runs: Runs = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="alphas, trials, architecture, receptive-field, tradeoff, pareto, curves or confusion; may be "
            "repeated; default: all."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder that receives the PNG and SVG files.")] = Path("figures"),
    trust: Trust = False,
) -> None:
    """Draw figures of runs: the search, the architectures, receptive fields, accuracy and cost, curves, confusions."""
    for kind in what or ():
        if kind not in WHAT:
            raise OptionError(unknown("figure", kind, WHAT))
    frame = finished(runs).frame
    for kind in what or WHAT:
        try:
            for name, figure in plot(frame, kind, trust=trust).items():
                for path in save(figure, output, name):
                    write(str(path))
        except (RecordError, OptionError) as e:  # e.g. a network without a feature map
            if what:
                raise
            say(f"no {kind}: {e}")
        except OSError as e:
            raise RecordError(f"no figure can be written in {output}: {e.strerror}") from e
