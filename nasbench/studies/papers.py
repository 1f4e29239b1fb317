"""The papers' numbers as printed, with misprints (see `NOTES`): accuracies as fractions, counts as plain numbers."""

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


def _row(top1: float, top5: float | None = None, params: str = "", madds: float | None = None) -> Printed:
    """A row from percentages, and millions of parameters and multiply-adds."""
    first, second = round(top1 / 100, 6), None if top5 is None else round(top5 / 100, 6)
    if not params or madds is None:
        return Printed(first, second)
    return Printed(first, second, round(float(params) * 1e6), round(madds * 1e6), len(params.partition(".")[2]))


TABLE1 = {
    "skip": _row(71.34, 90.30),
    "max": _row(71.35, 90.18),
    "average": _row(71.68, 90.28),
    "blur": _row(69.42, 88.74),
    "dpp": _row(70.15, 89.47),
    "gated": _row(71.06, 90.10),
    "gaussian": _row(72.87, 91.08),
    "liftdown": _row(73.91, 91.78),
    "meta": _row(74.60, 91.81),
}
TABLE2 = {
    "none 1.0": _row(72.3, None, "3.50", 300),
    "se 1.0": _row(73.5, None, "3.89", 300),
    "cbam 1.0": _row(73.6, None, "3.89", 300),
    "meta 1.0": _row(74.6, None, "3.91", 320),
    "none 0.75": _row(69.9, None, "2.5", 200),
    "se 0.75": _row(71.5, None, "2.86", 210),
    "cbam 0.75": _row(71.5, None, "2.86", 210),
    "meta 0.75": _row(71.8, None, "2.86", 210),
    "none 0.5": _row(65.4, None, "2.0", 100),
    "se 0.5": _row(66.4, None, "2.1", 100),
    "cbam 0.5": _row(66.4, None, "2.1", 100),
    "meta 0.5": _row(66.9, None, "2.1", 100),
}
TABLE3 = {
    "none": _row(72.3),
    "local": _row(71.6),
    "global": _row(74.3),
    "random": _row(73.4),
    "pmpl": _row(74.6),
}
TABLE4 = {
    "none": _row(72.3, 90.0, "3.50", 320),
    "se": _row(73.5, 90.5, "3.56", 320),
    "cbam": _row(73.6, 90.5, "3.57", 320),
    "sk": _row(74.1, 91.8, "5.28", 350),
    "coord": _row(74.3, 91.9, "3.95", 330),
    "meta": _row(74.6, 91.8, "3.91", 320),
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
