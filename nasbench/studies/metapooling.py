"""The tables of the Meta-Pooling paper: its rows as printed, with misprints, and the runs that train each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from nasbench.studies.rows import Paper, Printed, RowSpec, TableSpec

SPACE = "mbv2_metapool"
ALL = ("No", "Local", "Global")  # candidates, as Table 3 ticks them
SOURCE = "Dong et al., Progressive Meta-Pooling Learning for Lightweight Image Classification Model, ICASSP 2023"
SETTING = "ImageNet, 224×224, 1000 classes, MobileNetV2, 200 epochs"
PAPER = partial(Paper, name="the Meta-Pooling paper", source=SOURCE, setting=SETTING)


def _searched(strategy: str, options: Mapping[str, Any], **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": space, "strategy": strategy, "strategy_options": options}


def _given(architecture: str, candidates: str = "ablation", **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": {"candidates": candidates, **space}, "architecture": architecture}


def _row(key: str, title: str, settings: Mapping[str, Any], label: str, *printed: Any, **more: Any) -> RowSpec:
    """A row, and as printed: top-1 and top-5 in percent, and in millions parameters (as text) and multiply-adds."""
    shares: list[Any] = [None if percent is None else round(percent / 100, 6) for percent in printed[:2]]
    counts = (round(float(millions) * 1e6) for millions in printed[2:])
    digits = (len(params.partition(".")[2]) for params in printed[2:3])
    told = Printed(*shares, *counts, *digits) if printed else None
    return RowSpec(key, title, settings, label, **{"baseline": "none", "printed": told, **more})


def _all(key: str, title: str, label: str, strategy: str, *printed: float, tick: str = "", **options: Any) -> RowSpec:
    """A row of Table 3 whose search has all three candidates."""
    settings, marks = _searched(strategy, options, candidates="ablation"), (*ALL, *filter(None, [tick]))
    return _row(key, f"all three, {title}", settings, f"{label} (ablation)", *printed, marks=marks)


POOLS = {
    "skip": ("Skip", 71.34, 90.30),
    "max": ("MaxPool", 71.35, 90.18),
    "average": ("AveragePool", 71.68, 90.28),
    "blur": ("BlurPool", 69.42, 88.74),
    "dpp": ("DPP", 70.15, 89.47),
    "gated": ("GatedPool", 71.06, 90.10),
    "gaussian": ("GaussPool", 72.87, 91.08),
    "liftdown": ("LiftDownPool", 73.91, 91.78),
}
LEAD = {"fixing": "lead"}  # the paper's rule
FULL = _searched("pmpl", LEAD, candidates="full")
META = _row("meta", "Meta-Pooling", FULL, "pmpl (full)", 74.60, 91.81, baseline="skip")
# What Table 2 prints at each width: top-1, parameters and multiply-adds.
WIDTHS = (1.0, 0.75, 0.5)
ENHANCERS = (
    ("none", "no enhancer", "none", "ablation", (72.3, "3.50", 300), (69.9, "2.5", 200), (65.4, "2.0", 100)),
    ("se", "SE", "se", "none,se", (73.5, "3.89", 300), (71.5, "2.86", 210), (66.4, "2.1", 100)),
    ("cbam", "CBAM", "cbam", "none,cbam", (73.6, "3.89", 300), (71.5, "2.86", 210), (66.4, "2.1", 100)),
    ("meta", "Meta-Pooling", "paper", "ablation", (74.6, "3.91", 320), (71.8, "2.86", 210), (66.9, "2.1", 100)),
)
SKIP_NOTE = "The paper's Skip (71.34 %) is the plain network that its Table 3 gives 72.3 %."
PAPER_NOTE = "Meta-Pooling is the architecture named paper: blocks 9–17 global, the others without."
TABLE1 = TableSpec(
    "table1",
    "Pooling in MobileNetV2. The first eight replace the stride of the four down-sampling depthwise convolutions "
    "(a stride-1 convolution, then the pool); Meta-Pooling enhances every block of the network with its own strides.",
    (
        *(
            _row(key, title, _given("none", downsampling=key), f"none downsampling {key}", *printed, baseline="skip")
            for key, (title, *printed) in POOLS.items()
        ),
        META,
    ),
    top5=True,
    digits=2,
    paper=PAPER("Table 1"),
    notes=(SKIP_NOTE,),
)
# LiftDownPool is left out: it exists as down-sampling only.
TABLE1_ENHANCER = TableSpec(
    "table1-enhancer",
    "Pooling in MobileNetV2, here placed as the enhancer of every block on the expanded features, at stride 1 over "
    "3×3 windows; all networks keep their own strides.",
    (
        _row("skip", POOLS["skip"][0], _given("none"), "none", *POOLS["skip"][1:], baseline="skip"),
        *(
            _row(key, title, _given(key, f"none,{key}"), key, *printed, baseline="skip")
            for key, (title, *printed) in POOLS.items()
            if key not in ("skip", "liftdown")
        ),
        META,
    ),
    top5=True,
    digits=2,
    paper=PAPER("Table 1"),
    notes=(
        "The printed figures are of the paper's Table 1, which does not say where the pooling stands.",
        "LiftDownPool has no form that keeps the size.",
        SKIP_NOTE,
    ),
)
TABLE2 = TableSpec(
    "table2",
    "Attention and Meta-Pooling in MobileNetV2 at three widths; SE and CBAM on the expanded features, reduction 24.",
    tuple(
        _row(
            *(f"{key} {width}", f"{title}, width {width:g}", _given(name, candidates, width=width), name),
            *(printed[number][0], None, *printed[number][1:]),
            baseline=f"none {width}",
        )
        for number, width in enumerate(WIDTHS)
        for key, title, name, candidates, *printed in ENHANCERS
    ),
    groups=("none 0.75", "none 0.5"),
    widths=True,
    paper=PAPER("Table 2"),
    notes=(
        PAPER_NOTE,
        "At width 0.75 the paper prints +1.8 for Meta-Pooling; 71.8 − 69.9 is +1.9.",
        "The paper's 320 M multiply-adds of Meta-Pooling are not reproduced: blocks 9–17 global, which have its "
        "parameter counts at all three widths, count 305 M.",
        "The paper rounds the parameters of widths 0.75 and 0.5 to 0.1 M in some rows.",
    ),
)
TABLE3 = TableSpec(
    "table3",
    "Ablation of the enhancer in MobileNetV2; the candidates of every row are no, local (avg3) and global pooling.",
    (
        _row("none", "no enhancer", _given("none"), "none", 72.3, marks=("No",)),
        _row("local", "local everywhere", _given("local"), "avg3", 71.6, marks=("Local",)),
        _row("global", "global everywhere", _given("global"), "global", 74.3, marks=("Global",)),
        _all("random", "random", "random", "random", 73.4, tick="Random"),
        _all("pmpl", "PMPL", "pmpl", "pmpl", 74.6, tick="PMPL", **LEAD),
        _all("evidence", "PMPL by evidence", "pmpl by evidence", "pmpl", fixing="evidence"),
        _all("darts1", "DARTS first order", "darts order 1", "darts", order=1),
        _all("darts2", "DARTS second order", "darts order 2", "darts", order=2),
    ),
    groups=("evidence",),
    paper=PAPER("Table 3"),
    notes=("The paper's No (72.3 %) is the plain network that its Table 1 calls Skip, 71.34 %.",),
)
_OUTPUT = {"position": "output", "attention_reduction": 8}
TABLE4 = TableSpec(
    "table4",
    "Attention modules in MobileNetV2; SE and CBAM on the block's output with reduction 8, SK in place of the "
    "depthwise 3×3, CoordAttention and Meta-Pooling on the expanded features.",
    (
        _row("none", "no enhancer", _given("none"), "none", 72.3, 90.0, "3.50", 320),
        _row("se", "SE", _given("se", "none,se", **_OUTPUT), "se at output", 73.5, 90.5, "3.56", 320),
        _row("cbam", "CBAM", _given("cbam", "none,cbam", **_OUTPUT), "cbam at output", 73.6, 90.5, "3.57", 320),
        _row("sk", "SK", _given("none", depthwise="sk"), "none depthwise sk", 74.1, 91.8, "5.28", 350),
        _row("coord", "CoordAttention", _given("coord", "none,coord"), "coord", 74.3, 91.9, "3.95", 330),
        _row("meta", "Meta-Pooling", _given("paper"), "paper", 74.6, 91.8, "3.91", 320),
    ),
    top5=True,
    paper=PAPER("Table 4"),
    notes=(PAPER_NOTE, "The paper's 0.32 GFLOPs of plain MobileNetV2 are the 300 M multiply-adds of its Table 2."),
)
TABLES = {table.name: table for table in (TABLE1, TABLE1_ENHANCER, TABLE2, TABLE3, TABLE4)}
