"""The tables of the Meta-Pooling paper: the runs that train each row."""

from collections.abc import Mapping
from typing import Any

from nasbench.studies.papers import NOTES, PRINTED
from nasbench.studies.rows import RowSpec, TableSpec

SPACE = "mbv2_metapool"
LEAD = {"fixing": "lead"}  # the paper's rule
TICKS = ("No", "Local", "Global", "Random", "PMPL")


def _searched(strategy: str, options: Mapping[str, Any] | None = None, **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": space, "strategy": strategy, "strategy_options": dict(options or {})}


def _given(architecture: str, candidates: str = "ablation", **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": {"candidates": candidates, **space}, "architecture": architecture}


def _all_three(
    key: str, title: str, strategy: str, options: Mapping[str, Any], label: str, tick: str | None = None
) -> RowSpec:
    """A row of Table 3 whose search has all candidates; ours where the paper's has no tick."""
    settings = _searched(strategy, options, candidates="ablation")
    marks = (*TICKS[:3], tick) if tick else TICKS[:3]
    return RowSpec(key, f"all three, {title}", settings, f"{label} (ablation)", "none", marks, ours=tick is None)


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
META = RowSpec("meta", "Meta-Pooling", _searched("pmpl", LEAD, candidates="full"), "pmpl (full)", "skip")
TABLE1 = TableSpec(
    "table1",
    "Pooling in MobileNetV2. The first eight replace the stride of the four down-sampling depthwise convolutions "
    "(a stride-1 convolution, then the pool); Meta-Pooling enhances every block of the network with its own strides.",
    (
        *(
            RowSpec(key, title, _given("none", downsampling=key), f"none downsampling {key}", "skip")
            for key, title in POOLS.items()
        ),
        META,
    ),
    top5=True,
    digits=2,
    printed=PRINTED[1],
    notes=NOTES[1],
)
# LiftDownPool is left out: it exists as down-sampling only.
TABLE1_ENHANCER = TableSpec(
    "table1-enhancer",
    "Pooling in MobileNetV2, here placed as the enhancer of every block on the expanded features, at stride 1 over "
    "3×3 windows; all networks keep their own strides.",
    (
        RowSpec("skip", POOLS["skip"], _given("none"), "none", "skip"),
        *(
            RowSpec(key, title, _given(key, f"none,{key}"), key, "skip")
            for key, title in POOLS.items()
            if key not in ("skip", "liftdown")
        ),
        META,
    ),
    top5=True,
    digits=2,
    printed=PRINTED[1],
    notes=(
        "The printed figures are of the paper's Table 1, which does not say where the pooling stands.",
        "LiftDownPool has no form that keeps the size.",
        *NOTES[1],
    ),
)
TABLE2 = TableSpec(
    "table2",
    "Attention and Meta-Pooling in MobileNetV2 at three widths; SE and CBAM on the expanded features, reduction 24.",
    tuple(
        RowSpec(f"{key} {shown}", f"{title}, width {width:g}", settings, label, f"none {shown}")
        for width, shown in ((1.0, "1.0"), (0.75, "0.75"), (0.5, "0.5"))
        for key, title, settings, label in (
            ("none", "no enhancer", _given("none", width=width), "none"),
            ("se", "SE", _given("se", "none,se", width=width), "se"),
            ("cbam", "CBAM", _given("cbam", "none,cbam", width=width), "cbam"),
            ("meta", "Meta-Pooling", _given("paper", width=width), "paper"),
        )
    ),
    groups=("none 0.75", "none 0.5"),
    widths=True,
    printed=PRINTED[2],
    notes=("Meta-Pooling is the architecture named paper: blocks 9–17 global, the others without.", *NOTES[2]),
)
TABLE3 = TableSpec(
    "table3",
    "Ablation of the enhancer in MobileNetV2; the candidates of every row are no, local (avg3) and global pooling.",
    (
        RowSpec("none", "no enhancer", _given("none"), "none", "none", ("No",)),
        RowSpec("local", "local everywhere", _given("local"), "avg3", "none", ("Local",)),
        RowSpec("global", "global everywhere", _given("global"), "global", "none", ("Global",)),
        _all_three("random", "random", "random", {}, "random", "Random"),
        _all_three("pmpl", "PMPL", "pmpl", LEAD, "pmpl", "PMPL"),
        _all_three("evidence", "PMPL by evidence", "pmpl", {"fixing": "evidence"}, "pmpl by evidence"),
        _all_three("darts1", "DARTS first order", "darts", {"order": 1}, "darts order 1"),
        _all_three("darts2", "DARTS second order", "darts", {"order": 2}, "darts order 2"),
    ),
    groups=("evidence",),
    printed=PRINTED[3],
    notes=NOTES[3],
)
_OUTPUT = {"position": "output", "attention_reduction": 8}
TABLE4 = TableSpec(
    "table4",
    "Attention modules in MobileNetV2; SE and CBAM on the block's output with reduction 8, SK in place of the "
    "depthwise 3×3, CoordAttention and Meta-Pooling on the expanded features.",
    (
        RowSpec("none", "no enhancer", _given("none"), "none", "none"),
        RowSpec("se", "SE", _given("se", "none,se", **_OUTPUT), "se at output", "none"),
        RowSpec("cbam", "CBAM", _given("cbam", "none,cbam", **_OUTPUT), "cbam at output", "none"),
        RowSpec("sk", "SK", _given("none", depthwise="sk"), "none depthwise sk", "none"),
        RowSpec("coord", "CoordAttention", _given("coord", "none,coord"), "coord", "none"),
        RowSpec("meta", "Meta-Pooling", _given("paper"), "paper", "none"),
    ),
    top5=True,
    printed=PRINTED[4],
    notes=("Meta-Pooling is the architecture named paper: blocks 9–17 global, the others without.", *NOTES[4]),
)
TABLES = {table.name: table for table in (TABLE1, TABLE1_ENHANCER, TABLE2, TABLE3, TABLE4)}
