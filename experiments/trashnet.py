"""Fine-tune MobileNetV2 on TrashNet's photos, with and without a search; goes on where it was interrupted.

`experiments/results.py` writes what came out into docs/results.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from nasbench.config import read_config
from nasbench.errors import NasbenchError
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.formats import markdown
from nasbench.results.statistics import Estimate, difference, mean
from nasbench.studies.plan import plan, run_missing
from nasbench.studies.study import Study, make_study

TITLE = "Does a search pay from pretrained weights?"
CONFIG = Path(__file__).with_suffix(".yaml")
ROWS: dict[str, dict[str, Any]] = {
    "none": {"architecture": "none"},
    "paper": {"architecture": "paper"},
    "pmpl": {"strategy": "pmpl", "strategy_options": {"fixing": "evidence", "undecided": "largest_pi"}},
    "random": {"strategy": "random"},
}
SEEDS = [0, 1, 2, 3, 4]
TITLES = {
    "none": "plain fine-tuning",
    "paper": "the paper's enhancers",
    "pmpl": "PMPL by evidence",
    "random": "random",
}
CLOSE = 0.03  # within which two rows are called alike

Runs = dict[str, dict[int, Mapping[str, Any]]]  # row → seed → run


def study(seed: int) -> Study:
    """All rows with one seed."""
    name, base = f"{CONFIG.stem}, seed {seed}", {**read_config(CONFIG), "seed": seed}
    return make_study({"name": name, "base": base, "variants": ROWS})


def grouped(runs: Iterable[Mapping[str, Any]]) -> Runs:
    """The runs of every row, by seed."""
    found: Runs = {row: {} for row in ROWS}
    for run in runs:
        found[run["label"] if run["strategy"] == "fixed" else run["strategy"]][int(run["seed"])] = run
    return found


def short(runs: Runs) -> str:
    """The answer in one or two sentences; nothing before there are two seeds."""
    lead, times = _lead(runs, "pmpl", "none"), _times(runs)
    if lead is None or lead.half is None or times is None:
        return ""
    low, high = lead.value - lead.half, lead.value + lead.half
    told = "more accurate" if low > 0 else "less accurate" if high < 0 else "not told apart from plain fine-tuning"
    return (
        f"On TrashNet, from ImageNet's weights, what PMPL finds is {told}: {100 * lead.value:+.1f} ± "
        f"{100 * lead.half:.1f} points over {lead.n} seeds, for {times:.1f} times the minutes. "
        + ("The search pays." if low > 0 else "The search does not pay.")
    )


def page(runs: Runs) -> str:
    """The section of docs/results.md: every row, and claim by claim what was expected."""
    rows = []
    for row, title in TITLES.items():
        cells = {"row": Cell(title), "n": Cell(len(runs[row]))}
        if runs[row]:
            top1, lead = mean([r["top1"] for r in runs[row].values()]), _lead(runs, row, "none")
            cells |= {"top1": Cell(top1.value, top1.half), "minutes": Cell(median(map(_minutes, runs[row].values())))}
            cells |= {k: Cell(sum(r[k] for r in runs[row].values()) / len(runs[row])) for k in ("params", "madds")}
            if lead is not None and row != "none":
                cells["lead"] = Cell(lead.value, lead.half)
        rows.append(cells)
    columns = (
        *(Column("row", "Row"), Column("top1", "Acc (%)", "percent"), Column("lead", "− none", "points")),
        *(Column("n", "n", "count"), Column("params", "params (M)", "millions", 3)),
        *(Column("madds", "M-adds (M)", "millions", 1), Column("minutes", "minutes", "seconds", 1)),
    )
    done = sum(map(len, runs.values()))
    notes = (
        f"{done} of {len(ROWS) * len(SEEDS)} runs are done.",
        "Minutes: median over the seeds, of search and training, on one core that other work shared.",
    )
    table = markdown(Table("trashnet", "TrashNet at 112 px from ImageNet's weights.", columns, tuple(rows), notes))
    return f"## {TITLE}\n\n{table}\n{markdown(_claims(runs))}"


def _claims(runs: Runs) -> Table:
    alike, pays = _lead(runs, "paper", "none"), _lead(runs, "pmpl", "none")
    harm, found, times = _lead(runs, "none", "random"), _lead(runs, "pmpl", "random"), _times(runs)
    decided = [int(run["search.decided_by_evidence"]) for run in runs["pmpl"].values()]
    claims = (
        ("1. paper − none lies within ±3 points", alike, _within(alike)),
        ("2. pmpl is not better than none (pmpl − none)", pays, _positive(pays, "contradicted", "holds", "holds")),
        ("3. random is worse than none (none − random)", harm, _positive(harm, "holds", "contradicted", "open")),
        ("4. pmpl is better than random (pmpl − random)", found, _positive(found, "holds", "contradicted", "open")),
        (f"5. nothing is decided by evidence (layers: {sum(decided)})", None, _held(decided, not any(decided))),
        (
            "6. a search takes at least twice the minutes" + (f" ({times:.1f} times)" if times else ""),
            *(None, _held(runs["pmpl"], times is not None and times >= 2)),
        ),
    )
    rows = [
        {"claim": Cell(claim), "held": Cell(held)}
        | ({} if lead is None else {"lead": Cell(lead.value, lead.half), "n": Cell(lead.n)})
        for claim, lead, held in claims
    ]
    columns = (Column("claim", "Claim"), Column("lead", "points", "points"), Column("n", "n", "count"))
    return Table("claims", "What was expected.", (*columns, Column("held", "Verdict")), tuple(rows))


def _lead(runs: Runs, row: str, other: str) -> Estimate | None:
    """By how much a row is more accurate, over the seeds that both have."""
    seeds = runs[row].keys() & runs[other].keys()
    values, others = ({seed: runs[name][seed]["top1"] for seed in seeds} for name in (row, other))
    return difference(values, others) if seeds else None


def _minutes(run: Mapping[str, Any]) -> float:
    return float(run["search_seconds"] + run["retrain_seconds"]) / 60


def _times(runs: Runs) -> float | None:
    """How many times as long as plain fine-tuning a run with a search takes: the median over the seeds."""
    plain, searched = runs["none"], runs["pmpl"]
    ratios = [_minutes(searched[seed]) / _minutes(plain[seed]) for seed in plain.keys() & searched.keys()]
    return median(ratios) if ratios else None


def _held(known: Any, is_so: bool) -> str:
    return "open" if not known else "holds" if is_so else "contradicted"


def _within(lead: Estimate | None) -> str:
    if lead is None or lead.half is None:
        return "open"
    inside, outside = abs(lead.value) + lead.half < CLOSE, abs(lead.value) - lead.half > CLOSE
    return "holds" if inside else "contradicted" if outside else "open"


def _positive(lead: Estimate | None, above: str, below: str, between: str) -> str:
    if lead is None or lead.half is None:
        return "open"
    return above if lead.value > lead.half else below if lead.value < -lead.half else between


def main() -> int:
    """Run what is missing, a whole seed at a time; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/trashnet"))
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    given = parser.parse_args()
    failed = False
    try:
        for seed in given.seeds:
            planned = plan(study(seed), given.out, others=[Path(__file__).parent / "records"])
            results = run_missing(planned, given.out, lambda line, seed=seed: print(f"seed {seed} {line}", flush=True))
            failed |= any(result.error for result in results)
    except NasbenchError as e:
        sys.exit(f"error: {e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
