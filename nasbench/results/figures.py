from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nasbench.errors import OptionError, RecordError, listed, quoted, unknown
from nasbench.facts import Decision
from nasbench.reasons import EVIDENCE, LEAD, REMOVAL, UNDECIDED
from nasbench.record import CONFUSION, METRICS, MODEL, SEARCH, TRIALS, Record
from nasbench.results import style
from nasbench.results.collect import RunRow, architecture_of, curves, grouped, is_searched, option
from nasbench.results.pareto import pareto, tradeoff, trials
from nasbench.results.tables import records

WHAT = ("alphas", "trials", "architecture", "receptive-field", "tradeoff", "pareto", "curves", "confusion")
# What a record must have for a figure, and what to say where none has it.
NEEDED = {
    "alphas": (SEARCH, f"a {SEARCH}: their strategies have no π"),
    "trials": (TRIALS, f"a {TRIALS}: their strategies train no networks one by one"),
    "confusion": (CONFUSION, f"a {CONFUSION}: earlier versions did not count"),
    "receptive-field": (MODEL, f"a trained network ({MODEL})"),
}
NETWORKS = 4  # receptive fields side by side
MOST_IN_COLUMN = 12  # classes in a column of print
MOST_NAMED = 30  # classes that are named, and whose cells have numbers; of more, the most frequent confusions are
MOST_CLASSES = 2000
LONGEST_NAME = 18  # characters
WORST = 20  # confusions by name
PANELS = 6  # side by side
FIXED: dict[str, Any] = {"color": "#606060", "linewidth": 0.8, "linestyle": (0, (2, 2))}
EXCLUDED: dict[str, Any] = {"linestyle": "none", "marker": "x", "markersize": 4.0, "markeredgewidth": 1.0}
CURVES = (
    ("search", "train_top1", "search: training top-1 (%)", 100.0),
    ("retrain", "val_top1", "retraining: held-out top-1 (%)", 100.0),
    ("retrain", "train_loss", "retraining: training loss (nats)", 1.0),
)


def plot(frame: pd.DataFrame, what: str, each: bool = True, trust: bool = False) -> dict[str, Figure]:
    """Draw one kind of figure, one of `WHAT`; of `OF_RUN` one figure a run, of the others one in all.

    With `each` off, those are drawn of the first run of each set-up only; `trust` as in `nasbench.networks.load_model`.
    Raises OptionError: unknown kind. RecordError: none of the runs has what the figure shows.
    """
    runs = records(frame)
    if what not in WHAT:
        raise OptionError(unknown("figure", what, WHAT))
    if not runs:
        raise RecordError("there is no finished run to draw")
    if what in NEEDED:
        file, absent = NEEDED[what]
        runs = [run for run in runs if Record(run["path"]).file(file)]
        if not runs:
            raise RecordError(f"none of the runs has {absent}")
    with matplotlib.rc_context(fname=style.SETTINGS):
        if what in OF_RUN:
            return {f"{what}_{run['name']}": OF_RUN[what](run) for run in (runs if each else first_of_each(runs))}
        if what == "receptive-field":
            return {what: receptive_fields(first_of_each(runs)[:NETWORKS], trust)}
        return {what: OF_ALL[what](runs)}


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
    figure = style.new_figure(style.PAGE, 1.05 + 1.1 * -(-len(layers) // PANELS))
    panels = style.panels_of(figure, len(layers), PANELS, sharex=True, sharey=True)
    for number, (axes, (label, layer)) in enumerate(zip(panels, layers.items(), strict=True)):
        _layer(axes, label, layer, chosen[label], decisions[label], names, last)
        lowest = number + PANELS >= len(layers)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("training step" if lowest else "")
    panels[0].set_ylim(0, min(1.0, 1.1 * measured["pi"].max()))
    styles = {name: {**style.candidate(name, i), "markersize": 3} for i, name in enumerate(names)} | {"fixed": FIXED}
    if any(decision.excluded for decision in decisions.values()):
        styles["excluded"] = {**EXCLUDED, "color": "#606060"}
    style.legend_below(figure, styles, len(styles) if len(styles) < 10 else -(-len(styles) // 2), handlelength=2.4)
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
        steps, values, look = list(curve["step"]), list(curve["pi"]), style.candidate(name, names.index(name))
        if name in decision.excluded:  # the line ends at that step, at which it has the value before
            end = decision.excluded[name].step
            before = [(s, v) for s, v in zip(steps, values, strict=True) if s < end] or [(0, values[0])]
            steps, values = [*(s for s, _ in before), end], [*(v for _, v in before), before[-1][1]]
            axes.plot(steps[-1:], values[-1:], **EXCLUDED, color=look["color"], zorder=4, clip_on=False)
        every = max(1, len(steps) // 3)
        axes.plot(
            steps,
            values,
            **look,
            linewidth=1.5 if name == str(chosen) else 0.8,
            markersize=2.6,
            markevery=(names.index(name) * every // max(1, len(names)), every),
            zorder=3 if name == str(chosen) else 2,
        )
    fixed = decision.by in (LEAD, EVIDENCE, REMOVAL)
    if fixed and decision.step is not None:
        axes.axvline(decision.step, **FIXED, zorder=1)
        axes.axvspan(decision.step, last, color="#ececec", linewidth=0, zorder=0)
    mark = f" ({len(decision.survivors)})" if decision.by == UNDECIDED else "" if fixed else "*"
    axes.set_title(f"{label.removesuffix('.enhancer')}: {chosen}{mark}", pad=2.5, fontsize=6.8)
    axes.set_xlim(0, last)
    axes.locator_params(nbins=3)


def architecture(runs: Sequence[RunRow]) -> Figure:
    """A heat map a set-up and kind of label: share of runs by candidate and depth; given ones where none was found."""
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
    figure = style.new_figure(style.PAGE if longest > 8 else style.COLUMN, 0.75 + 0.3 * len(maps) + 0.16 * rows)
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
    image = style.heat_map(axes, counts / len(runs), counts, aspect="auto")
    seeds = "seed" if len(runs) == 1 else "seeds"
    axes.set_title(f"{title}: {len(runs)} {seeds}", loc="left", pad=3)
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks(range(len(labels)), [str(i) for i in range(1, len(labels) + 1)])
    axes.set_xticks(np.arange(0.5, len(labels) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.grid(which="minor", color="#c8c8c8", linewidth=0.4)
    axes.tick_params(which="both", length=0)
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
    return [name for name in style.CANDIDATES if name in names] + sorted(set(names) - set(style.CANDIDATES))


def learning_curves(runs: Sequence[RunRow]) -> Figure:
    """Accuracy and loss over the epochs, mean over the seeds of every set-up, the band from lowest to highest."""
    variants = sorted({str(run["label"]) for run in runs})
    measured = pd.concat(
        [curves(Record(run["path"]), METRICS).assign(run=run["path"], variant=str(run["label"])) for run in runs]
    )
    found = dict(list(measured.groupby(["stage", "name"])))
    shown = [c for c in CURVES if c[:2] in found]
    if not shown:
        raise RecordError("none of the runs has learning curves (metrics.csv)")
    lines = -(-len(variants) // 4)
    figure = style.new_figure(style.PAGE if len(shown) > 1 else style.COLUMN, 2.35 + 0.14 * lines)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (stage, name, title, scale) in zip(panels, shown, strict=True):
        values = found[stage, name].assign(value=scale * found[stage, name]["value"])
        for number, variant in enumerate(variants):
            of_variant = values[values["variant"] == variant]
            if of_variant.empty:
                continue
            look = style.series(number)
            epochs = of_variant.groupby("epoch")["value"].agg(mean=lambda v: sum(v) / len(v), low="min", high="max")
            axes.plot(epochs.index, epochs["mean"], **look, markevery=max(1, len(epochs) // 6))
            if of_variant["run"].nunique() > 1:
                band = epochs["low"], epochs["high"]
                axes.fill_between(epochs.index, *band, color=look["color"], alpha=0.15, linewidth=0)
        axes.set_title(title, loc="left")
        axes.set_xlabel("epoch")
        axes.grid(True)
        axes.locator_params(axis="x", integer=True)
    styles = {name: style.series(number) for number, name in enumerate(variants)}
    style.legend_below(figure, styles, min(4, len(variants)), handlelength=3)
    figure.suptitle("Learning curves (mean over seeds; band: lowest to highest)")
    return figure


def receptive_fields(runs: Sequence[RunRow], trust: bool = False) -> Figure:
    """Theoretical and effective receptive fields of trained networks; RecordError where a record has none."""
    from nasbench.networks import load_model
    from nasbench.results import receptive_field as fields

    width = style.COLUMN if len(runs) < 3 else style.PAGE
    figure = style.new_figure(width, 1.5 + width / len(runs))
    panels = figure.subplots(1, len(runs), squeeze=False)[0]
    image: Any = None
    for axes, run in zip(panels, runs, strict=True):
        model, size = load_model(run["path"], trust), int(run["image_size"])
        theory, effect = fields.theoretical(model, size), fields.effective(model, size)
        image = axes.imshow(effect**0.5, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        (top, bottom), (left, right) = ((max(a, 0), min(b, size - 1)) for a, b in (theory.rows, theory.columns))
        for colour, line, thick in (("black", "-", 2.2), ("white", (0, (4, 3)), 1.1)):
            box = Rectangle((left - 0.5, top - 0.5), right - left + 1, bottom - top + 1, fill=False)
            box.set(edgecolor=colour, linestyle=line, linewidth=thick, clip_on=False)
            axes.add_patch(box)
        sees = f"{theory.side} px\n{'(larger than the image)' if theory.side > size else ''}"
        if blocks := len(theory.global_stages):
            sees = f"whole image\n(global in {blocks} block{'s' if blocks > 1 else ''})"
        effective = f"effective: {fields.effective_side(effect):.0f} px"
        ends, words = [0, size // 2, size - 1], f"image column (pixels)\ntheoretical: {sees}\n{effective}"
        axes.set(title=f"{run['label']}\nseed {run['seed']}", xlabel=words, xticks=ends, yticks=ends)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("image row (pixels)")
    bar = figure.colorbar(image, ax=list(panels), location="bottom", shrink=0.6, aspect=30, pad=0.03)
    wrap = "\n" if width == style.COLUMN else " "
    bar.set_label(f"√ of |gradient| of the last map's centre unit (maximum = 1);{wrap}dashed: theoretical field")
    figure.suptitle("Receptive field of the last map's centre unit")
    return figure


def first_of_each(runs: Sequence[RunRow]) -> list[RunRow]:
    """The first run of each set-up."""
    return [members[0] for members in grouped(runs, set_up).values()]


def set_up(run: RunRow) -> tuple[Any, ...]:
    """What runs share that differ in their seeds."""
    return run["protocol"], run["width"], run["label"]


def confusion(run: RunRow) -> Figure:
    """A heat map of what each class's test images were taken for; RecordError: no or damaged counts, or too many."""
    record = Record(run["path"])
    counted = record.confusion()
    printable = [listed([name]).replace("$", r"\$") for name in record.data().class_names]  # which are no formulas
    names = [name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…" for name in printable]
    if not counted:
        raise RecordError(f"{record.path} has no {CONFUSION}")
    if len(names) > MOST_CLASSES:
        raise RecordError(f"{record.path}: {len(names):,} classes are too many to be drawn")
    counts = np.zeros((len(names), len(names)))
    for place, images in counted.items():
        counts[place] = images
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    many = len(names) > MOST_NAMED
    side = style.COLUMN if len(names) <= MOST_IN_COLUMN else style.PAGE
    figure = style.new_figure(side, (0.55 if many else 0.9) * side)
    panels = figure.subplots(1, 2 if many else 1, squeeze=False, width_ratios=[3, 2] if many else [1])[0]
    axes = panels[0]
    # The root: a few images in a hundred are what there is to see beside the diagonal.
    image = style.heat_map(axes, np.sqrt(share), None if many else counts)
    axes.set(xlabel="predicted class", ylabel="true class")
    if many:
        axes.set_title("number of the class", loc="left")
        _worst(panels[1], counts, names)
    else:
        axes.set_title("recall behind the names", loc="left")
        recalls = [f"{100 * share[i, i]:.0f} %" if counts[i].any() else "–" for i in range(len(names))]
        axes.set_yticks(range(len(names)), [f"{n}  {r}" for n, r in zip(names, recalls, strict=True)])
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.tick_params(length=0)
    axes.spines[:].set_visible(True)
    bar = figure.colorbar(image, ax=axes, shrink=0.7, aspect=30, pad=0.02)
    shares = [0, 1, 5, 25, 50, 100]
    bar.set_ticks([(s / 100) ** 0.5 for s in shares], labels=[str(s) for s in shares])
    bar.set_label("share of the class's test images (%)")
    bar.outline.set_linewidth(0.5)
    accuracy = f"top-1 {100 * run['top1']:.1f} %, balanced {100 * share.diagonal()[counts.any(1)].mean():.1f} %"
    figure.suptitle(f"{run['label']} on {run['dataset']}, seed {run['seed']}: {accuracy}")
    return figure


def _worst(axes: Axes, counts: Any, names: Sequence[str]) -> None:
    """The most frequent confusions by name, as bars."""
    wrong = counts * (1 - np.eye(len(names)))
    order = [i for i in np.argsort(-wrong, axis=None, kind="stable")[:WORST] if wrong.flat[i]]
    pairs = [divmod(int(i), len(names)) for i in order]
    axes.barh(range(len(pairs)), [wrong[pair] for pair in pairs], color="#0072B2", height=0.7)
    axes.set_yticks(range(len(pairs)), [f"{a} {names[a]} → {b} {names[b]}" for a, b in pairs])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", integer=True, nbins=5)
    axes.set_xlabel("test images")
    axes.set_title("most often taken for another class", loc="right")


OF_RUN: dict[str, Callable[[RunRow], Figure]] = {"alphas": alphas, "trials": trials, "confusion": confusion}
OF_ALL: dict[str, Callable[[Sequence[RunRow]], Figure]] = {
    **{"architecture": architecture, "tradeoff": tradeoff, "pareto": pareto, "curves": learning_curves}
}
