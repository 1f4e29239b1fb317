"""Which runs no other beats in accuracy at the same cost or less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nasbench.results.collect import RunRow, option
from nasbench.results.statistics import mean
from nasbench.results.style import COLUMN, PAGE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which of some points no other undercuts: as low in every coordinate and lower in one."""

    def undercuts(one: Sequence[float], other: Sequence[float]) -> bool:
        return tuple(one) != tuple(other) and all(a <= b for a, b in zip(one, other, strict=True))

    return [not any(undercuts(other, point) for other in costs) for point in costs]


def pareto(runs: Sequence[RunRow]) -> Figure:
    """Test accuracy against multiply-adds, mean over seeds of every set-up, and the front that none of them beats.

    Data sets have a panel each, whatever the recipe: widths and image sizes are what costs are made of.
    """
    sets = {name: [run for run in runs if run["dataset"] == name] for name in sorted({run["dataset"] for run in runs})}
    points = {name: _points(members) for name, members in sets.items()}
    lines = max(sum(on for *_, on in found) for found in points.values())
    with styled():
        figure = new_figure(PAGE if len(sets) > 1 else COLUMN, (2.6 + 0.13 * lines) * -(-len(sets) // 2))
        panels = figure.subplots(-(-len(sets) // 2), min(2, len(sets)), squeeze=False)
        for axes in list(panels.flat)[len(sets) :]:
            axes.set_axis_off()
        for axes, (dataset, found) in zip(panels.flat, points.items(), strict=False):
            best = sorted((madds, top1, name) for name, madds, top1, on in found if on)
            rest = [(madds, top1) for _, madds, top1, on in found if not on]
            axes.plot(*zip(*rest, strict=True), "o", color="#7F7F7F", markerfacecolor="none") if rest else None
            xs, ys = [x for x, *_ in best], [y for _, y, _ in best]
            axes.plot(xs, ys, "-", color="#000000", drawstyle="steps-post")
            for number, (x, y, name) in enumerate(best, 1):
                axes.plot([x], [y], "s", color="#0072B2", label=f"{number}  {name}", markersize=5)
                axes.annotate(str(number), (x, y), xytext=(-3, 4), textcoords="offset points", ha="right")
            axes.set_title(dataset, loc="left")
            axes.set_xlabel("multiply-adds of one image (millions)")
            axes.set_ylabel("test top-1 (%)")
            axes.grid(True)
            axes.set_axisbelow(True)
            axes.margins(x=0.1, y=0.12)
            axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.16), handlelength=0, handletextpad=0, markerscale=0)
        figure.suptitle("Squares: the Pareto front; circles: what it beats")
    return figure


def _points(runs: Sequence[RunRow]) -> list[tuple[str, float, float, bool]]:
    """Name, millions of multiply-adds and top-1 in percent of every set-up, and whether it is on the front."""
    alike: dict[str, list[RunRow]] = {}
    for run in runs:
        alike.setdefault(f"{run['setting']}", []).append(run)
    found = [
        (_name(group), mean([r["madds"] / 1e6 for r in group]).value, mean([100 * r["top1"] for r in group]).value)
        for group in alike.values()
    ]
    on = front([(madds, -top1) for _, madds, top1 in found])
    return [(*point, is_on) for point, is_on in zip(found, on, strict=True)]


def _name(group: Sequence[RunRow]) -> str:
    run, width = group[0], option(group[0], "width")
    told = [str(run["label"]), "" if width is None else f"width {width:g}", f"{run['image_size']} px"]
    epochs = int(run["retrain_epochs"])
    told += [f"{epochs} epoch{'s' if epochs > 1 else ''}", f"{len(group)} seeds" if len(group) > 1 else ""]
    return ", ".join(filter(None, told))
