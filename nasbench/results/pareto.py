"""Accuracy against cost: every set-up with its interval, and which no other beats at the same cost or less."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasbench.errors import RecordError
from nasbench.record import TRIALS, Record
from nasbench.results.collect import RunRow, curves, grouped, option
from nasbench.results.statistics import Estimate, mean
from nasbench.results.style import COLUMN, PAGE, legend_below, new_figure, panels_of, series
from nasbench.results.tables import setting_parts

BARS: dict[str, Any] = {
    **{"capsize": 2, "elinewidth": 0.8, "markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.4}
}


def front(costs: Sequence[Sequence[float]]) -> list[bool]:
    """Which of some points no other undercuts: as low in every coordinate and lower in one."""
    points = np.array(costs)
    return [not ((points <= point).all(1) & (points < point).any(1)).any() for point in points]


def tradeoff(runs: Sequence[RunRow]) -> Figure:
    """Top-1 against multiply-adds: means and intervals of set-ups, joined where only the width differs, by recipe."""
    recipes = grouped(runs, lambda run: run["protocol"])
    variants = sorted({str(run["label"]) for run in runs})
    lines = -(-len(variants) // 2)
    figure = new_figure(COLUMN * min(2, len(recipes)), 2.5 * -(-len(recipes) // 2) + 0.3 + 0.13 * lines)
    for axes, members in zip(_panels(figure, len(recipes)), recipes.values(), strict=True):
        for number, variant in enumerate(variants):
            alike = grouped((r for r in members if r["label"] == variant), lambda run: option(run, "width"))
            points = sorted(map(_point, alike.values()), key=lambda point: point[0])
            if points:
                xs, ys = [madds for madds, _ in points], [top1.value for _, top1 in points]
                axes.errorbar(xs, ys, [top1.half or 0.0 for _, top1 in points], **BARS, **series(number))
        axes.set_title(", ".join(filter(None, setting_parts(members[0], widths=True))), loc="left")
        axes.margins(x=0.08, y=0.1)
        low, high = axes.get_ylim()
        axes.set_ylim(max(0, low), min(100, high))  # an interval over two or three runs may leave the scale
    styles = {name: {**series(number), "linestyle": "none"} for number, name in enumerate(variants)}
    legend_below(figure, styles, 2 if len(recipes) == 1 else 4)
    figure.suptitle("Accuracy against cost (bars: 95 % confidence interval)")
    return figure


def pareto(runs: Sequence[RunRow]) -> Figure:
    """Top-1 against multiply-adds, means of set-ups, and the front that none of them beats, by data set."""
    sets = {name: [run for run in runs if run["dataset"] == name] for name in sorted({run["dataset"] for run in runs})}
    points = {}
    for dataset, members in sets.items():
        alike = grouped(members, lambda run: run["setting"]).values()
        costs = [(_name(group), madds, top1.value) for group in alike for madds, top1 in [_point(group)]]
        on = front([(madds, -top1) for _, madds, top1 in costs])
        points[dataset] = [(*cost, is_on) for cost, is_on in zip(costs, on, strict=True)]
    lines = max(sum(on for *_, on in found) for found in points.values())
    figure = new_figure(PAGE if len(sets) > 1 else COLUMN, (2.6 + 0.13 * lines) * -(-len(sets) // 2))
    for axes, (dataset, found) in zip(_panels(figure, len(sets)), points.items(), strict=True):
        best = sorted((madds, top1, name) for name, madds, top1, on in found if on)
        rest = [(madds, top1) for _, madds, top1, on in found if not on]
        axes.plot(*zip(*rest, strict=True), "o", color="#7F7F7F", markerfacecolor="none") if rest else None
        xs, ys = [x for x, *_ in best], [y for _, y, _ in best]
        axes.plot(xs, ys, "-", color="#000000", drawstyle="steps-post")
        for number, (x, y, name) in enumerate(best, 1):
            axes.plot([x], [y], "s", color="#0072B2", label=f"{number}  {name}", markersize=5)
            axes.annotate(str(number), (x, y), xytext=(-3, 4), textcoords="offset points", ha="right")
        axes.set_title(dataset, loc="left")
        axes.margins(x=0.1, y=0.12)
        axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.16), handlelength=0, handletextpad=0, markerscale=0)
    figure.suptitle("Squares: the Pareto front; circles: what it beats")
    return figure


def trials(run: RunRow) -> Figure:
    """The networks that a search trained one by one, held-out accuracy against multiply-adds, and their front.

    Networks that were trained for fewer epochs than others do not compare, and are drawn faintly.
    RecordError: `trials.csv` is damaged, or has a single network.
    """
    record = Record(run["path"])
    found = curves(record, TRIALS)
    if len(found) < 2:
        raise RecordError(f"{record.path} has a single network in its {TRIALS}: there is nothing to compare")
    whole = found[found["epochs"] == found["epochs"].max()].sort_values(["madds", "accuracy"])
    points = np.column_stack([whole["madds"] / 1e6, 100 * whole["accuracy"]])
    best = points[front((points * (1, -1)).tolist())]
    try:
        chosen = whole["architecture"].map(json.loads) == record.architecture()
    except (ValueError, RecursionError) as e:
        raise RecordError(f"{record.path / TRIALS} is damaged: {e}") from e
    figure = new_figure(COLUMN, 2.9)
    (axes,) = _panels(figure, 1)
    axes.set_ylabel("held-out top-1 (%)")
    few = found.drop(whole.index)
    axes.plot(few["madds"] / 1e6, 100 * few["accuracy"], ".", color="#BFBFBF", label="fewer epochs" if len(few) else "")
    axes.plot(*points.T, "o", color="#7F7F7F", markerfacecolor="none", label="trained")
    axes.plot(*best.T, "s-", color="#0072B2", drawstyle="steps-post", label="front")
    axes.plot(*points[chosen.to_numpy()].T, "*", color="#D55E00", markersize=11, label="taken")
    axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.16), ncols=4)
    axes.set_title(f"{run['label']}, seed {run['seed']}", loc="left")
    axes.margins(x=0.1, y=0.12)
    figure.suptitle("The networks that the search trained one by one")
    return figure


def _panels(figure: Figure, count: int) -> list[Axes]:
    """Panels of accuracy against cost, two in a row."""
    panels = panels_of(figure, count, min(2, count))
    for axes in panels:
        axes.set(xlabel="multiply-adds of one image (millions)", ylabel="test top-1 (%)", axisbelow=True)
        axes.grid(True)
    return panels


def _point(group: Sequence[RunRow]) -> tuple[float, Estimate]:
    """Mean of the multiply-adds in millions and of top-1 in percent."""
    return mean([run["madds"] / 1e6 for run in group]).value, mean([100 * run["top1"] for run in group])


def _name(group: Sequence[RunRow]) -> str:
    run, width = group[0], option(group[0], "width")
    told = [str(run["label"]), "" if width is None else f"width {width:g}", f"{run['image_size']} px"]
    epochs = int(run["retrain_epochs"])
    told += [f"{epochs} epoch{'s' if epochs > 1 else ''}", f"{len(group)} seeds" if len(group) > 1 else ""]
    return ", ".join(filter(None, told))
