"""The parts of docs/results.md on searches: whether choices matter, whether searches find, know and repeat them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import effects
import matplotlib
import numpy as np
import planted
import trashnet

from nasbench.facts import Decision
from nasbench.files import write_atomic
from nasbench.packs import SUFFIX
from nasbench.record import Record
from nasbench.results.collect import RunRow, architecture_of, collect, grouped
from nasbench.results.formats import markdown
from nasbench.results.repeats import repeats
from nasbench.results.statistics import chance, kappa, share, tally, votes
from nasbench.results.style import PAGE, SETTINGS, encode, new_figure
from nasbench.results.tables import records
from nasbench.spaces.metapool_bench import LABELS

HERE = Path(__file__).parent
IMAGES = HERE.parent / "docs" / "images"
SIMULATED, PLANTED = HERE / "evidence.csv", HERE / "planted.csv"
AGREEMENT, TRASHNET = (HERE / "records" / f"{name}{SUFFIX}" for name in ("agreement", "trashnet"))


def short(fashion: Sequence[str]) -> str:
    """The three questions, answered in a few lines.

    Args:
        fashion: what Table 3 on Fashion-MNIST says, in sentences.
    """
    asked = "**Does the choice of enhancers matter here?**"
    lines = [" ".join(filter(None, [asked, effects.verdict(), *fashion, *effects.matters()]))]
    if PLANTED.is_file():
        found = effects.success(_in_bench(), effects.SEARCH)
        lines.append(" ".join(filter(None, ["**Does the search find it?**", found, _finds()])))
    if AGREEMENT.is_file():
        lines.append(f"**Does it repeat?** {_repeats()}")
    if TRASHNET.is_file() and (answer := trashnet.short(_of_trashnet())):
        lines.append(f"**{trashnet.TITLE}** {answer}")
    return "\n\n".join(lines) + "\n"


def pages() -> list[str]:
    """The sections with the evidence for that; draws their figures."""
    sections = []
    if effects.BENCH.is_file():
        sections.append(effects.page(_in_bench(), _excluded_in_bench()))
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


# Planted truth, and agreement


def _finds() -> str:
    groups = planted.grouped(planted.read(PLANTED).values())
    size = next(iter(planted.DATA))
    told = {
        "a random choice": "random",
        "PMPL with the paper's lead": "pmpl, paper's lead",
        "PMPL with a hasty lead": "pmpl, hasty lead",
        "PMPL with the lead": "pmpl, lead",
        "PMPL by evidence, with the best guess elsewhere": "pmpl, evidence, largest π",
    }
    levels = [noise for noise in planted.NOISE if all((size, s, noise) in groups for s in told.values())]
    parts = []
    for title, strategy in told.items():
        rows = [row for noise in levels if noise != "1.0" for row in groups[size, strategy, noise]]
        everything = [row for noise in levels for row in groups[size, strategy, noise]]
        wrong = planted.percent(planted.errors(everything))
        parts.append(f"{title} finds {planted.percent(planted.hits(rows))}, and of what it decides {wrong} is wrong")
    return (
        f"Where the right receptive field of a layer is known (planted truth, noise {levels[0]} to {levels[-1]}): "
        + "; ".join(parts).replace("of what it decides – is wrong", "decides nothing")
        + "."
        + effects.found(_in_bench())
        + effects.exclusions(_excluded_in_bench(), _in_bench())
    )


def _groups() -> dict[tuple[str, str], list[RunRow]]:
    """The searches of one setting on one data set, by data set and what they are called."""
    return grouped(records(collect([AGREEMENT]).frame), lambda run: (str(run["dataset"]), _name(run)))


def _name(run: RunRow) -> str:
    config = Record(run["path"]).config()
    supernets = config.strategy_options.get("supernets", 1)
    return str(run["label"]) + (f", {supernets} supernets for {config.epochs} epochs" if supernets > 1 else "")


def _in_bench() -> dict[str, list[tuple[str, ...]]]:
    """The answers of the searches in space `metapool_bench`, by strategy."""
    groups = _groups().items() if AGREEMENT.is_file() else ()
    return {
        name.replace(effects.SPACE, ""): [tuple(architecture_of(run).values()) for run in runs]
        for (_, name), runs in groups
        if effects.SPACE in name
    }


def _decisions() -> dict[tuple[str, str], list[Mapping[str, Decision]]]:
    """Why each seed of a search chose what, by data set and search."""
    return {key: [Record(run["path"]).decisions() for run in runs] for key, runs in _groups().items()}


def _excluded_in_bench() -> dict[str, list[tuple[int, str]]]:
    """Stage and candidate of what all seeds of a search in space `metapool_bench` exclude, by strategy."""
    found = {}
    for name, every in ((name, every) for (_, name), every in _decisions().items() if effects.SPACE in name):
        gone = [(LABELS.index(label) + 1, c) for made in every for label in made for c in made[label].excluded]
        if gone:
            found[name.replace(effects.SPACE, "")] = gone
    return found


def _repeats() -> str:
    parts, beyond_chance = [], []
    for (dataset, name), runs in _groups().items():
        ballots = votes([architecture_of(run) for run in runs])
        agreed, measured = share(map(tally, ballots.values())), kappa(ballots)
        half = "" if measured.half is None else f" ± {measured.half:.2f}"
        beyond = measured.why if measured.value is None else f"κ = {measured.value:.2f}{half}"
        by_chance = 100 * (chance(ballots.values()) or 0)
        if agreed is not None:
            parts.append(f"{name} on {dataset} {100 * agreed.value:.0f} % (by chance {by_chance:.0f} %, {beyond})")
        if measured.value is not None and measured.half is not None and measured.value > measured.half:
            beyond_chance.append(name)
    verdict = f"Beyond chance only {' and '.join(beyond_chance)}." if beyond_chance else "No more than by chance."
    same, pairs = _agreeing_decisions()
    if pairs:
        verdict += f" What two seeds both decide by evidence is the same in {same} of {pairs} cases."
    return f"{verdict} Layers in which two seeds agree: {'; '.join(parts)}."


def _agreeing_decisions() -> tuple[int, int]:
    """Of all pairs of seeds that both decided a layer by evidence, those that decided alike, and how many there are."""
    tallies = []
    for key, runs in _groups().items():
        chosen, made = votes([architecture_of(run) for run in runs]), _decisions()[key]
        for label, of_layer in chosen.items():
            told = zip(of_layer, made, strict=True)
            tallies.append(tally([c for c, decisions in told if decisions[label].by == "evidence"]))
    return sum(same for same, _ in tallies), sum(pairs for _, pairs in tallies)


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
