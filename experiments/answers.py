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
from nasbench.results.statistics import kappa, tally, votes
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
    lines = [" ".join(filter(None, [asked, effects.verdict(), *fashion, effects.matters()]))]
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
        words = "All levels of noise together, then each; found: of the layers that need a certain receptive field."
        tables = f"{_rules_table()}\n\n{planted.table(rows)}"
        sections.append(f"## Planted truth\n\n{picture}\n\n{words}\n\n{tables}\n")
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


# What is told of planted truth in short, by what the rows are called there.
RULES = {
    "a random choice": "random",
    "a hasty lead": "pmpl, hasty lead",
    "the paper's lead": "pmpl, paper's lead",
    "the lead": "pmpl, lead",
    "evidence, the largest π elsewhere": "pmpl, evidence, largest π",
}
HASTY, LEAD, BY_EVIDENCE = "pmpl, hasty lead", "pmpl, lead", "pmpl, evidence, largest π"


def _planted(data: str) -> dict[str, list[planted.Row]]:
    """The searches of each rule at the levels of noise that all rules have on so many images, by strategy."""
    groups = planted.grouped(planted.read(PLANTED).values())
    names = [s for s in RULES.values() if any(key[:2] == (data, s) for key in groups)]
    levels = [noise for noise in planted.NOISE if all((data, s, noise) in groups for s in names)]
    return {s: [row for noise in levels for row in groups[data, s, noise]] for s in names}


def _finds() -> str:
    many, few = map(_planted, planted.DATA)
    if not {HASTY, LEAD, BY_EVIDENCE} <= few.keys() & many.keys():
        return ""
    found = {s: planted.percent(planted.hits(_noisy(rows))) for s, rows in many.items()}
    decided = {s: planted.errors([*many[s], *few[s]]) for s in (HASTY, LEAD, BY_EVIDENCE)}
    wrong = {s: f"{part} of {whole}" for s, (part, whole) in decided.items()}
    return (
        "Where the right receptive field of a layer is known (planted truth), evidence finds "
        f"{found[BY_EVIDENCE]}, the lead {found[LEAD]}, a hasty lead {found[HASTY]}, a random choice "
        f"{found['random']}. Of what they decide, {wrong[BY_EVIDENCE]} layers are wrong by evidence, {wrong[LEAD]} by "
        f"the lead, {wrong[HASTY]} by the hasty one."
    )


def _noisy(rows: Sequence[planted.Row]) -> list[planted.Row]:
    return [row for row in rows if row["noise"] != "1.0"]  # where there is nothing to find


def _rules_table() -> str:
    columns = ("images", "chosen by", "found", "decided", "of these wrong")
    lines = [columns, ("--",) * len(columns)]
    for data in planted.DATA:
        rules = _planted(data)
        for title, strategy in RULES.items():
            if strategy in rules:
                wrong = planted.errors(rules[strategy])
                found = planted.percent(planted.hits(_noisy(rules[strategy])))
                lines.append((data.split()[0], title, found, str(wrong[1]), planted.percent(wrong)))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


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
    measured = {key: kappa(votes([architecture_of(run) for run in runs])) for key, runs in _groups().items()}
    known = {
        f"{name} on {dataset}": (k.value, k.half) for (dataset, name), k in measured.items() if k.value is not None
    }
    beyond = [name for name, (value, half) in known.items() if half is not None and value > half]
    verdict = f"Beyond chance only {' and '.join(beyond)}." if beyond else "No more than by chance."
    if known:
        values = [value for value, _ in known.values()]
        verdict += (
            f" Fleiss' κ between seeds is {min(values):.2f} to {max(values):.2f} in {len(values)} settings of search"
        )
        verdict += "." if beyond else ", and 0 is in every interval."
    same, pairs = _agreeing_decisions()
    if pairs:
        verdict += f" What two seeds both decide by evidence is the same in {same} of {pairs} cases."
    return verdict


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
