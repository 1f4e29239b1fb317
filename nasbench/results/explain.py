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
from nasbench.facts import Decision, Doubt
from nasbench.reasons import BUDGET, EVIDENCE, GIVEN, LEAD, LIMIT, REMOVAL, UNDECIDED
from nasbench.record import CONFIG, Record
from nasbench.results import formats
from nasbench.results.cells import Cell, Column, Table, number
from nasbench.results.seen import Seen
from nasbench.terminal import plain_table

FURTHER = 10.0  # times the steps of a search that a longer one may be advised to have
MOST_NAMES = 8  # candidates in a sentence
DIFFERENCE = 2.0  # standard errors of the mean preference under which nothing is to be seen
# Option `undecided` of the strategies → what it takes, and why that is sensible.
RULES = {
    "cheapest": (
        "the cheapest of those left",
        "Where nothing is proven against several candidates, the one that computes least is the safe default: no "
        "loss of accuracy is proven, and time and energy on the device are saved. No extra layer comes before a local "
        "one, that before a global one.",
    ),
    "largest_pi": (
        "the one of those left with the largest π",
        "π is the weight that the search has given to a candidate. The largest one is the best guess that there is, "
        "and no more than a guess: another search may well guess otherwise.",
    ),
}
# `Decision.by` → verdict.
KNOWN = {
    EVIDENCE: "decided",
    UNDECIDED: "undecided",
    LEAD: "led by ρ",
    LIMIT: "largest π",
    REMOVAL: "needed most",
    GIVEN: "given",
    BUDGET: "below the limit",
}
COLUMNS = (
    Column("layer", "layer"),
    Column("candidate", "candidate"),
    Column("why", "why"),
    Column("survivors", "left"),
    Column("excluded", "ruled out"),
    Column("halves", "best in each half of the search"),
)


@dataclass(frozen=True)
class Layer:
    """What is known of a layer."""

    label: str
    candidate: str
    verdict: str  # in a word or two
    sentences: tuple[str, ...]  # how sure that is, and why
    excluded: tuple[str, ...]  # alternatives that were ruled out, the first first


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
    kinds, layers = Counter(decisions[label].by for label in record.architecture()), []
    for label, candidate in record.architecture().items():
        decision = decisions[label]
        verdict, told = KNOWN.get(decision.by, decision.by), tuple(_sentences(decision, str(candidate), config))
        layers.append(Layer(label, str(candidate), verdict, told, tuple(reasons.exclusions(decision))))
    return Explanation(
        title=f"{config.space} · {config.method} on {config.dataset}, seed {config.seed}",
        answer=tuple(_answer(record, kinds)),
        layers=tuple(layers),
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
        known = Text(layer.verdict, style="bold" if layer.verdict == KNOWN[EVIDENCE] else "")
        out = [f"Ruled out: {'; '.join(layer.excluded)}."] if layer.excluded else []
        known.append("\n".join(["", *layer.sentences, *out]), style="not bold")
        grid.add_row(Text(layer.label), Text(layer.candidate), known)
    answer = map(Text, (*explanation.answer, *seen.missing))
    parts: list[RenderableType] = [Text(explanation.title, style="bold"), "", *answer, "", grid]
    if seen.layers:
        parts += ["", formats.rich(seen.layers)]
    if seen.shots:
        parts += ["", Text("What it gets wrong", style="bold"), Text(_mistakes(seen))]
        for s in seen.shots.wrong:
            parts.append(Text(f"- {s.name}: {s.true}, taken for {s.predicted} ({100 * s.probability:.0f} %)"))
    for heading, paragraph in explanation.reading:
        parts += ["", Text(heading, style="bold"), Text(paragraph)]
    parts += ["", Text("What to do next", style="bold")]
    for text, commands in explanation.advice:
        parts += [Text(f"- {text}"), *(Text(f"    {c}", no_wrap=True, overflow="ignore") for c in commands)]
    return Group(*parts)


def layers_table(record: Record, name: str, caption: str) -> Table:
    """What is known of every layer, as a table; the sum of the evidence is added to its caption."""
    decisions = record.decisions()
    rows = []
    for label, candidate in record.architecture().items():
        decision = decisions[label]
        out, left = "; ".join(reasons.exclusions(decision)), ", ".join(decision.survivors)
        cells = (label, str(candidate), reasons.why(decision, candidate), left, out, ", ".join(decision.halves))
        rows.append({c.key: Cell(text or None) for c, text in zip(COLUMNS, cells, strict=True)})
    return Table(name, f"{caption}: {reasons.evidence(record) or 'no evidence gathered'}.", COLUMNS, tuple(rows))


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
            told += f"{100 * gathered.error:.3g} % of cases."
        yield told
    if kinds[LEAD] or kinds[LIMIT]:
        led = f"{kinds[LEAD]} of {total} layers were fixed because one candidate led by ρ"
        largest = f"{kinds[LIMIT]} of {total} layers have what had the largest π when the search ended"
        told = "; ".join(text for by, text in ((LEAD, led), (LIMIT, largest)) if kinds[by])
        what = f"{told}. {'A lead of ρ' if kinds[LEAD] else 'The largest π'} is no measure of certainty"
        yield f"{what}: how many of these choices are chance, this record cannot tell."
    if kinds[REMOVAL]:
        told = f"{kinds[REMOVAL]} of {total} layers have the candidate without which the search's network was worst"
        yield f"{told}: how much of that is chance, this record cannot tell."
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
        yield longer(config, undecided, again)
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


def longer(config: RunConfig, undecided: dict[str, Decision], again: str) -> tuple[str, tuple[str, ...]]:
    """Whether more steps would decide one of the undecided layers, and the command for it, based on `again`."""
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


def rule(config: RunConfig) -> tuple[str, str]:
    """What an undecided layer takes, and why."""
    name = str(config.strategy_options.get("undecided"))
    return RULES.get(name, (f"a default of the strategy ({name})", "The strategy has a rule of its own for them."))


def _sentences(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    """How sure a layer's candidate is, and why; nothing where what decided speaks for itself."""
    if decision.by == EVIDENCE and not decision.excluded:
        yield "There was nothing to choose from."
        return
    if decision.by == EVIDENCE:
        out = decision.excluded.values()
        last, least = max(e.step for e in out), reasons.odds(min(e.odds for e in out))
        if len(out) == 1:
            yield f"The only alternative was ruled out, at step {last:,}. How sure: {least}."
        else:
            every = f"All {len(out)} alternatives were ruled out, the last at step {last:,}"
            yield f"{every}. How sure: {least} or more for each."
    elif decision.by == UNDECIDED:
        yield f"Not ruled out: {listed(decision.survivors, MOST_NAMES)}."
        if decision.doubt:
            yield _difference(decision.doubt)
    elif decision.by == LEAD:
        rho = config.strategy_options.get("rho")
        by = f" by ρ = {rho:g}" if isinstance(rho, (int, float)) else " by ρ"
        yield f"It led{by} at step {decision.step or 0:,}{_weights(decision, candidate)}. How sure: not known."
    elif decision.by == REMOVAL:
        yield f"Without it the network was worst, at step {decision.step or 0:,}. How sure: not known."
    elif decision.by == LIMIT:
        what = "It had the largest π" if reasons.has_largest_pi(decision, candidate) else "The strategy chose it"
        yield f"{what} when the search ended{_weights(decision, candidate)}. How sure: not known."
    elif decision.by == BUDGET:
        limits = listed([f"{name} {limit}" for name, limit in config.limits.items()], MOST_NAMES)
        wanted = f"Without the limits ({limits}) it would be “{decision.wanted}”"
        yield f"{wanted}: too much, together with the other layers."
    if decision.by in (EVIDENCE, UNDECIDED, LEAD, LIMIT) and len(decision.halves) == 2:
        first, second = decision.halves
        if first == second:
            yield f"Each half of the search, taken by itself, prefers “{first}”."
        else:
            yield f"The two halves of the search disagree: the first prefers “{first}”, the second “{second}”."
    if decision.by == UNDECIDED:
        two = (decision.doubt.best, decision.doubt.rival) if decision.doubt else (candidate,)
        neither = "" if candidate in two else ", though it is neither of these two"
        yield f"“{candidate}” was taken as {rule(config)[0]}{neither}."


def _difference(doubt: Doubt) -> str:
    """What was seen between the two best candidates, and how long it would take to tell them apart."""
    share = abs(doubt.mean) / doubt.deviation if doubt.deviation > 0 else 0.0
    seen = f"No difference seen between “{doubt.best}” and “{doubt.rival}”"
    if share * math.sqrt(doubt.steps) > DIFFERENCE:
        seen = f"“{doubt.best}” looks better than “{doubt.rival}”, but that may be chance"
    shown = f"{share:.2g}" if share >= 0.001 else "under 0.001"
    size = f"the mean preference is {shown} of its step-to-step deviation" if doubt.mean else "they are level"
    prospect = "no number of steps would tell"
    if doubt.needed is not None:
        had = f", and this search had {doubt.steps:,}" if doubt.needed > doubt.steps else ""
        prospect = f"{reasons.about(doubt.needed)} steps of new images would tell{had}"
    return f"{seen}: {size}; {prospect}."


def _weights(decision: Decision, candidate: str) -> str:
    chosen, other = (decision.pi or {}).get(candidate), reasons.runner_up(decision, candidate)
    return "" if chosen is None or other is None else f" (π {chosen:.2g}; {other[0]}, the next, {other[1]:.2g})"
