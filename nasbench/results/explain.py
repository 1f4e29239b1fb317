"""What a search knows, for readers who know nothing of architecture search."""

import math
import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from nasbench import reasons
from nasbench.config import RunConfig
from nasbench.errors import listed
from nasbench.facts import Decision
from nasbench.reasons import EVIDENCE, GIVEN, LEAD, LIMIT, UNDECIDED
from nasbench.record import CONFIG, Record
from nasbench.results import formats
from nasbench.results.cells import number
from nasbench.results.layers import KNOWN, MOST_NAMES, Layer, layers, rule
from nasbench.results.seen import Seen
from nasbench.terminal import plain_table

FURTHER = 10.0  # times the steps of a search that a longer one may be advised to have


@dataclass(frozen=True)
class Explanation:
    """A record in words."""

    title: str  # which run it is
    answer: tuple[str, ...]  # the outcome in a few sentences
    layers: tuple[Layer, ...]
    reading: tuple[tuple[str, str], ...]  # headings and paragraphs on how to understand it
    advice: tuple[tuple[str, tuple[str, ...]], ...]  # what to do next, and commands for that


def explain(record: Record) -> Explanation:
    """Put a record into words. Raises RecordError: the search is not over, or the record is damaged."""
    config, decisions = record.config(), record.decisions()
    kinds = Counter(decisions[label].by for label in record.architecture())
    return Explanation(
        title=f"{config.space} · {config.method} on {config.dataset}, seed {config.seed}",
        answer=tuple(_answer(record, kinds)),
        layers=tuple(layers(record)),
        reading=tuple(_reading(config, kinds)),
        advice=tuple(_advice(record)),
    )


def page(explanation: Explanation, seen: Seen) -> str:
    """An explanation, and what the network sees, as HTML that loads nothing."""
    return formats.render_page("explain.html", it=explanation, seen=seen, mistakes=_mistakes(seen))


def _mistakes(seen: Seen) -> str:
    shots = seen.shots
    if shots is None:
        return ""
    if not shots.errors:
        return f"None of {shots.images:,} test images."
    share = number(shots.errors / shots.images, "percent", 1, unit=True)
    most = "" if shots.errors == len(shots.wrong) else f" The {len(shots.wrong)} of which it was surest:"
    return f"{shots.errors:,} of {shots.images:,} test images ({share}), {shots.confusion}.{most}"


def terminal(explanation: Explanation, seen: Seen) -> RenderableType:
    """An explanation for the terminal, and what the network sees as far as words can tell."""
    grid = plain_table("layer", "candidate", "what is known")
    for layer in explanation.layers:
        known = Text(layer.verdict, style="bold" if layer.look == "decided" else "")
        out = [f"Ruled out: {'; '.join(layer.excluded)}."] if layer.excluded else []
        known.append("\n".join(["", *layer.sentences, *out]), style="not bold")
        grid.add_row(Text(layer.label), Text(layer.candidate), known)
    parts: list[RenderableType] = [
        Text(explanation.title, style="bold"),
        "",
        *map(Text, (*explanation.answer, *seen.missing)),
        "",
        grid,
    ]
    if seen.layers:
        parts += ["", formats.rich(seen.layers)]
    if seen.shots:
        parts += ["", Text("What it gets wrong", style="bold"), Text(_mistakes(seen))]
        parts += [
            Text(f"- {s.name}: {s.true}, taken for {s.predicted} ({100 * s.probability:.0f} %)")
            for s in seen.shots.wrong
        ]
    for heading, paragraph in explanation.reading:
        parts += ["", Text(heading, style="bold"), Text(paragraph)]
    parts += ["", Text("What to do next", style="bold")]
    for text, commands in explanation.advice:
        parts += [Text(f"- {text}"), *(Text(f"    {command}") for command in commands)]
    return Group(*parts)


def _answer(record: Record, kinds: Counter[str]) -> Iterator[str]:
    chosen = Counter(map(str, record.architecture().values())).most_common()
    names = [f"“{name}” in {count} {'layer' if count == 1 else 'layers'}" for name, count in chosen]
    trained = ""
    if record.finished("test"):
        result = record.result()
        accuracy = number(result.top1, "percent", unit=True)
        trained = f" It gets {accuracy} of the test images right, with {result.params:,} parameters."
    yield f"The network has {listed(names, MOST_NAMES)}.{trained}"
    gathered, total = reasons.evidence(record), kinds.total()
    if gathered:
        decided = "none" if not gathered.decided else "all" if gathered.decided == total else gathered.decided
        told = f"The evidence of this search decides {decided} of {total} layers."
        if left := kinds[UNDECIDED]:
            told += f" In {'all' if left == total else left} it cannot tell which of the remaining candidates is best; "
            told += f"there a default was taken: {rule(record.config())[0]}."
        yield told
        told = f"{gathered.excluded} of {gathered.alternatives} alternatives were ruled out."
        if gathered.error is not None:
            told += " If no candidate were better than another, a search would still rule one out in at most "
            told += f"{reasons.percent(gathered.error)} of cases."
        yield told
    if kinds[LEAD] or kinds[LIMIT]:
        led = f"{kinds[LEAD]} of {total} layers were fixed because one candidate led by ρ"
        largest = f"{kinds[LIMIT]} of {total} layers have what had the largest π when the search ended"
        told = "; ".join(text for by, text in ((LEAD, led), (LIMIT, largest)) if kinds[by])
        what = f"{told}. {'A lead of ρ' if kinds[LEAD] else 'The largest π'} is no measure of certainty"
        yield f"{what}: how many of these choices are chance, this record cannot tell."
    if kinds[GIVEN]:
        yield "Nothing was searched: the architecture was given, so there is nothing to be sure of or to doubt."
    words = [by for by in kinds if by not in KNOWN]
    if words:
        yield f"How the architecture was chosen as a whole: {listed(words, 2)}. Of single layers that says nothing."


def _reading(config: RunConfig, kinds: Counter[str]) -> Iterator[tuple[str, str]]:
    if kinds[EVIDENCE] or kinds[UNDECIDED]:
        of = "that one network" if _supernets(config) == 1 else f"{_supernets(config)} such networks"
        yield (
            "What odds mean",
            "In the search one large network holds all candidates of all layers, and every batch of images says which "
            "of two it would rather have more of. Odds of 35 to 1 mean: if the two were equally good, so clear a "
            "preference would turn up anywhere in the network, at any time, in at most one of 35 searches. They are "
            f"about {of} and these images, and do not say by how much the finished network is better.",
        )
        yield (
            "What “undecided” means",
            "Not that the candidates are equal, but that this search cannot tell them apart. Another seed may prefer "
            "another one. The number of steps that would tell supposes that the batches go on as they did, "
            "with images that were not seen before.",
        )
        yield f"Why {rule(config)[0]} is taken", rule(config)[1]
    if kinds[LEAD] or kinds[LIMIT]:
        yield (
            "What π and ρ are",
            "π is the weight that the search gives to a candidate of a layer; the weights of a layer add up to 1. They "
            "start out equal and move a little with every batch. A layer that was led by ρ was fixed as soon as its "
            "largest weight was ahead of the next by ρ.",
        )
        yield (
            "Why a lead is no certainty",
            "How fast π moves is set by the learning rate of the search, not by how much better a candidate is. With a "
            "large one a few batches that happen to agree are enough for a lead of ρ; with a small one nothing ever "
            "leads. So take these choices as one draw, and see whether another seed draws the same.",
        )
    if not kinds.keys() & {EVIDENCE, UNDECIDED, LEAD, LIMIT}:
        yield (
            "What the accuracy tells",
            "The accuracy is that of the network as a whole. What a single layer adds to it can only be seen beside "
            "the same network with another candidate there.",
        )


def _advice(record: Record) -> Iterator[tuple[str, tuple[str, ...]]]:
    config, decisions, chosen = record.config(), record.decisions(), record.architecture()
    again = f"nasbench run --config {shlex.quote(str(record.path / CONFIG))}"
    undecided = {label: decisions[label] for label in chosen if decisions[label].by == UNDECIDED}
    if undecided:
        yield _longer(config, undecided, again)
    if undecided and "supernets" in config.strategy_options:
        yield (
            "Ask several networks side by side: what they agree on is likelier to hold for yours.",
            (f"{again} -s supernets={max(3, 2 * _supernets(config))}",),
        )
    if not reasons.evidence(record):
        strategy = "" if "fixing" in config.strategy_options else "--strategy pmpl "
        yield "Let evidence decide, which says how sure it is.", (f"{again} {strategy}-s fixing=evidence",)
    seed = (config.seed + 1) % 2**32
    if config.strategy is not None:
        yield "See whether another seed finds the same.", (f"{again} --seed {seed}",)
    rivals = {label: _rival(decisions[label], str(chosen[label])) for label in (*undecided, *chosen)}
    label, rival = next(((k, v) for k, v in rivals.items() if v), (next(iter(chosen)), None))
    instead = f"{f'“{rival}”' if rival else 'another candidate'} in place of “{chosen[label]}” in {label}"
    fixed, both = f"{again} --strategy fixed --choice", (shlex.quote(str(record.path)), "other.json")
    yield (
        f"Train both and look: other.json is a copy of the record's architecture.json with {instead}. Take several "
        "seeds; a difference smaller than that between seeds is none.",
        tuple(f"{fixed} {choice} --seed {seed}" for choice in both),
    )


def _supernets(config: RunConfig) -> int:
    count = config.strategy_options.get("supernets")
    return count if isinstance(count, int) and count > 1 else 1


def _longer(config: RunConfig, undecided: dict[str, Decision], again: str) -> tuple[str, tuple[str, ...]]:
    doubts = {label: d.doubt for label, d in undecided.items() if d.doubt}
    factors = {label: d.needed / d.steps for label, d in doubts.items() if d.needed and d.steps}
    if not factors:
        return "Searching longer would not help: there is no difference to be seen.", ()
    label, factor = min(factors.items(), key=lambda item: item[1])
    steps = f"{reasons.about(doubts[label].needed or 0)} steps, and had {doubts[label].steps:,}"
    needed = f"{label}, the nearest to a decision, would take {steps}"
    if factor > FURTHER or config.epochs is None:
        return f"Searching longer will hardly help: {needed}.", ()
    return f"Search longer: {needed}.", (f"{again} --epochs {math.ceil(config.epochs * max(factor, 1.5))}",)


def _rival(decision: Decision, candidate: str) -> str | None:
    """The candidate to hold against the one that was chosen."""
    doubt, other = decision.doubt, reasons.runner_up(decision, candidate)
    named = [*((doubt.best, doubt.rival) if doubt else ()), *decision.survivors, *([other[0]] if other else [])]
    return next((name for name in named if name != candidate), None)
