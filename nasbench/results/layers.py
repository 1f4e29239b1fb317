import math
from collections.abc import Iterator
from dataclasses import dataclass

from nasbench import reasons
from nasbench.config import RunConfig
from nasbench.errors import listed
from nasbench.facts import Decision, Doubt
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
# `Decision.by` → verdict and its look on the page.
KNOWN = {
    EVIDENCE: ("decided", "decided"),
    UNDECIDED: ("undecided", "undecided"),
    LEAD: ("led by ρ", ""),
    LIMIT: ("largest π", ""),
    GIVEN: ("given", ""),
    BUDGET: ("below the limit", ""),
}


@dataclass(frozen=True)
class Layer:
    """What is known of a layer."""

    label: str
    candidate: str
    verdict: str  # in a word or two
    look: str  # `decided`, `undecided` or nothing, for the page
    sentences: tuple[str, ...]  # how sure that is, and why
    excluded: tuple[str, ...]  # alternatives that were ruled out, the first first


def layers(record: Record) -> list[Layer]:
    """What is known of every layer. Raises RecordError: the search is not over, or the record is damaged."""
    config, decisions = record.config(), record.decisions()
    found = []
    for label, candidate in record.architecture().items():
        decision = decisions[label]
        verdict, look = KNOWN.get(decision.by, (decision.by, ""))
        told = tuple(_sentences(decision, str(candidate), config))
        found.append(Layer(label, str(candidate), verdict, look, told, tuple(reasons.exclusions(decision))))
    return found


def table(record: Record, name: str, caption: str) -> Table:
    """What is known of every layer, as a table; the sum of the evidence is added to its caption."""
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
