"""The numbers that the papers print, to stand beside ours; accuracies as fractions, counts as plain numbers.

They are quoted as printed, misprints included; `NOTES` says what is known to be wrong with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Dong et al., Progressive Meta-Pooling Learning for Lightweight Image Classification Model, ICASSP 2023"
SETTING = "ImageNet, 224×224, 1000 classes, MobileNetV2, 200 epochs"


@dataclass(frozen=True)
class Printed:
    """One printed row."""

    top1: float  # fraction
    top5: float | None = None  # fraction, `None` where the table has no such column
    params: float | None = None  # number of parameters
    madds: float | None = None  # multiply-adds (Table 4 calls them FLOPs)
    digits: int | None = None  # decimals to which `params` was printed, in millions


@dataclass(frozen=True)
class PrintedTable:
    """A table as a paper prints it."""

    title: str  # its name there, e.g. `Table 3`
    paper: str  # what readers call the paper
    source: str  # the paper's authors, title, place and year
    setting: str  # what its numbers were measured on
    rows: Mapping[str, Printed]  # by key

    @property
    def costs(self) -> bool:
        """Whether it gives parameters and multiply-adds."""
        return any(row.params is not None for row in self.rows.values())


def _fraction(percent: float) -> float:
    return round(percent / 100, 6)


def _plain(top1: float, top5: float | None = None) -> Printed:
    return Printed(_fraction(top1), None if top5 is None else _fraction(top5))


def _counted(params: str, madds: float, top1: float, top5: float | None = None) -> Printed:
    digits = len(params.partition(".")[2])
    accuracy = _plain(top1, top5)
    return Printed(accuracy.top1, accuracy.top5, round(float(params) * 1e6), round(madds * 1e6), digits)


TABLE1 = {
    "skip": _plain(71.34, 90.30),
    "max": _plain(71.35, 90.18),
    "average": _plain(71.68, 90.28),
    "blur": _plain(69.42, 88.74),
    "dpp": _plain(70.15, 89.47),
    "gated": _plain(71.06, 90.10),
    "gaussian": _plain(72.87, 91.08),
    "liftdown": _plain(73.91, 91.78),
    "meta": _plain(74.60, 91.81),
}
TABLE2 = {
    "none 1.0": _counted("3.50", 300, 72.3),
    "se 1.0": _counted("3.89", 300, 73.5),
    "cbam 1.0": _counted("3.89", 300, 73.6),
    "meta 1.0": _counted("3.91", 320, 74.6),
    "none 0.75": _counted("2.5", 200, 69.9),
    "se 0.75": _counted("2.86", 210, 71.5),
    "cbam 0.75": _counted("2.86", 210, 71.5),
    "meta 0.75": _counted("2.86", 210, 71.8),
    "none 0.5": _counted("2.0", 100, 65.4),
    "se 0.5": _counted("2.1", 100, 66.4),
    "cbam 0.5": _counted("2.1", 100, 66.4),
    "meta 0.5": _counted("2.1", 100, 66.9),
}
TABLE3 = {
    "none": _plain(72.3),
    "local": _plain(71.6),
    "global": _plain(74.3),
    "random": _plain(73.4),
    "pmpl": _plain(74.6),
}
TABLE4 = {
    "none": _counted("3.50", 320, 72.3, 90.0),
    "se": _counted("3.56", 320, 73.5, 90.5),
    "cbam": _counted("3.57", 320, 73.6, 90.5),
    "sk": _counted("5.28", 350, 74.1, 91.8),
    "coord": _counted("3.95", 330, 74.3, 91.9),
    "meta": _counted("3.91", 320, 74.6, 91.8),
}
PRINTED = {
    number: PrintedTable(f"Table {number}", "the Meta-Pooling paper", SOURCE, SETTING, rows)
    for number, rows in enumerate((TABLE1, TABLE2, TABLE3, TABLE4), 1)
}
NOTES = {
    1: ("The paper's Skip (71.34 %) is the plain network that its Table 3 gives 72.3 %.",),
    2: (
        "At width 0.75 the paper prints +1.8 for Meta-Pooling; 71.8 − 69.9 is +1.9.",
        "The paper's 320 M multiply-adds of Meta-Pooling are not reproduced: blocks 9–17 global, which have its "
        "parameter counts at all three widths, count 305 M.",
        "The paper rounds the parameters of widths 0.75 and 0.5 to 0.1 M in some rows.",
    ),
    3: ("The paper's No (72.3 %) is the plain network that its Table 1 calls Skip, 71.34 %.",),
    4: ("The paper's 0.32 GFLOPs of plain MobileNetV2 are the 300 M multiply-adds of its Table 2.",),
}
