from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Printed:
    """A row as a paper prints it, with misprints."""

    top1: float  # fraction
    top5: float | None = None  # fraction, `None` where the table has no such column
    params: float | None = None  # number of parameters
    madds: float | None = None  # multiply-adds (the paper's Table 4 calls them FLOPs)
    digits: int | None = None  # decimals to which `params` was printed, in millions


@dataclass(frozen=True)
class Paper:
    """Where a table is printed."""

    title: str  # its name there, e.g. `Table 3`
    name: str  # what readers call the paper
    source: str  # the paper's authors, title, place and year
    setting: str  # what its numbers were measured on


@dataclass(frozen=True)
class RowSpec:
    """One row of a table."""

    key: str  # its name within the table
    title: str  # what a reader sees
    # `RunConfig` fields that train it, over whatever else a run is given; the space is one of them.
    settings: Mapping[str, Any]
    label: str  # of its runs, see `nasbench.record.Result`: all that matters of the settings but the width
    baseline: str  # key of the row to which its difference is taken
    marks: tuple[str, ...] = ()  # what is ticked in its columns, e.g. `("Local",)`
    printed: Printed | None = None  # what the table's paper says of it; `None` where the row is ours

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
    paper: Paper | None = None  # that prints the table; its rows stand beside ours
    notes: tuple[str, ...] = ()  # said below the table

    @property
    def title(self) -> str:
        """What readers call it: its name in the paper, else its own."""
        return self.name if self.paper is None else self.paper.title

    @property
    def marks(self) -> tuple[str, ...]:
        """What is ticked in any row."""
        return tuple(dict.fromkeys(mark for row in self.rows for mark in row.marks))
