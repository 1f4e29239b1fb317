"""What is known of every layer of a record, in sentences and as a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nasbench import reasons
from nasbench.config import RunConfig
from nasbench.errors import listed
from nasbench.facts import Decision
from nasbench.reasons import BUDGET, EVIDENCE, GIVEN, LEAD, LIMIT, UNDECIDED
from nasbench.record import Record
from nasbench.results.cells import Cell, Column, Table

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


@dataclass(frozen=True)
class Layer:
    """What is known of a layer.

    Attributes:
        label: of the layer.
        candidate: that it has.
        verdict: in a word or two.
        look: `decided`, `undecided` or nothing, for the page.
        sentences: how sure that is, and why.
        excluded: alternatives that were ruled out, the first first.
    """

    label: str
    candidate: str
    verdict: str
    look: str
    sentences: tuple[str, ...]
    excluded: tuple[str, ...]


def layers(record: Record) -> list[Layer]:
    """What is known of every layer.

    Raises:
        RecordError: the search is not over, or the record is damaged.
    """
    config, decisions = record.config(), record.decisions()
    found = []
    for label, candidate in record.architecture().items():
        decision = decisions[label]
        verdict, look, sentences = KNOWN.get(decision.by, (decision.by, "", _nothing))
        told = tuple(sentences(decision, str(candidate), config))
        found.append(Layer(label, str(candidate), verdict, look, told, tuple(reasons.exclusions(decision))))
    return found


def table(record: Record, name: str, caption: str) -> Table:
    """What is known of every layer, as a table.

    Args:
        record: whose search is over.
        name: of the table.
        caption: of it, to which the sum of the evidence is added.
    """
    decisions = record.decisions()
    rows = []
    for label, candidate in record.architecture().items():
        decision = decisions[label]
        out, left = "; ".join(reasons.exclusions(decision)), ", ".join(decision.survivors)
        cells = (label, str(candidate), reasons.why(decision, candidate), left, out, ", ".join(decision.halves))
        rows.append({c.key: Cell(text or None) for c, text in zip(COLUMNS, cells, strict=True)})
    return Table(name, f"{caption}: {reasons.evidence(record) or 'no evidence gathered'}.", COLUMNS, tuple(rows))


COLUMNS = (
    Column("layer", "layer"),
    Column("candidate", "candidate"),
    Column("why", "why"),
    Column("survivors", "left"),
    Column("excluded", "ruled out"),
    Column("halves", "best in each half of the search"),
)


def rule(config: RunConfig) -> tuple[str, str]:
    """What an undecided layer takes, and why."""
    name = str(config.strategy_options.get("undecided"))
    return RULES.get(name, (f"a default of the strategy ({name})", "The strategy has a rule of its own for them."))


def _by_evidence(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    out = decision.excluded.values()
    if not out:
        yield "There was nothing to choose from."
        return
    last, least = max(e.step for e in out), reasons.odds(min(e.odds for e in out))
    each = "The only alternative was" if len(out) == 1 else f"All {len(out)} alternatives were"
    when = f"at step {last:,}" if len(out) == 1 else f"the last at step {last:,}"
    yield f"{each} ruled out, {when}. How sure: {least}{'' if len(out) == 1 else ' or more for each'}."
    yield from _halves(decision)


def _undecided(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    yield f"Not ruled out: {listed(decision.survivors, MOST_NAMES)}."
    doubt = decision.doubt
    if doubt:
        share = abs(doubt.mean) / doubt.deviation if doubt.deviation > 0 else 0.0
        seen = f"No difference seen between “{doubt.best}” and “{doubt.rival}”"
        if share * math.sqrt(doubt.steps) > DIFFERENCE:
            seen = f"“{doubt.best}” looks better than “{doubt.rival}”, but that may be chance"
        shown = f"{share:.2g}" if share >= 0.001 else "under 0.001"
        size = f"the mean preference is {shown} of its step-to-step deviation" if doubt.mean else "they are level"
        yield f"{seen}: {size}; {_prospect(decision)}."
    yield from _halves(decision)
    neither = ", though it is neither of these two" if doubt and candidate not in (doubt.best, doubt.rival) else ""
    yield f"“{candidate}” was taken as {rule(config)[0]}{neither}."


def _prospect(decision: Decision) -> str:
    doubt = decision.doubt
    if doubt is None or doubt.needed is None:
        return "no number of steps would tell"
    had = f", and this search had {doubt.steps:,}" if doubt.needed > doubt.steps else ""
    return f"{reasons.about(doubt.needed)} steps of new images would tell{had}"


def _halves(decision: Decision) -> Iterator[str]:
    if len(decision.halves) == 2:
        first, second = decision.halves
        if first == second:
            yield f"Each half of the search, taken by itself, prefers “{first}”."
        else:
            yield f"The two halves of the search disagree: the first prefers “{first}”, the second “{second}”."


def _by_lead(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    rho = config.strategy_options.get("rho")
    by = f" by ρ = {rho:g}" if isinstance(rho, (int, float)) else " by ρ"
    yield f"It led{by} at step {decision.step or 0:,}{_weights(decision, candidate)}. How sure: not known."
    yield from _halves(decision)


def _by_limit(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    largest = reasons.has_largest_pi(decision, candidate)
    what = "It had the largest π when the search ended" if largest else "The strategy chose it when the search ended"
    yield f"{what}{_weights(decision, candidate)}. How sure: not known."
    yield from _halves(decision)


def _by_budget(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    limits = listed([f"{name} {limit}" for name, limit in config.limits.items()], MOST_NAMES)
    yield f"Without the limits ({limits}) it would be “{decision.wanted}”: too much, together with the other layers."


def _weights(decision: Decision, candidate: str) -> str:
    chosen, other = (decision.pi or {}).get(candidate), reasons.runner_up(decision, candidate)
    return "" if chosen is None or other is None else f" (π {chosen:.2g}; {other[0]}, the next, {other[1]:.2g})"


def _nothing(decision: Decision, candidate: str, config: RunConfig) -> Iterator[str]:
    return iter(())


# `Decision.by` → verdict, its look on the page, and sentences; what else decided speaks for itself.
KNOWN: dict[str, tuple[str, str, Callable[[Decision, str, RunConfig], Iterator[str]]]] = {
    EVIDENCE: ("decided", "decided", _by_evidence),
    UNDECIDED: ("undecided", "undecided", _undecided),
    LEAD: ("led by ρ", "", _by_lead),
    LIMIT: ("largest π", "", _by_limit),
    GIVEN: ("given", "", _nothing),
    BUDGET: ("below the limit", "", _by_budget),
}
