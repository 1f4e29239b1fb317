"""The parts of docs/results.md on searches: whether choices matter, whether searches find, know and repeat them."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import metapool_bench
import numpy as np
import planted
import trashnet
from matplotlib.figure import Figure
from scipy.stats import f as f_distribution
from scipy.stats import kendalltau
from scipy.stats import t as t_distribution

from nasbench.files import write_atomic
from nasbench.packs import SUFFIX
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.collect import architecture_of, collect
from nasbench.results.formats import markdown
from nasbench.results.repeats import repeats
from nasbench.results.statistics import chance, kappa, mean, share, tally, votes
from nasbench.results.style import PAGE, SETTINGS, encode, new_figure
from nasbench.results.tables import records
from nasbench.spaces.operations.enhancers import CANDIDATE_SETS

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
SIMULATED, PLANTED = HERE / "evidence.csv", HERE / "planted.csv"
AGREEMENT, BENCH, TRASHNET = (
    HERE / "records" / f"{name}{SUFFIX}" for name in ("agreement", "metapool_bench", "trashnet")
)
SIGNIFICANT = 0.001
STAGES = 5
CANDIDATES = CANDIDATE_SETS["ablation"]

Networks = dict[tuple[str, ...], dict[int, float]]  # candidates → seed → top-1


def short(fashion: Sequence[str]) -> str:
    """The three questions, answered in a few lines.

    Args:
        fashion: what Table 3 on Fashion-MNIST says, in sentences.
    """
    lines = [" ".join(["**Does the choice of enhancers matter here?**", *fashion, *_matters()])]
    if PLANTED.is_file():
        lines.append(f"**Does the search find it?** {_finds()}")
    if AGREEMENT.is_file():
        lines.append(f"**Does it repeat?** {_repeats()}")
    if TRASHNET.is_file() and (answer := trashnet.short(_of_trashnet())):
        lines.append(f"**{trashnet.TITLE}** {answer}")
    return "\n\n".join(lines) + "\n"


def pages() -> list[str]:
    """The sections with the evidence for that; draws their figures."""
    sections = []
    if BENCH.is_file():
        sections.append(_bench_page())
    if PLANTED.is_file():
        rows = list(planted.read(PLANTED).values())
        write_atomic(IMAGES / "planted.png", planted.figure(rows))
        picture = "![Found and wrongly decided](images/planted.png)"
        sections.append(f"## Planted truth\n\n{picture}\n\n{planted.table(rows)}\n")
    if AGREEMENT.is_file():
        sections.append(f"## Agreement of seeds\n\n{markdown(repeats(collect([AGREEMENT]).frame))}")
    if TRASHNET.is_file():
        sections.append(trashnet.page(_of_trashnet()))
    if SIMULATED.is_file():
        sections.append(_simulated_page())
    return sections


def _of_trashnet() -> trashnet.Runs:
    return trashnet.grouped(records(collect([TRASHNET]).frame))


# metapool-bench


def networks() -> Networks:
    """Test accuracy of every network that was trained."""
    found: Networks = {}
    for run in records(collect([BENCH]).frame):
        chosen = tuple(json.loads(run["architecture"]).values())
        found.setdefault(chosen, {})[int(run["seed"])] = float(run["top1"])
    return found


def balanced(found: Networks) -> Networks:
    """Of the networks so far, those of the balanced fraction, with the seeds that all of them have; else none."""
    names = [
        tuple(a.values()) for a in metapool_bench.networks().values() if metapool_bench.in_fraction(list(a.values()))
    ]
    seeds = set.intersection(*(set(found.get(name, {})) for name in names))
    return {name: {seed: found[name][seed] for seed in seeds} for name in names} if seeds else {}


@dataclass(frozen=True)
class Effect:
    """What the choice of a stage does, by an analysis of variance with main effects only."""

    stage: int
    means: dict[str, float]  # accuracy by candidate
    half: float  # of each mean's 95 % interval
    p: float  # of the F test


def effects(block: Networks) -> list[Effect]:
    """The effects of the five stages on the mean accuracy of a network's seeds, in a balanced design."""
    chosen = list(block)
    values = np.array([np.mean(list(block[k].values())) for k in chosen])
    means = [{c: float(values[[k[s] == c for k in chosen]].mean()) for c in CANDIDATES} for s in range(STAGES)]
    fitted = values.mean() + sum(np.array([means[s][k[s]] for k in chosen]) - values.mean() for s in range(STAGES))
    free = len(values) - 1 - (len(CANDIDATES) - 1) * STAGES
    residual = float(((values - fitted) ** 2).sum()) / free
    half = float(t_distribution.ppf(0.975, free)) * (residual * len(CANDIDATES) / len(values)) ** 0.5
    result = []
    for stage, of_stage in enumerate(means):
        explained = sum((of_stage[k[stage]] - values.mean()) ** 2 for k in chosen) / (len(CANDIDATES) - 1)
        p = float(f_distribution.sf(explained / residual, len(CANDIDATES) - 1, free))
        result.append(Effect(stage + 1, of_stage, half, p))
    return result


def _matters() -> list[str]:
    block = balanced(networks()) if BENCH.is_file() else {}
    if not block:
        return []
    spread = 100 * float(np.std([np.mean(list(v.values())) for v in block.values()], ddof=1))
    seeds = len(next(iter(block.values())))
    sampling = 100 * (0.62 * 0.38 / 3925) ** 0.5
    clear = [
        f"the choice in stage {e.stage} matters ({', '.join(f'{c} {100 * m:.1f}' for c, m in e.means.items())} %, "
        f"± {100 * e.half:.1f})"
        for e in effects(block)
        if e.p < SIGNIFICANT
    ]
    return [
        f"On Imagenette at 48 px, {len(block)} networks of a balanced design (seeds: {seeds}) differ by {spread:.1f} "
        f"points (deviation; the test set's sampling alone makes {sampling:.1f}): "
        + ("; ".join(clear) if clear else f"no stage's effect has p < {SIGNIFICANT:g}")
        + "."
    ]


def _bench_page() -> str:
    found = networks()
    block = balanced(found)
    measured = effects(block) if block else []
    rows = [
        {
            "stage": Cell(f"stage {e.stage}"),
            **{name: Cell(value, half=e.half) for name, value in e.means.items()},
            "p": Cell(f"{e.p:.2g}"),
        }
        for e in measured
    ]
    columns = (
        Column("stage", "Choice"),
        *(Column(name, f"{name} (%)", "percent") for name in CANDIDATES),
        Column("p", "p"),
    )
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    notes = [f"{sum(map(len, found.values()))} of 729 runs are done: {len(found)} networks, seeds {seeds}."]
    if block:
        notes.append(
            f"Shown: the {len(block)} networks of a balanced design, in which every two stages have all pairs of "
            "candidates equally often."
        )
    for one, other in itertools.combinations(seeds, 2):
        both = [(v[one], v[other]) for v in found.values() if one in v and other in v]
        if len(both) > 10:
            tau = kendalltau(*zip(*both, strict=True))
            notes.append(f"Kendall's τ between seeds {one} and {other}: {tau.statistic:.2f} over {len(both)} networks.")
    caption = "Mean test accuracy by the choice of a stage, and p of its main effect (analysis of variance)."
    table = markdown(Table("bench", caption, columns, tuple(rows), tuple(notes)))
    if not measured:
        return f"## metapool-bench\n\n{table}"
    write_atomic(IMAGES / "metapool_bench.png", encode(_effects_figure(measured), "png"))
    picture = "![Accuracy by the choice of each stage](images/metapool_bench.png)"
    return f"## metapool-bench\n\n{picture}\n\n{table}\n{_merits(measured) if AGREEMENT.is_file() else ''}"


def _merits(measured: Sequence[Effect]) -> str:
    """How good the answers of searches in this space are, as far as the stages' effects tell."""

    def predicted(names: Sequence[str]) -> float:
        middle = float(np.mean(list(measured[0].means.values())))
        return middle + sum(e.means[c] - middle for e, c in zip(measured, names, strict=True))

    every = sorted(predicted(names) for names in itertools.product(CANDIDATES, repeat=STAGES))
    rows = []
    for (_, label), runs in _groups().items():
        if "metapool_bench" not in label:
            continue
        found = {int(r["seed"]): predicted(list(architecture_of(r).values())) for r in runs}
        average = mean(list(found.values()))
        better = np.mean([sum(v > value for v in every) / len(every) for value in found.values()])
        cells = {"predicted": Cell(average.value, half=average.half), "better": Cell(float(better))}
        rows.append({"search": Cell(label), "seeds": Cell(len(found)), **cells})
    columns = (
        *(Column("search", "Search"), Column("seeds", "seeds", "count", 0)),
        *(Column("predicted", "predicted top-1 (%)", "percent"), Column("better", "better ones (%)", "percent", 0)),
    )
    notes = (
        f"Predicted by the sum of the stages' effects: {100 * every[0]:.1f} to {100 * every[-1]:.1f} % over all 243 "
        "networks. Better ones: the share of these that is predicted to be better than what was found; 50 % by chance.",
    )
    caption = "What five seeds of each search find in this space (see agreement of seeds)."
    return markdown(Table("merits", caption, columns, tuple(rows), notes))


def _effects_figure(measured: Sequence[Effect]) -> Figure:
    with matplotlib.rc_context(fname=SETTINGS):
        drawn = new_figure(PAGE, 2.2)
        panels = drawn.subplots(1, len(measured), sharey=True)
        for axes, effect in zip(panels, measured, strict=True):
            values = [100 * effect.means[c] for c in CANDIDATES]
            axes.errorbar(
                range(len(values)), values, 100 * effect.half, color="black", fmt="o", markersize=3, capsize=2
            )
            axes.set_xticks(range(len(values)), CANDIDATES)
            axes.set_xlim(-0.5, len(values) - 0.5)
            axes.set_title(f"stage {effect.stage}" + (" *" if effect.p < SIGNIFICANT else ""), loc="left")
        panels[0].set_ylabel("top-1 (%)")
    return drawn


# Planted truth, and agreement


def _finds() -> str:
    groups = planted.grouped(planted.read(PLANTED).values())
    size = next(iter(planted.DATA))
    levels = [noise for noise in planted.NOISE if all((size, s, noise) in groups for s in planted.STRATEGIES)]
    parts = []
    for title, strategy in (
        ("a random choice", "random"),
        ("PMPL with a hasty lead", "pmpl, hasty lead"),
        ("PMPL with the lead", "pmpl, lead"),
        ("PMPL by evidence, with the best guess elsewhere", "pmpl, evidence, largest π"),
    ):
        rows = [row for noise in levels if noise != "1.0" for row in groups[size, strategy, noise]]
        everything = [row for noise in levels for row in groups[size, strategy, noise]]
        wrong = planted.percent(planted.errors(everything))
        parts.append(f"{title} finds {planted.percent(planted.hits(rows))}, and of what it decides {wrong} is wrong")
    return (
        f"Where the right receptive field of a layer is known (planted truth, noise {levels[0]} to {levels[-1]}): "
        + "; ".join(parts).replace("of what it decides – is wrong", "decides nothing")
        + "."
    )


def _groups() -> Mapping[tuple[str, str], list[Any]]:
    groups: dict[tuple[str, str], list[Any]] = {}
    for run in records(collect([AGREEMENT]).frame):
        groups.setdefault((run["dataset"], run["label"]), []).append(run)
    return groups


def _repeats() -> str:
    parts = []
    for (dataset, label), runs in _groups().items():
        ballots = votes([architecture_of(run) for run in runs])
        agreed, measured = share(map(tally, ballots.values())), kappa(ballots)
        half = "" if measured.half is None else f" ± {measured.half:.2f}"
        beyond = measured.why if measured.value is None else f"κ = {measured.value:.2f}{half}"
        by_chance = 100 * (chance(ballots.values()) or 0)
        if agreed is not None:
            parts.append(f"{label} on {dataset} {100 * agreed.value:.0f} % (by chance {by_chance:.0f} %, {beyond})")
    return "Layers in which two seeds agree: " + "; ".join(parts) + "."


# The simulation


def _simulated_page() -> str:
    with SIMULATED.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    null = [row for row in rows if not row["decided"]]
    signal = [row for row in rows if row["decided"]]
    write_atomic(IMAGES / "evidence.png", _simulated_figure(null, signal))
    columns = ("scenario", "candidates", "searches", "wrong searches", "median step", "decided rightly")
    lines = [columns, ("--",) * len(columns)]
    for row in rows:
        wrong = f"{100 * int(row['wrong_searches']) / int(row['searches']):.2f} %"
        decided = f"{100 * float(row['decided']):.0f} %" if row["decided"] else ""
        median = row["median_step"] if row["median_step"] and int(row["median_step"]) <= int(row["steps"]) else ""
        lines.append((row["scenario"], row["candidates"], row["searches"], wrong, median, decided))
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "## The rule of evidence, simulated\n\n17 layers, δ = 0.05, 1,500 steps: `python experiments/evidence.py`. "
        "Without a signal a search is wrong that excludes anything; with one, that excludes the best candidate. "
        "Step counts include the burn-in of 20 steps.\n\n![Errors and speed](images/evidence.png)\n\n" + table + "\n"
    )


def _simulated_figure(null: Sequence[Mapping[str, str]], signal: Sequence[Mapping[str, str]]) -> bytes:
    with matplotlib.rc_context(fname=SETTINGS):
        drawn = new_figure(PAGE, 2.6)
        left, right = drawn.subplots(1, 2)
        names = list(dict.fromkeys(row["scenario"] for row in null))
        marks = {"3": "o", "8": "s", "13": "^"}
        for k, mark in marks.items():
            mine = [row for row in null if row["candidates"] == k]
            shares = {row["scenario"]: 100 * int(row["wrong_searches"]) / int(row["searches"]) for row in mine}
            places = [shares.get(name, np.nan) for name in names]
            left.plot(places, range(len(names)), mark, label=f"K = {k}", fillstyle="none")
            steps = {
                float(row["scenario"].split()[0]): int(row["median_step"])
                for row in signal
                if row["candidates"] == k and row["scenario"].endswith("σ") and "for" not in row["scenario"]
            }
            shown = [s for s in sorted(steps) if steps[s] <= 1500]
            right.plot(shown, [steps[s] for s in shown], f"-{mark}", label=f"K = {k}", fillstyle="none")
        left.axvline(5, color="#808080", linestyle=(0, (2, 2)), linewidth=0.8)
        left.set_yticks(range(len(names)), names)
        left.invert_yaxis()
        left.set_xlim(-0.3, 10)
        left.set_xlabel("searches without a signal that exclude anything (%)\ndashed: δ")
        right.axhline(600, color="#808080", linestyle=(0, (2, 2)), linewidth=0.8)
        right.set_xlabel("advantage of the best candidate (σ a step)")
        right.set_ylabel("median step of a layer's decision")
        right.set_ylim(0, 1500)
        right.legend()
    return encode(drawn, "png")
