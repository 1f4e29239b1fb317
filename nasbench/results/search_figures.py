from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasbench.errors import RecordError, quoted
from nasbench.facts import Decision
from nasbench.reasons import EVIDENCE, LEAD, UNDECIDED
from nasbench.record import SEARCH, Record
from nasbench.results.collect import RunRow, architecture_of, curves, grouped, is_searched, option
from nasbench.results.style import CANDIDATES, COLUMN, PAGE, candidate, heat_map, legend_below, new_figure, panels_of

PANELS = 6  # side by side
FIXED: dict[str, Any] = {"color": "#606060", "linewidth": 0.8, "linestyle": (0, (2, 2))}
EXCLUDED: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 4.0, "markeredgewidth": 1.0}


def alphas(run: RunRow) -> Figure:
    """π of every candidate over the search, a panel a layer; RecordError: `search.csv` is not there or damaged."""
    record = Record(run["path"])
    measured = curves(record, SEARCH)
    if measured.empty:
        raise RecordError(f"{record.path} has no {SEARCH}: its strategy has no π")
    layers = {str(label): layer for label, layer in measured.groupby("label", sort=False)}
    decisions, chosen = record.decisions(), record.architecture()
    for label in layers:
        if label not in chosen:
            what = f"it has {quoted(label)}, which the architecture lacks"
            raise RecordError(f"{record.path / SEARCH} is damaged: {what}")
    names = list(measured["candidate"].unique())
    last = int(measured["step"].max()) or 1
    figure = new_figure(PAGE, 1.05 + 1.1 * -(-len(layers) // PANELS))
    panels = panels_of(figure, len(layers), PANELS, sharex=True, sharey=True)
    for number, (axes, (label, layer)) in enumerate(zip(panels, layers.items(), strict=True)):
        _layer(axes, label, layer, chosen[label], decisions[label], names, last)
        lowest = number + PANELS >= len(layers)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("training step" if lowest else "")
    panels[0].set_ylim(0, min(1.0, 1.1 * measured["pi"].max()))
    styles = {name: {**candidate(name, i), "markersize": 3} for i, name in enumerate(names)} | {"fixed": FIXED}
    if any(decision.excluded for decision in decisions.values()):
        styles["excluded"] = {**EXCLUDED, "color": "#606060"}
    legend_below(figure, styles, len(styles) if len(styles) < 10 else -(-len(styles) // 2), handlelength=2.4)
    title = f"{run['label']} on {run['dataset']}, seed {run['seed']}"
    figure.suptitle(
        f"π of each layer's candidates over the search: {title}\n"
        "(in the titles: what was chosen; * not fixed before the search ended; (n) undecided between n)"
    )
    figure.supylabel("π (probability)", fontsize=7)
    return figure


def _layer(
    axes: Axes, label: str, layer: pd.DataFrame, chosen: Any, decision: Decision, names: Sequence[str], last: int
) -> None:
    for key, curve in layer.groupby("candidate", sort=False):
        name = str(key)
        steps, values, style = list(curve["step"]), list(curve["pi"]), candidate(name, names.index(name))
        if name in decision.excluded:  # the line ends at that step, at which it has the value before
            end = decision.excluded[name].step
            before = [(s, v) for s, v in zip(steps, values, strict=True) if s < end] or [(0, values[0])]
            steps, values = [*(s for s, _ in before), end], [*(v for _, v in before), before[-1][1]]
            axes.plot(steps[-1:], values[-1:], **EXCLUDED, color=style["color"], zorder=4, clip_on=False)
        every = max(1, len(steps) // 3)
        axes.plot(
            steps,
            values,
            **style,
            linewidth=1.5 if name == str(chosen) else 0.8,
            markersize=2.6,
            markevery=(names.index(name) * every // max(1, len(names)), every),
            zorder=3 if name == str(chosen) else 2,
        )
    fixed = decision.by in (LEAD, EVIDENCE)
    if fixed and decision.step is not None:
        axes.axvline(decision.step, **FIXED, zorder=1)
        axes.axvspan(decision.step, last, color="#ececec", linewidth=0, zorder=0)
    mark = f" ({len(decision.survivors)})" if decision.by == UNDECIDED else "" if fixed else "*"
    axes.set_title(f"{label.removesuffix('.enhancer')}: {chosen}{mark}", pad=2.5, fontsize=6.8)
    axes.set_xlim(0, last)
    axes.locator_params(axis="y", nbins=3)
    axes.locator_params(axis="x", nbins=3)


def architecture(runs: Sequence[RunRow]) -> Figure:
    """Which candidate was chosen at which depth: a heat map a set-up and kind of label, with the share of its runs.

    Architectures that were given are drawn only where none was found.
    """
    found = [run for run in runs if is_searched(run)] or list(runs)
    labels = list(architecture_of(found[0]))
    alike = [run for run in found if list(architecture_of(run)) == labels]
    groups = grouped(alike, lambda run: str(run["label"]))
    kinds: dict[str, list[str]] = {}
    for label in labels:
        kinds.setdefault(label.rpartition(".")[2] if "." in label else "", []).append(label)
    maps = [(variant, kind) for variant in groups for kind in kinds]
    names = {(v, k): _candidates(groups[v], kinds[k], len(kinds) == 1) for v, k in maps}
    rows = sum(map(len, names.values()))
    longest = max(map(len, kinds.values()))
    figure = new_figure(PAGE if longest > 8 else COLUMN, 0.75 + 0.3 * len(maps) + 0.16 * rows)
    ratios = [len(names[key]) for key in maps]
    panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False, height_ratios=ratios)[:, 0]
    image: Any = None
    for axes, (variant, kind) in zip(panels, maps, strict=True):
        title = variant if len(kinds) == 1 else f"{variant}, {kind}"
        image = _heat_map(axes, title, groups[variant], kinds[kind], names[variant, kind])
    panels[-1].set_xlabel("depth: number of the layer, from the image to the classifier")
    bar = figure.colorbar(image, ax=list(panels), pad=0.01, aspect=max(8, rows))
    bar.set_label("share of runs")
    bar.outline.set_linewidth(0.5)
    figure.suptitle("Candidate chosen at each depth (in the cells: number of runs)")
    return figure


def _heat_map(axes: Axes, title: str, runs: Sequence[RunRow], labels: Sequence[str], names: Sequence[str]) -> Any:
    found = [architecture_of(run) for run in runs]
    counts = np.array([[sum(str(chosen[label]) == name for chosen in found) for label in labels] for name in names])
    image = heat_map(axes, counts / len(runs), counts, aspect="auto")
    seeds = "seed" if len(runs) == 1 else "seeds"
    axes.set_title(f"{title}: {len(runs)} {seeds}", loc="left", pad=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(labels)), [str(i) for i in range(1, len(labels) + 1)])
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.grid(which="minor", color="#c8c8c8", linewidth=0.4)
    axes.tick_params(which="minor", length=0)
    return image


def _candidates(runs: Sequence[RunRow], labels: Sequence[str], listed: bool) -> list[str]:
    """All candidates of some labels, as far as the records say, or were chosen; `listed`: the space's option, too."""
    names: dict[str, None] = {}
    for run in runs:
        decisions, chosen = Record(run["path"]).decisions(), architecture_of(run)
        for label in labels:
            names |= dict.fromkeys(decisions[label].pi or ())
        if listed and is_searched(run):
            names |= dict.fromkeys(filter(None, str(option(run, "candidates") or "").split("+")))
        names |= dict.fromkeys(str(chosen[label]) for label in labels)
    return [name for name in CANDIDATES if name in names] + sorted(set(names) - set(CANDIDATES))
