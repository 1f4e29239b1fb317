from collections.abc import Mapping
from textwrap import wrap

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from nasbench.results.cells import Cell, Column, Table
from nasbench.results.statistics import exact, mean
from nasbench.results.style import COLUMN, SETTINGS, legend_below, new_figure, series

LONGEST = 52  # characters of a name that a line of the legend holds
FOUND = 1e-9  # regret below which the best network is found
NOTES = (
    "Regret: what the best network so far lacks in final accuracy to the best of all, mean ± 95 % interval over seeds. "
    "Found: share of the seeds, with its exact 95 % interval (Clopper and Pearson).",
)


def table(title: str, found: Mapping[str, NDArray[np.float64]]) -> Table:
    """Regret of strategies, each (seeds, trials) as fractions, after a tenth, a quarter, half and all of the trials."""
    trials = next(iter(found.values())).shape[1]
    marks = sorted({max(1, trials * tenths // 20) for tenths in (2, 5, 10, 20)})
    columns = [Column("strategy", "strategy"), Column("seeds", "seeds", "count")]
    columns += [Column(f"after{n}", f"after {n}", "percent") for n in marks]
    columns += [Column("worst", "worst seed", "percent"), Column("best", "found (%)", "percent", 0)]
    columns += [Column("low", "from (%)", "percent", 0), Column("high", "to (%)", "percent", 0)]
    rows = []
    for name, regret in found.items():
        cells = {"strategy": Cell(name), "seeds": Cell(len(regret)), "worst": Cell(float(regret[:, -1].max()))}
        for n in marks:
            estimate = mean(list(regret[:, n - 1]))
            cells[f"after{n}"] = Cell(estimate.value, estimate.half, len(regret))
        share = float((regret[:, -1] < FOUND).mean())
        low, high = exact(share, len(regret))
        rows.append(cells | {"best": Cell(share), "low": Cell(low), "high": Cell(high)})
    return Table(
        "regret",
        f"{title}: regret in points after so many networks.",
        tuple(columns),
        tuple(rows),
        NOTES,
    )


def figure(title: str, found: Mapping[str, NDArray[np.float64]]) -> Figure:
    """Median regret against the networks that were tried, with the band that holds 80 % of the seeds."""
    names = {name: "\n".join(wrap(", ".join(map(str.strip, name.split(","))), LONGEST)) for name in found}
    columns = 2 if all(len(name) <= LONGEST // 2 for name in found) else 1
    lines = sum(name.count("\n") + 1 for name in names.values())
    with matplotlib.rc_context(fname=SETTINGS):
        drawn = new_figure(COLUMN, 2.6 + 0.28 * lines / columns)
        axes = drawn.subplots()
        styles = {name: {**series(number), "marker": ""} for number, name in enumerate(found)}
        for name, regret in found.items():
            low, middle, high = 100 * np.quantile(regret, (0.1, 0.5, 0.9), axis=0)
            steps = np.arange(1, len(middle) + 1)
            axes.plot(steps, middle, **styles[name])
            axes.fill_between(steps, low, high, color=styles[name]["color"], alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_yscale("symlog", linthresh=0.1)
        axes.set_ylim(bottom=0)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.set_xlabel("networks tried")
        axes.set_ylabel("regret (points)")
        axes.set_title(title, loc="left")
        legend_below(drawn, {names[name]: style for name, style in styles.items()}, columns)
    return drawn
