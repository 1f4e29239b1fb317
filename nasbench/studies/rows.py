from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasbench.studies.papers import PrintedTable


@dataclass(frozen=True)
class RowSpec:
    """One row of a table."""

    key: str  # its name within the table, the same as in `TableSpec.printed`
    title: str  # what a reader sees
    # `RunConfig` fields that train it, over whatever else a run is given; the space is one of them.
    settings: Mapping[str, Any]
    label: str  # of its runs, see `nasbench.record.Result`: all that matters of the settings but the width
    baseline: str  # key of the row to which its difference is taken
    marks: tuple[str, ...] = ()  # what is ticked in its columns, e.g. `("Local",)`
    ours: bool = False  # whether the paper has no such row

    def match(self, run: Mapping[str, Any]) -> bool:
        """Whether a row of the collected frame is a run of this row."""
        width = self.settings.get("space_options", {}).get("width")
        same = (run["space"], run["label"]) == (self.settings["space"], self.label)
        return same and width in (None, run["width"])


@dataclass(frozen=True)
class TableSpec:
    """A table: rows that are trained alike, but for what each row says."""

    name: str  # in the command, e.g. `table3`
    caption: str  # what the table shows
    rows: tuple[RowSpec, ...]  # in order; rows that are ours come last
    groups: tuple[str, ...] = ()  # keys of rows before which a rule is drawn
    widths: bool = False  # whether the rows say the network's width (else all runs of a table share one)
    top5: bool = False  # whether top-5 is shown
    digits: int = 1  # decimals of the printed percentages
    printed: PrintedTable | None = None  # a paper's own rows, to stand beside ours
    notes: tuple[str, ...] = ()  # said below the table

    @property
    def title(self) -> str:
        """What readers call it: its name in the paper, else its own."""
        return self.name if self.printed is None else self.printed.title

    @property
    def marks(self) -> tuple[str, ...]:
        """What is ticked in any row."""
        return tuple(dict.fromkeys(mark for row in self.rows for mark in row.marks))
