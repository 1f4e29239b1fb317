"""A table as data: every format is a rendering of this."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from nasbench.errors import OptionError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["text", "percent", "points", "millions", "count", "seconds", "bytes", "tick"]
Value = str | float | int | bool | None
MISSING = "–"
# What multiplies a stored value for the reader: accuracies are stored as fractions, sizes as plain numbers.
SCALE = {"percent": 100.0, "points": 100.0, "millions": 1e-6, "bytes": 2.0**-20}
DIGITS = {"percent": 2, "points": 2, "millions": 2, "seconds": 1}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in data formats.
        header: its name for readers, with the unit.
        kind: what its values are: `percent` and `points` hold fractions, `millions` plain counts, `seconds`, `bytes`.
        digits: decimals; the kind's own where `None`.
    """

    key: str
    header: str
    kind: Kind = "text"
    digits: int | None = None


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        value: as stored, see `Column.kind`; `None` is shown as `–`.
        half: half the width of the 95 % confidence interval, in the value's unit.
        n: runs behind the value.
        marks: `best`, `baseline`, or `welch` (an interval that is not paired by seed).
        digits: decimals for the reader, where they are not the column's.
    """

    value: Value = None
    half: float | None = None
    n: int | None = None
    marks: tuple[str, ...] = ()
    digits: int | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: short, for files.
        caption: what it shows.
        columns: in order.
        rows: key of the column → cell; an absent cell is an empty one.
        notes: below the table.
        rules: numbers of the rows before which a rule is drawn.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Cell], ...]
    notes: tuple[str, ...] = ()
    rules: tuple[int, ...] = field(default=())

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
            if any(c.half is not None for c in cells):
                columns[f"{column.key}_half"] = [c.half for c in cells]
            if any(c.n is not None for c in cells):
                columns[f"{column.key}_n"] = [c.n for c in cells]
            if any(c.marks for c in cells):
                columns[f"{column.key}_marks"] = [" ".join(c.marks) or None for c in cells]
        return typed_frame(columns)

    def json(self) -> str:
        """Everything, as JSON that `table_from_json` turns back into an equal table."""
        content = {**asdict(self), "rows": [{k: asdict(c) for k, c in row.items()} for row in self.rows]}
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def typed_frame(columns: Mapping[str, list[Any]]) -> pd.DataFrame:
    """A frame whose columns have the types of their values, with `None` as the missing value of each type."""
    import pandas as pd

    empty = [key for key, values in columns.items() if all(v is None for v in values)]
    return pd.DataFrame(dict(columns)).astype(dict.fromkeys(empty, "float64")).convert_dtypes()


def table_from_json(content: str) -> Table:
    """The table that `Table.json` wrote.

    Raises:
        OptionError: it is not one.
    """
    try:
        read = json.loads(content)
        columns = tuple(Column(**column) for column in read["columns"])
        if any(column.kind not in get_args(Kind) for column in columns):
            raise ValueError("unknown kind of column")
        rows = tuple(
            {key: Cell(**{**cell, "marks": tuple(cell["marks"])}) for key, cell in row.items()} for row in read["rows"]
        )
        notes, rules = tuple(read["notes"]), tuple(read["rules"])
        return Table(read["name"], read["caption"], columns, rows, notes, rules)
    except (ValueError, KeyError, TypeError) as e:
        raise OptionError(f"this is not a table that `nasbench table --format json` wrote: {e!r}") from e


def text(column: Column, cell: Cell) -> str:
    """A cell for a reader: `94.12 ± 0.35`, `baseline`, `✓`, or `–` where there is nothing."""
    if column.kind == "tick":
        return "✓" if cell.value else ""
    if cell.value is None:
        return MISSING
    if "baseline" in cell.marks:
        return "baseline"
    if column.kind == "text" or not isinstance(cell.value, (int, float)):
        return str(cell.value)
    digits = next(d for d in (cell.digits, column.digits, DIGITS.get(column.kind, 0)) if d is not None)
    scale = SCALE.get(column.kind, 1.0)
    number = _number(cell.value * scale, digits, "+" if column.kind == "points" else "")
    if cell.half is not None:
        number += f" ± {_number(cell.half * scale, digits)}"
    return number + (" w" if "welch" in cell.marks else "")


def _number(value: float, digits: int, sign: str = "") -> str:
    return f"{round(value, digits) + 0.0:{sign},.{digits}f}".replace("-", "−")  # + 0.0: no negative zero
