"""What the choices of metapool-bench's stages do to accuracy, and how good what searches find there is."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import metapool_bench
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import chi2, kendalltau
from scipy.stats import f as f_distribution
from scipy.stats import t as t_distribution

from nasbench.files import write_atomic
from nasbench.packs import SUFFIX
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.collect import collect
from nasbench.results.formats import markdown
from nasbench.results.style import PAGE, SETTINGS, encode, new_figure
from nasbench.results.tables import records

HERE = Path(__file__).parent
BENCH = HERE / "records" / f"metapool_bench{SUFFIX}"
IMAGES = HERE.parent / "docs" / "images"
SPACE = " (ablation) in metapool_bench"  # how labels of searches there end
SEARCH = "pmpl by evidence"  # what searches in the space are called whose exclusions are drawn
SIGNIFICANT = 0.001
FEWEST = 10  # networks with several seeds, of which more are needed to tell a seed's accident from the choice
STAGES = 5
CANDIDATES = metapool_bench.CANDIDATES

Networks = dict[tuple[str, ...], dict[int, float]]  # candidates → seed → top-1
Answers = Mapping[str, Sequence[tuple[str, ...]]]  # name of a search → what its seeds found


def networks() -> Networks:
    """Test accuracy of every network that was trained."""
    found: Networks = {}
    for run in records(collect([BENCH]).frame):
        chosen = tuple(json.loads(run["architecture"]).values())
        found.setdefault(chosen, {})[int(run["seed"])] = float(run["top1"])
    return found


def balanced(found: Networks) -> Networks:
    """All networks where each was trained, else those of the fraction, with the seeds that all of these have, or none.

    What a seed adds to every network, by its mean over the fraction, is taken out: not all networks have all seeds.
    """
    every = [tuple(a.values()) for a in metapool_bench.networks().values()]
    fraction = [name for name in every if metapool_bench.in_fraction(name)]
    seeds = set.intersection(*(set(found.get(name, {})) for name in fraction))
    if not seeds:
        return {}
    means = {seed: float(np.mean([found[name][seed] for name in fraction])) for seed in seeds}
    middle = float(np.mean(list(means.values())))
    shown = every if all(seeds & set(found.get(name, {})) for name in every) else fraction
    return {name: {s: found[name][s] + middle - means[s] for s in seeds & set(found[name])} for name in shown}


@dataclass(frozen=True)
class Noise:
    """How much of what networks differ by is a seed's accident; deviations of the accuracy of one training."""

    networks: int
    seed: float  # of one network between its seeds
    low: float  # of its 95 % interval, by χ²
    high: float
    choice: float  # of networks, without that; 0 where seeds alone explain as much
    p: float  # of the F test that it is 0

    def words(self) -> str:
        """In a sentence."""
        return (
            f"Between seeds the same network differs by {100 * self.seed:.2f} points ({100 * self.low:.2f} to "
            f"{100 * self.high:.2f}), networks beyond that by {100 * self.choice:.2f} (deviations, {self.networks} "
            f"networks with several seeds; p = {self.p:.2g} for no difference): a single training is {self.shares()}."
        )

    def shares(self) -> str:
        """Of the variance of a single training, in words."""
        total = self.seed**2 + self.choice**2
        return f"{self.choice**2 / total:.0%} choice and {self.seed**2 / total:.0%} accident"


def noise(found: Networks) -> Noise | None:
    """The components of variance of a one-way analysis with networks as groups; `None` of too few repeated ones.

    The mean of each seed is taken out first: it is the same accident for all.
    """
    seeds = {seed for by_seed in found.values() for seed in by_seed}
    whole = [v for v in found.values() if len(v) == len(seeds)]
    if len(whole) <= FEWEST or len(seeds) < 2:
        return None
    values = np.array([[v[seed] for seed in sorted(seeds)] for v in whole])
    values = values - values.mean(0)
    count, repeats = values.shape
    free = (count - 1) * (repeats - 1)
    within = float(((values - values.mean(1, keepdims=True)) ** 2).sum()) / free
    between = repeats * float(values.mean(1).var(ddof=1))
    low, high = (np.sqrt(within * free / chi2.ppf(q, free)) for q in (0.975, 0.025))
    choice = max(0.0, (between - within) / repeats) ** 0.5
    p = float(f_distribution.sf(between / within, count - 1, free))
    return Noise(count, within**0.5, float(low), float(high), choice, p)


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


def verdict() -> str:
    """Whether the choices matter, in a few words or none."""
    block = balanced(networks()) if BENCH.is_file() else {}
    if not block:
        return ""
    if all(e.p >= SIGNIFICANT for e in effects(block)):
        return "Not measurably."
    repeated = noise(networks())
    is_loud = repeated is not None and repeated.seed > repeated.choice
    return "Yes, but less than a seed's accident." if is_loud else "Yes."


def matters() -> str:
    """Where the choices matter, in sentences or none."""
    block = balanced(networks()) if BENCH.is_file() else {}
    if not block:
        return ""
    measured = effects(block)
    first = min(measured, key=lambda e: e.p)
    worst, best = (pick(first.means, key=lambda c: first.means[c]) for pick in (min, max))
    clear = ", ".join(str(e.stage) for e in measured if e.p < SIGNIFICANT)
    repeated = noise(networks())
    return (
        f"On Imagenette at 48 px (metapool-bench, {_which(block)}, {sum(map(len, block.values()))} trainings) it "
        f"matters in {f'stages {clear}' if clear else 'no stage'} at p < {SIGNIFICANT:g}, most in stage {first.stage}, "
        f"where {worst} is {100 * (first.means[best] - first.means[worst]):.1f} points below {best}"
        + (f"; a single training is {repeated.shares()}." if repeated is not None else ".")
    )


def _which(block: Networks) -> str:
    is_whole = len(block) == len(CANDIDATES) ** STAGES
    return f"all {len(block)} networks" if is_whole else f"the {len(block)} networks of a balanced design"


def page(searches: Answers, excluded: Mapping[str, Sequence[tuple[int, str]]]) -> str:
    """The section on the bench; draws its figure. `excluded`: as in `exclusions`."""
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
        notes.append(f"Shown: {_which(block)}, in which every two stages have all pairs of candidates equally often.")
    for one, other in itertools.combinations(seeds, 2):
        both = np.array([(v[one], v[other]) for v in found.values() if one in v and other in v])
        if len(both) > FEWEST:
            tau = kendalltau(*both.T).statistic
            rng = np.random.default_rng(0)
            drawn = [kendalltau(*both[rng.integers(0, len(both), len(both))].T).statistic for _ in range(1000)]
            low, high = np.nanquantile(drawn, (0.025, 0.975))
            notes.append(
                f"Kendall's τ between seeds {one} and {other}: {tau:.2f} ({low:.2f} to {high:.2f}, bootstrap over "
                f"networks) over {len(both)} networks."
            )
    if (repeated := noise(found)) is not None:
        notes.append(repeated.words())
    caption = "Mean test accuracy by the choice of a stage, and p of its main effect (analysis of variance)."
    table = markdown(Table("bench", caption, columns, tuple(rows), tuple(notes)))
    if not measured:
        return f"## metapool-bench\n\n{table}"
    drawn = _effects_figure(measured, Counter(excluded.get(SEARCH, ())), len(searches.get(SEARCH, ())))
    write_atomic(IMAGES / "metapool_bench.png", encode(drawn, "png"))
    picture = "![Accuracy by the choice of each stage](images/metapool_bench.png)"
    words = (
        "Means over the networks with a candidate in a stage, and their 95 % intervals. Below a candidate: how many of "
        "the searches by evidence, which saw no test image, have excluded it. An asterisk: the stage matters at "
        f"p < {SIGNIFICANT:g}."
    )
    tables = [table, _merits_table(block, measured, searches), exclusions(excluded, searches)]
    return f"## metapool-bench\n\n{picture}\n\n{words}\n\n" + "\n".join(filter(None, tables))


@dataclass(frozen=True)
class Merit:
    """How good the answers of a search are, as far as the stages' effects tell."""

    seeds: int
    gain: float  # in accuracy, of the mean answer to the mean of all networks
    half: float  # what the noise of the effects makes of it, 95 %
    better: float  # share of all networks that are better than an answer


def best_gain(measured: Sequence[Effect]) -> float:
    """The largest sum of effects."""
    return sum(max(e.means.values()) for e in measured) - STAGES * _middle(measured)


def _middle(measured: Sequence[Effect]) -> float:
    return float(np.mean(list(measured[0].means.values())))


def merits(block: Networks, measured: Sequence[Effect], searches: Answers) -> dict[str, Merit]:
    """Of one candidate everywhere, and of every search in this space, by name."""

    def gain(names: Sequence[str]) -> float:
        return sum(e.means[c] for e, c in zip(measured, names, strict=True)) - STAGES * _middle(measured)

    every = np.array([gain(names) for names in itertools.product(CANDIDATES, repeat=STAGES)])
    found = {**{f"{c} everywhere": [(c,) * STAGES] for c in CANDIDATES}, **searches}
    result = {}
    for label, answers in found.items():
        # The weight of each network's accuracy in this sum of effects, which says what its noise makes.
        shares = [Counter(names[s] for names in answers) for s in range(STAGES)]
        taken = np.array([sum(shares[s][k[s]] for s in range(STAGES)) for k in block]) / len(answers)
        weights = (len(CANDIDATES) * taken - STAGES) / len(block)
        half = measured[0].half * float(np.linalg.norm(weights)) * (len(block) / len(CANDIDATES)) ** 0.5
        gains = [gain(names) for names in answers]
        better = float(np.mean([(every > g).mean() for g in gains]))
        result[label] = Merit(len(answers), float(np.mean(gains)), half, better)
    return result


def _merits_table(block: Networks, measured: Sequence[Effect], searches: Answers) -> str:
    rows = [
        {
            "search": Cell(label),
            "seeds": Cell(m.seeds),
            "gain": Cell(m.gain, half=m.half, change=True),
            "better": Cell(m.better),
        }
        for label, m in merits(block, measured, searches).items()
    ]
    columns = (
        *(Column("search", "Answer"), Column("seeds", "seeds", "count", 0)),
        *(Column("gain", "against the mean network", "points", 2), Column("better", "better ones (%)", "percent", 0)),
    )
    notes = (
        "In points of top-1, by the sum of the stages' effects, ± what the noise of the table above makes; the best of "
        f"all 243 networks is predicted at {100 * best_gain(measured):+.1f}. Better ones: the share of the 243 that is "
        "predicted to be better; 50 % by chance.",
    )
    caption = "What searches find in this space (the searches of agreement of seeds)."
    return markdown(Table("merits", caption, columns, tuple(rows), notes))


def _effects_figure(measured: Sequence[Effect], excluded: Mapping[tuple[int, str], int], searches: int) -> Figure:
    with matplotlib.rc_context(fname=SETTINGS):
        drawn = new_figure(PAGE, 2.2)
        panels = drawn.subplots(1, len(measured), sharey=True)
        for axes, effect in zip(panels, measured, strict=True):
            values = [100 * effect.means[c] for c in CANDIDATES]
            axes.errorbar(
                range(len(values)), values, 100 * effect.half, color="black", fmt="o", markersize=3, capsize=2
            )
            for place, (candidate, value) in enumerate(zip(CANDIDATES, values, strict=True)):
                if count := excluded.get((effect.stage, candidate)):
                    at = (place, value - 100 * effect.half)
                    words = f"out in\n{count} of {searches}"
                    axes.annotate(words, at, (0, -3), textcoords="offset points", ha="center", va="top", fontsize=7)
            axes.margins(y=0.28)
            axes.set_xticks(range(len(values)), CANDIDATES)
            axes.set_xlim(-0.5, len(values) - 0.5)
            axes.set_title(f"stage {effect.stage}" + (" *" if effect.p < SIGNIFICANT else ""), loc="left")
        panels[0].set_ylabel("top-1 (%)")
    return drawn


def success(searches: Answers, name: str) -> str:
    """How good what one of the searches finds is, in a few words or none."""
    block = balanced(networks()) if BENCH.is_file() else {}
    if not block or name not in searches:
        return ""
    known = merits(block, effects(block), searches)
    found, plain = known[name], known["none everywhere"]
    if found.gain - found.half <= 0:
        return "In metapool-bench it is not told apart from a random choice."
    beyond = "better than" if found.gain - found.half > plain.gain + plain.half else "not better than"
    return f"In metapool-bench it is better than a random choice, and {beyond} no enhancer at all."


def exclusions(excluded: Mapping[str, Sequence[tuple[int, str]]], searches: Answers) -> str:
    """What searches by evidence exclude here and what it is worth, if anything; stage (from 1) and candidate each."""
    block = balanced(networks()) if BENCH.is_file() else {}
    if not block or not excluded:
        return ""
    stages = {e.stage: e for e in effects(block)}
    rows = [
        {
            "what": Cell(f"{candidate} in stage {stage}"),
            **{name: Cell(f"{list(gone).count((stage, candidate))}") for name, gone in excluded.items()},
            "gap": Cell(stages[stage].means[candidate] - max(stages[stage].means.values()), change=True),
        }
        for stage, candidate in sorted(set(itertools.chain.from_iterable(excluded.values())))
    ]
    columns = (
        Column("what", "Excluded"),
        *(Column(name, f"{name}, of {len(searches[name])}") for name in excluded),
        Column("gap", "to the stage's best", "points", 1),
    )
    caption = "What evidence excludes in this space, and what that candidate is worth by the trainings."
    return markdown(Table("excluded", caption, columns, tuple(rows), ()))
