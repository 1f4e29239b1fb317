"""Write docs/results.md from the stored records: every table, and claim by claim whether it held."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import answers

from nasbench.files import write_atomic
from nasbench.packs import SUFFIX
from nasbench.presets import resolve_config
from nasbench.record import find_records
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.collect import collect
from nasbench.results.formats import markdown
from nasbench.results.statistics import Estimate, difference, mean
from nasbench.results.tables import build, records
from nasbench.studies.metapooling import TABLES

HERE = Path(__file__).parent
FASHION, PATIENT, THIRD, IMAGENETTE, DIGITS, STRATEGIES = (
    HERE / "records" / f"{name}{SUFFIX}"
    for name in (
        "fashion_mnist",
        "fashion_mnist_patient",
        "fashion_mnist_evidence",
        "imagenette",
        "digits",
        "strategies",
    )
)
PAGE = HERE.parent / "docs" / "results.md"
EARLY = range(1, 9)  # blocks before those that the paper's network makes global
TOLERANCE = 0.01e6
# Spearman's ρ as published, see the README of this folder.
PUBLISHED = {"grad_norm": 0.594, "snip": 0.596, "grasp": 0.514, "fisher": 0.36, "synflow": 0.737, "jacov": 0.731}

Values = dict[int, float]


def main() -> None:
    """Write the page."""
    parts = [
        "# Results\n\nWritten by `python experiments/results.py` from the records in `experiments/records`; how they "
        "came about, and what was expected before the first run, stands in [experiments](../experiments/README.md). "
        "Intervals are 95 % confidence intervals over seeds.\n",
        answers.short(
            [
                _against_none(name, pack)
                for name, pack in (
                    ("Fashion-MNIST", THIRD if THIRD.is_file() else FASHION),
                    ("Imagenette at 64 px", IMAGENETTE),
                )
                if pack.is_file()
            ]
        ),
        *answers.pages(),
        costs(),
    ]
    if FASHION.is_file():
        parts.append(fashion_mnist())
    for title, pack in (
        ("### A third time, with what the searches are now", THIRD),
        ("## Table 3 on Imagenette at 64 px", IMAGENETTE),
    ):
        if pack.is_file():
            parts.append(f"{title}\n\n{by_both_rules(pack)}")
    if DIGITS.is_file():
        parts.append(digits())
    if STRATEGIES.is_file():
        found = collect([STRATEGIES]).frame
        # No row fixes by ρ; the first runs of this study, of an earlier version, count none nevertheless.
        table = build("strategies", found.assign(**{"search.fixed_by_threshold": None}))
        parts.append(
            "## Every strategy on one space\n\nBy `nasbench sweep experiments/strategies.yaml`, on digits.\n\n"
            + markdown(table)
        )
    if (HERE / "zero_cost.json").is_file():
        parts.append(zero_cost())
    if (HERE / "tabular.md").is_file():
        parts.append(
            "## Strategies where every answer is known\n\nBy `python experiments/tabular.py`. Regret is what the best "
            "network so far lacks in final accuracy to the best of all, in points, mean ± 95 % interval over seeds; "
            "found: share of the seeds that found it, with its exact interval.\n\n"
            + (HERE / "tabular.md").read_text(encoding="utf-8")
        )
    if (HERE / "distillation.md").is_file():
        parts.append("## Online distillation\n\n" + (HERE / "distillation.md").read_text(encoding="utf-8"))
    write_atomic(PAGE, "\n".join(parts))
    print(PAGE.relative_to(HERE.parent))


def zero_cost() -> str:
    """Spearman's ρ of the zero-cost scores, beside the published ones."""
    rows = []
    for path in (HERE / "zero_cost.json", HERE / "zero_cost_gradients.json"):
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        count = int(found["caption"].partition(": ")[2].split()[0].replace(",", ""))
        for row in found["rows"]:
            values = {key: row[key]["value"] for key in ("score", "rho", "tau", "low", "high")}
            half = (values["high"] - values["low"]) / 2
            cells = {"cells": Cell(count), "rho": Cell(values["rho"]), "tau": Cell(values["tau"], half=half)}
            rows.append({"score": Cell(values["score"]), **cells, "published": Cell(PUBLISHED.get(values["score"]))})
    columns = (
        *(Column("score", "score"), Column("cells", "cells", "count", 0), Column("rho", "Spearman ρ", "count", 2)),
        *(Column("published", "published ρ", "count", 2), Column("tau", "Kendall τ", "count", 2)),
    )
    notes = ("Published: Abdelfattah et al., ICLR 2021, of all 15,625 cells. Batches of 64 images of CIFAR-10.",)
    caption = "Rank correlation with the final accuracy of NAS-Bench-201's cells on CIFAR-10."
    return "## Zero-cost scores\n\n" + markdown(Table("zero_cost", caption, columns, tuple(rows), notes))


def costs() -> str:
    """Parameters and multiply-adds of every row of Tables 2 and 4, counted, beside the printed ones."""
    from nasbench.networks import profile_architecture

    warnings.filterwarnings("ignore", category=RuntimeWarning)
    rows, rounded, off = [], [], []
    for name in ("table2", "table4"):
        for row in TABLES[name].rows:
            config = resolve_config({**row.settings, "dataset": "imagenet", "preset": "paper"})
            counted = profile_architecture(config)[1]
            printed = row.printed
            if printed is None or printed.params is None or printed.madds is None:
                raise ValueError(f"{name} prints no cost of {row.key}")
            label = f"{TABLES[name].title}: {row.title}"
            if abs(counted.params - printed.params) > TOLERANCE:
                agree = round(counted.params / 1e6, printed.digits) == printed.params / 1e6
                (rounded if agree else off).append(label)
            rows.append(
                {
                    "row": Cell(label),
                    "params": Cell(counted.params),
                    "paper_params": Cell(printed.params, digits=printed.digits),
                    "madds": Cell(counted.madds),
                    "paper_madds": Cell(printed.madds),
                    "command": Cell(f"`{_profile_command(row.settings)}`"),
                }
            )
    columns = (
        Column("row", "Row"),
        Column("params", "params (M)", "millions", 3),
        Column("paper_params", "printed (M)", "millions", 2),
        Column("madds", "M-adds (M)", "millions", 1),
        Column("paper_madds", "printed (M)", "millions", 0),
        Column("command", "command"),
    )
    notes = [
        f"{count} of {len(rows)} rows are within 0.01 M of the printed parameters."
        for count in [len(rows) - len(rounded) - len(off)]
    ]
    if rounded:
        notes.append(f"Printed to 0.1 M only, and equal when rounded to it: {'; '.join(rounded)}.")
    if off:
        notes.append(
            f"Not reproduced: {'; '.join(off)}. The plain network of that width has the parameters given here, as "
            "torchvision builds it."
        )
    table = Table("costs", "Cost at 224×224 with 1000 classes.", columns, tuple(rows), tuple(notes))
    return "## The networks of Tables 2 and 4\n\n" + markdown(table)


def fashion_mnist() -> str:
    """Table 3 on Fashion-MNIST and its claims."""
    frame = collect([FASHION]).frame
    table = markdown(build("table3", frame))
    rows = {row.key: row for row in TABLES["table3"].rows}
    found, top1 = records(frame), _top1(FASHION)
    page = (
        "## Table 3 on Fashion-MNIST\n\n"
        f"{table}\n### Claim by claim\n\n{markdown(_claims(top1, _depth(found, rows['pmpl'].match)))}\n"
        f"{markdown(_choices(found, rows['pmpl'].match))}"
    )
    return page + _patient(top1, rows["pmpl"].match) if PATIENT.is_file() else page


def _top1(pack: Path) -> dict[str, Values]:
    """Test accuracy by seed of every row of Table 3."""
    found = records(collect([pack]).frame)
    return {row.key: {r["seed"]: r["top1"] for r in found if row.match(r)} for row in TABLES["table3"].rows}


def _against_none(name: str, pack: Path) -> str:
    """What Table 3 on a data set says in short."""
    top1 = _top1(pack)
    titles = {
        "local": "avg3 everywhere",
        "global": "global everywhere",
        "random": "a random choice",
        "evidence": "what PMPL finds by evidence",
    }
    leads = {title: difference(top1[key], top1["none"]) for key, title in titles.items() if top1[key]}
    said = [f"{title} {100 * lead.value:+.1f} ± {100 * (lead.half or 0.0):.1f} points" for title, lead in leads.items()]
    return f"On {name}, against no enhancer: {', '.join(said)} ({len(top1['none'])} seeds)."


def by_both_rules(pack: Path) -> str:
    """Table 3 where PMPL fixes by the lead and by evidence, with the differences, and what was chosen where."""
    frame, top1 = collect([pack]).frame, _top1(pack)
    rows = []
    for key, other in itertools.product(("pmpl", "evidence"), ("none", "global", "random", "pmpl")):
        if key != other and top1[key] and top1[other]:
            lead = difference(top1[key], top1[other])
            rows.append({"what": Cell(f"{key} − {other}"), "gap": Cell(lead.value, lead.half), "n": Cell(lead.n)})
    columns = (Column("what", ""), Column("gap", "points", "points"), Column("n", "n", "count"))
    gaps = Table("gaps", "What the searches gain, seed by seed.", columns, tuple(rows), ())
    is_evidence = next(row.match for row in TABLES["table3"].rows if row.key == "evidence")
    choices = _choices(records(frame), is_evidence, "decided_by_evidence", "decided by evidence")
    return "\n".join(markdown(table) for table in (build("table3", frame), gaps, choices))


def _patient(top1: Mapping[str, Values], is_pmpl: Callable[[Mapping[str, Any]], bool]) -> str:
    """PMPL with the patient α beside the rows above."""
    found = records(collect([PATIENT]).frame)
    patient = {run["seed"]: run["top1"] for run in found if is_pmpl(run)}
    values = mean(list(patient.values()))
    rows = [{"what": Cell("PMPL, η = 0.003"), "top1": Cell(values.value, values.half), "n": Cell(values.n)}]
    for key in ("none", "local", "global", "random", "pmpl", "darts1"):
        estimate = difference(patient, top1[key])
        gap = Cell(estimate.value, estimate.half)
        what = "its difference to " + ("pmpl above" if key == "pmpl" else key)
        rows.append({"what": Cell(what), "difference": gap, "n": Cell(estimate.n)})
    columns = (
        Column("what", ""),
        Column("top1", "Acc (%)", "percent"),
        Column("difference", "points", "points"),
        Column("n", "n", "count"),
    )
    table = Table("patient", "PMPL with a patient α, and its difference to the rows above.", columns, tuple(rows), ())
    return f"\n### A second search, with a patient α\n\n{markdown(table)}\n{markdown(_choices(found, is_pmpl))}"


def digits() -> str:
    """The tables of the quick preset on digits, each from its own records."""
    folders = sorted({path.parent for path in find_records(DIGITS)})
    return (
        "## The tables on digits\n\n"
        + (
            "Digits show that every row trains and what it costs, not which network is better: one of the 359 "
            "test images is 0.28 points. Command: `nasbench table TABLE --seeds 2 --dataset digits --preset quick "
            "--run`.\n\n"
        )
        + "\n".join(markdown(build(folder.name, collect([folder]).frame)) for folder in folders)
    )


def _claims(top1: Mapping[str, Values], depth: Values) -> Table:
    def lead(better: str, worse: str) -> tuple[str, Estimate | None]:
        measured = top1[better] and top1[worse]
        return f"{better} − {worse}", difference(top1[better], top1[worse]) if measured else None

    claims = {
        "1. global is better than none": [lead("global", "none")],
        "2. local is worse than none": [lead("none", "local")],
        "3. random lies between none and PMPL": [lead("random", "none"), lead("pmpl", "random")],
        "4. PMPL is the best": [lead("pmpl", key) for key in ("none", "local", "global", "random", "darts1")],
        "5. deeper blocks choose global more often": [
            ("share in blocks 9–17 − in 1–8", mean(list(depth.values())) if depth else None)
        ],
    }
    rows = []
    for claim, parts in claims.items():
        for number, (what, estimate) in enumerate(parts):
            cells = {"claim": Cell(claim if number == 0 else ""), "what": Cell(what)}
            if estimate is not None:
                cells |= {"difference": Cell(estimate.value, estimate.half), "n": Cell(estimate.n)}
            cells["held"] = Cell(_verdict([e for _, e in parts]) if number == 0 else "")
            rows.append(cells)
    columns = (
        Column("claim", "Claim"),
        Column("what", "Difference"),
        Column("difference", "points", "points"),
        Column("n", "n", "count"),
        Column("held", "Verdict"),
    )
    notes = ("Paired by seed where both rows have the same seeds, Welch's interval otherwise.",)
    return Table("claims", "Each claim by the interval of its differences.", columns, tuple(rows), notes)


def _verdict(parts: Sequence[Estimate | None]) -> str:
    """Held when every interval lies above 0, contradicted when one lies below it."""
    intervals = [(e.value - e.half, e.value + e.half) for e in parts if e is not None and e.half is not None]
    if any(high < 0 for _, high in intervals):
        return "contradicted"
    return "holds" if len(intervals) == len(parts) and all(low > 0 for low, _ in intervals) else "open"


def _depth(runs: list[dict[str, Any]], match: Callable[[Mapping[str, Any]], bool]) -> Values:
    shares = {}
    for run in runs:
        if match(run):
            chosen = [value == "global" for value in json.loads(run["architecture"]).values()]
            early, late = chosen[: len(EARLY)], chosen[len(EARLY) :]
            shares[int(run["seed"])] = sum(late) / len(late) - sum(early) / len(early)
    return shares


def _choices(
    runs: list[dict[str, Any]],
    match: Callable[[Mapping[str, Any]], bool],
    number: str = "fixed_by_threshold",
    title: str = "fixed by ρ",
) -> Table:
    rows = []
    for run in sorted((r for r in runs if match(r)), key=lambda r: int(r["seed"])):
        chosen = list(json.loads(run["architecture"]).values())
        names = [{"none": "·", "avg3": "a", "global": "G"}[value] for value in chosen]
        rows.append(
            {
                "seed": Cell(str(run["seed"])),
                "early": Cell("".join(names[: len(EARLY)])),
                "late": Cell("".join(names[len(EARLY) :])),
                "fixed": Cell(run[f"search.{number}"]),
            }
        )
    columns = (
        Column("seed", "seed"),
        Column("early", "blocks 1–8"),
        Column("late", "blocks 9–17"),
        Column("fixed", title, "count"),
    )
    return Table("choices", "What PMPL chose: · none, a avg3, G global.", columns, tuple(rows))


def _profile_command(settings: Mapping[str, Any]) -> str:
    options = {k: v for k, v in settings["space_options"].items() if k not in ("candidates", "width")}
    words = ["nasbench profile"]
    if settings["space_options"].get("width", 1.0) != 1.0:
        words.append(f"--width {settings['space_options']['width']:g}")
    if settings["space_options"]["candidates"] != "ablation":
        words.append(f"--candidates {settings['space_options']['candidates']}")
    words += [f"-p {name}={value}" for name, value in options.items()]
    return " ".join([*words, f"--architecture {settings['architecture']}"])


if __name__ == "__main__":
    main()
