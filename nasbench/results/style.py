"""How the figures look: at print size, without relying on colour alone, and without touching matplotlib's settings."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nasbench.files import write_atomic

COLUMN, PAGE = 3.5, 7.0  # widths of one and two columns in inches
DPI = 220
FORMATS = ("png", "svg")
SETTINGS = Path(__file__).with_name("nasbench.mplstyle")
# Okabe and Ito's colours, which the common colour blindnesses tell apart, in an order of changing lightness; every
# series also has its own line style and marker.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#7F7F7F")
LINES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
# The candidates of Meta-Pooling: hue and marker say the family, lightness and line style the window.
CANDIDATES: dict[str, dict[str, Any]] = {
    "none": {"color": "#000000", "linestyle": "-", "marker": ""},
    "avg3": {"color": "#56B4E9", "linestyle": "-", "marker": "o"},
    "avg5": {"color": "#0072B2", "linestyle": "--", "marker": "o"},
    "avg7": {"color": "#332288", "linestyle": ":", "marker": "o"},
    "max3": {"color": "#E69F00", "linestyle": "-", "marker": "^"},
    "max5": {"color": "#D55E00", "linestyle": "--", "marker": "^"},
    "max7": {"color": "#882255", "linestyle": ":", "marker": "^"},
    "global": {"color": "#009E73", "linestyle": "-.", "marker": "s"},
}


def series(number: int) -> dict[str, Any]:
    """Colour, line style and marker of the series of that number; repeated only after 64."""
    shift = (number + number // len(COLOURS)) % len(LINES)
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": LINES[shift], "marker": MARKERS[shift]}


def candidate(name: str, number: int) -> dict[str, Any]:
    """Colour, line style and marker of a candidate, which has that number among its layer's."""
    return CANDIDATES.get(name) or series(number)


class Drawn(Figure):
    """A figure that a notebook shows although no pyplot knows of it."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        return encode(self, "png"), {"width": round(96 * self.get_size_inches()[0])}


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, in inches, that no pyplot knows of."""
    figure = Drawn(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def heat_map(axes: Axes, darkness: Any, counts: Any = None, **options: Any) -> Any:
    """An image whose cells are as dark as their values in 0–1, with their `counts` in them where they are not 0."""
    image = axes.imshow(darkness, cmap="Blues", vmin=0, vmax=1, interpolation="nearest", **options)
    for (row, column), count in np.ndenumerate(np.zeros((0, 0)) if counts is None else counts):
        if count:
            colour = "white" if darkness[row, column] > 0.6 else "black"
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=6, color=colour)
    return image


def legend_below(figure: Figure, styles: Mapping[str, Mapping[str, Any]], columns: int, **options: Any) -> None:
    """A legend below the panels of a figure: each name with how its line is drawn."""
    handles = [figure.axes[0].plot([], [], **style, label=name)[0] for name, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **options)


def panels_of(figure: Figure, count: int, columns: int, **options: Any) -> list[Axes]:
    """So many panels, row by row; what is left of the last row stays empty."""
    panels: list[Axes] = list(figure.subplots(-(-count // columns), columns, squeeze=False, **options).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return panels[:count]


def encode(figure: Figure, how: str) -> bytes:
    """A figure as the bytes of a file of one of `FORMATS`, the same every time."""
    buffer = BytesIO()
    metadata = {"Software": None} if how == "png" else {"Date": None}
    with matplotlib.rc_context(fname=SETTINGS):
        if figure.get_layout_engine() is not None:
            # Laid out once: a second time would move things a little further.
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
        figure.savefig(buffer, format=how, dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as `name.png` and `name.svg`, whole or not at all; returns the two files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{how}" for how in FORMATS]
    for path in paths:
        write_atomic(path, encode(figure, path.suffix[1:]))
    return paths
