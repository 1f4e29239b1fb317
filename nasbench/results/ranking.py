"""How well scores put networks into the order of their accuracies."""

import warnings
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata, spearmanr

from nasbench.results.cells import Cell, Column, Table
from nasbench.results.style import PAGE, new_figure, series

Values = NDArray[np.float64]
TOP = 0.1  # share of the networks that counts as the best
DRAWS = 1000  # of the bootstrap
COLUMNS = (
    *(Column("score", "score"), Column("tau", "Kendall τ", "count", 2), Column("low", "from", "count", 2)),
    *(Column("high", "to", "count", 2), Column("rho", "Spearman ρ", "count", 2)),
    *(Column("recall", "best found (%)", "percent", 0), Column("seconds", "ms a network", "count", 1)),
)
NOTES = (
    "Kendall's τ-b with its 95 % interval (percentiles of 1,000 draws of networks with replacement). Best found: of "
    "the most accurate tenth, the share that is among the highest tenth of scores; 10 % by chance.",
)


def table(title: str, scores: Mapping[str, Values], accuracy: Values, seconds: Mapping[str, float]) -> Table:
    """A row a score, the best first: `scores` and `accuracy` are (networks,), `seconds` those of all networks."""
    rng, count = np.random.default_rng(0), len(accuracy)
    drawn = rng.integers(0, count, (DRAWS, count))
    top = max(1, round(TOP * count))
    best = set(np.argsort(-accuracy, kind="stable")[:top])
    rows = []
    for name, values in scores.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a draw, or a score, of equal numbers has no τ
            tau, rho = kendalltau(values, accuracy).statistic, spearmanr(values, accuracy).statistic
            low, high = np.nanquantile([kendalltau(values[d], accuracy[d]).statistic for d in drawn], (0.025, 0.975))
        recall = len(best & set(np.argsort(-values, kind="stable")[:top])) / top
        numbers = {"tau": tau, "low": low, "high": high, "rho": rho, "recall": recall}
        cells = {key: Cell(float(value) if np.isfinite(value) else None) for key, value in numbers.items()}
        rows.append({"score": Cell(name), **cells, "seconds": Cell(1000 * seconds[name] / count)})
    rows.sort(key=lambda row: -float(row["tau"].value or 0))
    return Table("rank", f"{title}: {count} networks at random.", COLUMNS, tuple(rows), NOTES)


def figure(title: str, scores: Mapping[str, Values], accuracy: Values) -> Figure:
    """Accuracy against the rank of every score, one panel each."""
    across = min(3, len(scores))
    down = -(-len(scores) // across)
    drawn = new_figure(PAGE, 0.4 + 1.7 * down)
    panels = drawn.subplots(down, across, sharey=True, squeeze=False).flat
    for (name, values), axes in zip(scores.items(), panels, strict=False):
        axes.plot(rankdata(values), 100 * accuracy, **{**series(2), "linestyle": "", "marker": ".", "markersize": 3})
        axes.set_xlim(0, len(values) + 1)
        axes.set_title(name, loc="left")
    for axes in list(panels):
        axes.set_axis_off()
    drawn.supxlabel("rank of the score, the highest last", fontsize="medium")
    drawn.supylabel("accuracy (%)", fontsize="medium")
    drawn.suptitle(title, fontsize="medium")
    return drawn
