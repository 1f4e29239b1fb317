"""What each row of the papers' tables is: the run that trains it, and how to know such a run again.

This is the one place that knows the options of the space and the strategies by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nasbench.errors import OptionError, unknown
from nasbench.results.collect import SPACE_DEFAULTS, architecture_of, candidates_name, option
from nasbench.results.papers import NOTES, PRINTED, Printed

SPACE = "mbv2_metapool"
ABLATION = ("none", "avg3", "global")  # what the space calls `ablation`
UNIFORM = {"local": "avg3"}  # named architectures with one candidate everywhere
FIRST_GLOBAL_BLOCK = 9  # of the named architecture `paper`
IDENTITY = ("order", "trials")  # options, 1 by default, that make another row of a searched network
BLOCK = re.compile(r"block(\d+)\.")
TICKS = ("No", "Local", "Global", "Random", "PMPL")


@dataclass(frozen=True)
class RowSpec:
    """One row of a table.

    Attributes:
        key: its name within the table, the same as in `papers`.
        label: what a reader sees.
        overrides: `RunConfig` fields that train it, over whatever else a run is given.
        baseline: key of the row to which its difference is taken.
        marks: Table 3's ticks.
        ours: whether the paper has no such row.
    """

    key: str
    label: str
    overrides: Mapping[str, Any]
    baseline: str
    marks: tuple[str, ...] = ()
    ours: bool = False

    def match(self, run: Mapping[str, Any]) -> bool:
        """Whether a row of the collected frame is a run of this row."""
        space, strategy = self.overrides["space_options"], self.overrides["strategy_options"]
        if (run["space"], run["strategy"]) != (self.overrides["space"], self.overrides["strategy"]):
            return False
        if run["strategy"] == "fixed":
            alike = _chosen(strategy["choice"], architecture_of(run))
        else:
            alike = _members(run["candidates"]) == _members(space["candidates"])
            alike &= all((option(run, f"strategy_options.{name}") or 1) == strategy.get(name, 1) for name in IDENTITY)
        if not alike:
            return False
        defaults = SPACE_DEFAULTS[SPACE]
        given = {name.removeprefix("space_options.") for name in run if name.startswith("space_options.")}
        for name in (given | set(space)) - {"candidates", "width"}:
            value = option(run, f"space_options.{name}")
            default = defaults.get(name)
            if (default if value is None else value) != space.get(name, default):
                return False
        return "width" not in space or run["width"] == space["width"]


@dataclass(frozen=True)
class TableSpec:
    """One of the paper's tables.

    Attributes:
        name: `table1` … `table4`.
        caption: what the table shows.
        rows: in order; rows that are ours come last.
        groups: keys of rows before which a rule is drawn.
        widths: whether the rows say the network's width (else all runs of a table share one).
        top5: whether the paper gives top-5.
        digits: decimals of the printed percentages.
        notes: said below the table.
    """

    name: str
    caption: str
    rows: tuple[RowSpec, ...]
    groups: tuple[str, ...] = ()
    widths: bool = False
    top5: bool = False
    digits: int = 1
    notes: tuple[str, ...] = field(default=())

    @property
    def printed(self) -> Mapping[str, Printed]:
        """The paper's own rows by key."""
        return PRINTED[self.name]

    @property
    def costs(self) -> bool:
        """Whether the paper gives parameters and multiply-adds."""
        return any(row.params is not None for row in self.printed.values())


def spec(name: str) -> TableSpec:
    """The specification of a table.

    Raises:
        OptionError: there is no such table.
    """
    if name not in TABLES:
        raise OptionError(unknown("table", name, TABLES))
    return TABLES[name]


def _chosen(choice: str, architecture: Mapping[str, Any]) -> bool:
    if choice != "paper":
        return set(architecture.values()) == {UNIFORM.get(choice, choice)}
    blocks = {label: BLOCK.match(label) for label in architecture}
    return all(
        found is not None and architecture[label] == ("global" if int(found.group(1)) >= FIRST_GLOBAL_BLOCK else "none")
        for label, found in blocks.items()
    )


def _members(candidates: Any) -> set[str]:
    name = candidates_name(candidates) or ""
    return set(ABLATION) if name == "ablation" else set(name.split("+"))


def _run(strategy: str, options: Mapping[str, Any] | None = None, **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": space, "strategy": strategy, "strategy_options": dict(options or {})}


def _fixed(choice: str, candidates: str = "ablation", **space: Any) -> dict[str, Any]:
    return _run("fixed", {"choice": choice}, candidates=candidates, **space)


POOLS = {
    "skip": "Skip",
    "max": "MaxPool",
    "average": "AveragePool",
    "blur": "BlurPool",
    "dpp": "DPP",
    "gated": "GatedPool",
    "gaussian": "GaussPool",
    "liftdown": "LiftDownPool",
}
TABLE1 = TableSpec(
    "table1",
    "Pooling in MobileNetV2. The first eight replace the stride of the four down-sampling depthwise convolutions "
    "(a stride-1 convolution, then the pool); Meta-Pooling enhances every block of the network with its own strides.",
    (
        *(RowSpec(key, label, _fixed("none", downsampling=key), "skip") for key, label in POOLS.items()),
        RowSpec("meta", "Meta-Pooling", _run("pmpl", candidates="full"), "skip"),
    ),
    top5=True,
    digits=2,
    notes=NOTES["table1"],
)
# LiftDownPool is left out: it exists as down-sampling only.
TABLE1_ENHANCER = TableSpec(
    "table1",
    "Pooling in MobileNetV2, here placed as the enhancer of every block on the expanded features, at stride 1 over "
    "3×3 windows; all networks keep their own strides.",
    (
        *(
            RowSpec(key, label, _fixed(key, f"none,{key}") if key != "skip" else _fixed("none"), "skip")
            for key, label in POOLS.items()
            if key != "liftdown"
        ),
        RowSpec("meta", "Meta-Pooling", _run("pmpl", candidates="full"), "skip"),
    ),
    top5=True,
    digits=2,
    notes=(
        "The printed figures are of the paper's Table 1, which does not say where the pooling stands.",
        "LiftDownPool has no form that keeps the size.",
        *NOTES["table1"],
    ),
)
TABLE2 = TableSpec(
    "table2",
    "Attention and Meta-Pooling in MobileNetV2 at three widths; SE and CBAM on the expanded features, reduction 24.",
    tuple(
        RowSpec(f"{key} {width:g}" if width != 1 else f"{key} 1.0", f"{label}, width {width:g}", overrides, base)
        for width in (1.0, 0.75, 0.5)
        for base in ["none 1.0" if width == 1 else f"none {width:g}"]
        for key, label, overrides in (
            ("none", "no enhancer", _fixed("none", width=width)),
            ("se", "SE", _fixed("se", "none,se", width=width)),
            ("cbam", "CBAM", _fixed("cbam", "none,cbam", width=width)),
            ("meta", "Meta-Pooling", _fixed("paper", width=width)),
        )
    ),
    groups=("none 0.75", "none 0.5"),
    widths=True,
    notes=("Meta-Pooling is the architecture named paper: blocks 9–17 global, the others without.", *NOTES["table2"]),
)
TABLE3 = TableSpec(
    "table3",
    "Ablation of the enhancer in MobileNetV2; the candidates of every row are no, local (avg3) and global pooling.",
    (
        RowSpec("none", "no enhancer", _fixed("none"), "none", ("No",)),
        RowSpec("local", "local everywhere", _fixed("local"), "none", ("Local",)),
        RowSpec("global", "global everywhere", _fixed("global"), "none", ("Global",)),
        RowSpec("random", "all three, random", _run("random", candidates="ablation"), "none", (*TICKS[:3], "Random")),
        RowSpec("pmpl", "all three, PMPL", _run("pmpl", candidates="ablation"), "none", (*TICKS[:3], "PMPL")),
        *(
            RowSpec(
                f"darts{order}",
                f"all three, DARTS {text} order",
                _run("darts", {"order": order}, candidates="ablation"),
                "none",
                TICKS[:3],
                ours=True,
            )
            for order, text in ((1, "first"), (2, "second"))
        ),
    ),
    groups=("darts1",),
    notes=NOTES["table3"],
)
TABLE4 = TableSpec(
    "table4",
    "Attention modules in MobileNetV2; SE and CBAM on the block's output with reduction 8, SK in place of the "
    "depthwise 3×3, CoordAttention and Meta-Pooling on the expanded features.",
    (
        RowSpec("none", "no enhancer", _fixed("none"), "none"),
        RowSpec("se", "SE", _fixed("se", "none,se", position="output", attention_reduction=8), "none"),
        RowSpec("cbam", "CBAM", _fixed("cbam", "none,cbam", position="output", attention_reduction=8), "none"),
        RowSpec("sk", "SK", _fixed("none", depthwise="sk"), "none"),
        RowSpec("coord", "CoordAttention", _fixed("coord", "none,coord"), "none"),
        RowSpec("meta", "Meta-Pooling", _fixed("paper"), "none"),
    ),
    top5=True,
    notes=("Meta-Pooling is the architecture named paper: blocks 9–17 global, the others without.", *NOTES["table4"]),
)
TABLES = {
    "table1": TABLE1,
    "table1-enhancer": TABLE1_ENHANCER,
    "table2": TABLE2,
    "table3": TABLE3,
    "table4": TABLE4,
}
