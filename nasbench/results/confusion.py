from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nasbench.errors import RecordError, listed
from nasbench.record import CONFUSION, Record
from nasbench.results.collect import RunRow
from nasbench.results.style import COLUMN, PAGE, heat_map, new_figure

MOST_IN_COLUMN = 12  # classes in a column of print
MOST_NAMED = 30  # classes that are named, and whose cells have numbers; of more, the most frequent confusions are
MOST_CLASSES = 2000
LONGEST_NAME = 18  # characters
WORST = 20  # confusions by name


def confusion(run: RunRow) -> Figure:
    """A heat map of what each class's test images were taken for; RecordError: no or damaged counts, or too many."""
    record = Record(run["path"])
    counted, names = record.confusion(), [_short(name) for name in record.data().class_names]
    if not counted:
        raise RecordError(f"{record.path} has no {CONFUSION}")
    if len(names) > MOST_CLASSES:
        raise RecordError(f"{record.path}: {len(names):,} classes are too many to be drawn")
    counts = np.zeros((len(names), len(names)))
    for place, images in counted.items():
        counts[place] = images
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    many = len(names) > MOST_NAMED
    side = COLUMN if len(names) <= MOST_IN_COLUMN else PAGE
    figure = new_figure(side, (0.55 if many else 0.9) * side)
    panels = figure.subplots(1, 2 if many else 1, squeeze=False, width_ratios=[3, 2] if many else [1])[0]
    axes = panels[0]
    # The root: a few images in a hundred are what there is to see beside the diagonal.
    image = heat_map(axes, np.sqrt(share), None if many else counts)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
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


def _short(name: str) -> str:
    printable = listed([name]).replace("$", r"\$")  # which are no formulas
    return printable if len(printable) <= LONGEST_NAME else f"{printable[: LONGEST_NAME - 1]}…"
