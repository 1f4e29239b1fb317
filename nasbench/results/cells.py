from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

Kind = Literal["text", "number", "percent", "points", "millions", "count", "seconds", "bytes", "tick"]
Value = str | float | int | bool | None
MISSING = "–"
# What multiplies a stored value for the reader: accuracies are stored as fractions, sizes as plain numbers.
SCALE = {"percent": 100.0, "points": 100.0, "millions": 1e-6, "bytes": 2.0**-20}
UNITS = {"percent": "%", "points": "points", "millions": "M", "seconds": "s", "bytes": "MiB"}
DIGITS = {"percent": 2, "points": 2, "millions": 2, "seconds": 1}


@dataclass(frozen=True)
class Column:
    """One column."""

    key: str  # its name in data formats
    header: str  # its name for readers, with the unit
    # What its values are: `percent` and `points` hold fractions, `millions` plain counts, `seconds`, `bytes`; a
    # `number` is of any size and shown with the digits that it needs.
    kind: Kind = "text"
    digits: int | None = None  # decimals; the kind's own where `None`

    @property
    def align(self) -> Literal["left", "center", "right"]:
        """On which side its values stand."""
        return "left" if self.kind == "text" else "center" if self.kind == "tick" else "right"


@dataclass(frozen=True)
class Cell:
    """One cell."""

    value: Value = None  # as stored, see `Column.kind`; `None` is shown as `–`
    half: float | None = None  # half the width of the 95 % confidence interval, in the value's unit
    n: int | None = None  # runs behind the value
    marks: tuple[str, ...] = ()  # `best`, `baseline`, or `welch` (an interval that is not paired by seed)
    digits: int | None = None  # decimals for the reader, where they are not the column's
    kind: Kind | None = None  # of the value where it is not the column's; the unit is then shown beside it
    change: bool = False  # whether it is a difference, shown with its sign


@dataclass(frozen=True)
class Table:
    """A table as data: every format is a rendering of this."""

    name: str  # short, for files
    caption: str  # what it shows
    columns: tuple[Column, ...]  # in order
    rows: tuple[Mapping[str, Cell], ...]  # key of the column → cell; an absent cell is an empty one
    notes: tuple[str, ...] = ()  # below the table
    rules: tuple[int, ...] = ()  # numbers of the rows before which a rule is drawn

    def cell(self, row: int, key: str) -> Cell:
        """One cell."""
        return self.rows[row].get(key, Cell())

    def texts(self, row: int) -> list[str]:
        """One row for a reader, without emphasis."""
        return [text(column, self.cell(row, column.key)) for column in self.columns]

    def frame(self) -> pd.DataFrame:
        """The table as flat data: a column each, and `_half`, `_n` and `_marks` beside it where any cell has them."""
        columns: dict[str, list[Any]] = {}
        for column in self.columns:
            cells = [self.cell(i, column.key) for i in range(len(self.rows))]
            columns[column.key] = [c.value for c in cells]
            beside: dict[str, list[Any]] = {"half": [c.half for c in cells], "n": [c.n for c in cells]}
            beside["marks"] = [" ".join(c.marks) or None for c in cells]
            known = {name: values for name, values in beside.items() if any(v is not None for v in values)}
            columns |= {f"{column.key}_{name}": values for name, values in known.items()}
        # Types of their values, with `None` as the missing value of each type.
        empty = [key for key, values in columns.items() if all(v is None for v in values)]
        return pd.DataFrame(columns).astype(dict.fromkeys(empty, "float64")).convert_dtypes()


def text(column: Column, cell: Cell) -> str:
    """A cell for a reader: `94.12 ± 0.35`, `baseline`, `✓`, or `–` where there is nothing."""
    if column.kind == "tick":
        return "✓" if cell.value else ""
    if cell.value is None:
        return MISSING
    if "baseline" in cell.marks:
        return "baseline"
    kind = cell.kind or column.kind
    if kind == "text" or isinstance(cell.value, (str, bool)):
        return str(cell.value)
    digits = cell.digits if cell.digits is not None else column.digits
    shown = number(cell.value, kind, digits, sign=cell.change or kind == "points", unit=cell.kind is not None)
    if cell.half is not None:
        shown += f" ± {number(cell.half, kind, digits)}"
    return shown + (" w" if "welch" in cell.marks else "")


def number(
    value: float, kind: Kind = "number", digits: int | None = None, sign: bool = False, unit: bool = False
) -> str:
    """The one way in which numbers are written for readers; on demand with a sign also if positive, or the unit."""
    plus = "+" if sign else ""
    if kind == "number":
        shown = f"{value:{plus}}" if isinstance(value, int) else f"{value:{plus}g}"
    else:
        decimals = DIGITS.get(kind, 0) if digits is None else digits
        shown = f"{round(value * SCALE.get(kind, 1.0), decimals) + 0.0:{plus},.{decimals}f}"  # + 0.0: no negative zero
    return shown.replace("-", "−") + (f" {UNITS[kind]}" if unit and kind in UNITS else "")
