"""The tables of the Meta-Pooling paper: its rows as printed, with misprints, and the runs that train each."""

from collections.abc import Iterator, Mapping
from typing import Any

from nasbench.studies.rows import Paper, Printed, RowSpec, TableSpec

SPACE = "mbv2_metapool"
LEAD = {"fixing": "lead"}  # the paper's rule
TICKS = ("No", "Local", "Global", "Random", "PMPL")
SOURCE = "Dong et al., Progressive Meta-Pooling Learning for Lightweight Image Classification Model, ICASSP 2023"
SETTING = "ImageNet, 224×224, 1000 classes, MobileNetV2, 200 epochs"
PAPERS = {number: Paper(f"Table {number}", "the Meta-Pooling paper", SOURCE, SETTING) for number in range(1, 5)}


def _searched(strategy: str, options: Mapping[str, Any] | None = None, **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": space, "strategy": strategy, "strategy_options": dict(options or {})}


def _given(architecture: str, candidates: str = "ablation", **space: Any) -> dict[str, Any]:
    return {"space": SPACE, "space_options": {"candidates": candidates, **space}, "architecture": architecture}


def _printed(top1: float, top5: float | None = None, params: str = "", madds: float | None = None) -> Printed:
    """A row from percentages, and millions of parameters and multiply-adds."""
    first, second = round(top1 / 100, 6), None if top5 is None else round(top5 / 100, 6)
    if not params or madds is None:
        return Printed(first, second)
    return Printed(first, second, round(float(params) * 1e6), round(madds * 1e6), len(params.partition(".")[2]))


def _all_three(
    key: str, title: str, strategy: str, options: Mapping[str, Any], label: str, *ticks: str, top1: float | None = None
) -> RowSpec:
    """A row of Table 3 whose search has all candidates."""
    settings, printed = _searched(strategy, options, candidates="ablation"), None if top1 is None else _printed(top1)
    marks = (*TICKS[:3], *ticks)
    return RowSpec(key, f"all three, {title}", settings, f"{label} (ablation)", "none", marks, printed)


def _at_width(width: str, *printed: tuple[float, str, float]) -> Iterator[RowSpec]:
    """The rows of Table 2 at one width, and what is printed: top-1, parameters and multiply-adds as `_printed`."""
    rows = (
        ("none", "no enhancer", "none", "ablation"),
        ("se", "SE", "se", "none,se"),
        ("cbam", "CBAM", "cbam", "none,cbam"),
        ("meta", "Meta-Pooling", "paper", "ablation"),
    )
    for (key, title, architecture, candidates), (top1, params, madds) in zip(rows, printed, strict=True):
        settings = _given(architecture, candidates, width=float(width))
        title, numbers = f"{title}, width {float(width):g}", _printed(top1, None, params, madds)
        yield RowSpec(f"{key} {width}", title, settings, architecture, f"none {width}", printed=numbers)


POOLS = {
    "skip": ("Skip", _printed(71.34, 90.30)),
    "max": ("MaxPool", _printed(71.35, 90.18)),
    "average": ("AveragePool", _printed(71.68, 90.28)),
    "blur": ("BlurPool", _printed(69.42, 88.74)),
    "dpp": ("DPP", _printed(70.15, 89.47)),
    "gated": ("GatedPool", _printed(71.06, 90.10)),
    "gaussian": ("GaussPool", _printed(72.87, 91.08)),
    "liftdown": ("LiftDownPool", _printed(73.91, 91.78)),
}
META = RowSpec(
    *("meta", "Meta-Pooling", _searched("pmpl", LEAD, candidates="full"), "pmpl (full)", "skip"),
    printed=_printed(74.60, 91.81),
)
SKIP_NOTE = "The paper's Skip (71.34 %) is the plain network that its Table 3 gives 72.3 %."
PAPER_NOTE = "Meta-Pooling is the architecture named paper: blocks 9–17 global, the others without."
TABLE1 = TableSpec(
    "table1",
    "Pooling in MobileNetV2. The first eight replace the stride of the four down-sampling depthwise convolutions "
    "(a stride-1 convolution, then the pool); Meta-Pooling enhances every block of the network with its own strides.",
    (
        *(
            RowSpec(key, title, _given("none", downsampling=key), f"none downsampling {key}", "skip", printed=printed)
            for key, (title, printed) in POOLS.items()
        ),
        META,
    ),
    top5=True,
    digits=2,
    paper=PAPERS[1],
    notes=(SKIP_NOTE,),
)
# LiftDownPool is left out: it exists as down-sampling only.
TABLE1_ENHANCER = TableSpec(
    "table1-enhancer",
    "Pooling in MobileNetV2, here placed as the enhancer of every block on the expanded features, at stride 1 over "
    "3×3 windows; all networks keep their own strides.",
    (
        RowSpec("skip", POOLS["skip"][0], _given("none"), "none", "skip", printed=POOLS["skip"][1]),
        *(
            RowSpec(key, title, _given(key, f"none,{key}"), key, "skip", printed=printed)
            for key, (title, printed) in POOLS.items()
            if key not in ("skip", "liftdown")
        ),
        META,
    ),
    top5=True,
    digits=2,
    paper=PAPERS[1],
    notes=(
        "The printed figures are of the paper's Table 1, which does not say where the pooling stands.",
        "LiftDownPool has no form that keeps the size.",
        SKIP_NOTE,
    ),
)
TABLE2 = TableSpec(
    "table2",
    "Attention and Meta-Pooling in MobileNetV2 at three widths; SE and CBAM on the expanded features, reduction 24.",
    (
        *_at_width("1.0", (72.3, "3.50", 300), (73.5, "3.89", 300), (73.6, "3.89", 300), (74.6, "3.91", 320)),
        *_at_width("0.75", (69.9, "2.5", 200), (71.5, "2.86", 210), (71.5, "2.86", 210), (71.8, "2.86", 210)),
        *_at_width("0.5", (65.4, "2.0", 100), (66.4, "2.1", 100), (66.4, "2.1", 100), (66.9, "2.1", 100)),
    ),
    groups=("none 0.75", "none 0.5"),
    widths=True,
    paper=PAPERS[2],
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
        RowSpec("none", "no enhancer", _given("none"), "none", "none", ("No",), _printed(72.3)),
        RowSpec("local", "local everywhere", _given("local"), "avg3", "none", ("Local",), _printed(71.6)),
        RowSpec("global", "global everywhere", _given("global"), "global", "none", ("Global",), _printed(74.3)),
        _all_three("random", "random", "random", {}, "random", "Random", top1=73.4),
        _all_three("pmpl", "PMPL", "pmpl", LEAD, "pmpl", "PMPL", top1=74.6),
        _all_three("evidence", "PMPL by evidence", "pmpl", {"fixing": "evidence"}, "pmpl by evidence"),
        _all_three("darts1", "DARTS first order", "darts", {"order": 1}, "darts order 1"),
        _all_three("darts2", "DARTS second order", "darts", {"order": 2}, "darts order 2"),
    ),
    groups=("evidence",),
    paper=PAPERS[3],
    notes=("The paper's No (72.3 %) is the plain network that its Table 1 calls Skip, 71.34 %.",),
)
_OUTPUT = {"position": "output", "attention_reduction": 8}
TABLE4 = TableSpec(
    "table4",
    "Attention modules in MobileNetV2; SE and CBAM on the block's output with reduction 8, SK in place of the "
    "depthwise 3×3, CoordAttention and Meta-Pooling on the expanded features.",
    tuple(
        RowSpec(key, title, settings, label, "none", printed=printed)
        for key, title, settings, label, printed in (
            ("none", "no enhancer", _given("none"), "none", _printed(72.3, 90.0, "3.50", 320)),
            ("se", "SE", _given("se", "none,se", **_OUTPUT), "se at output", _printed(73.5, 90.5, "3.56", 320)),
            (
                "cbam",
                "CBAM",
                _given("cbam", "none,cbam", **_OUTPUT),
                "cbam at output",
                _printed(73.6, 90.5, "3.57", 320),
            ),
            ("sk", "SK", _given("none", depthwise="sk"), "none depthwise sk", _printed(74.1, 91.8, "5.28", 350)),
            ("coord", "CoordAttention", _given("coord", "none,coord"), "coord", _printed(74.3, 91.9, "3.95", 330)),
            ("meta", "Meta-Pooling", _given("paper"), "paper", _printed(74.6, 91.8, "3.91", 320)),
        )
    ),
    top5=True,
    paper=PAPERS[4],
    notes=(PAPER_NOTE, "The paper's 0.32 GFLOPs of plain MobileNetV2 are the 300 M multiply-adds of its Table 2."),
)
TABLES = {table.name: table for table in (TABLE1, TABLE1_ENHANCER, TABLE2, TABLE3, TABLE4)}
