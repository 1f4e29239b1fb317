"""Why layers have their candidates, in words that the terminal, the tables and the pages share."""

from dataclasses import dataclass
from typing import Any

from nasbench.facts import Decision
from nasbench.record import Record

EVIDENCE, UNDECIDED, LEAD, LIMIT, GIVEN = "evidence", "undecided", "threshold", "limit", "given"  # `Decision.by`
REMOVAL = "removal"  # likewise: the candidate without which the supernet was worst
BUDGET = "budget"  # likewise: the best that the limits on what the network costs allow
LARGEST_ODDS = 1e6  # more than these say nothing more
LARGEST_STEPS = 10**9
LONGEST_LIST = 3  # candidates by name in a line


@dataclass(frozen=True)
class Evidence:
    """What the evidence of a search comes to."""

    layers: int  # of the network
    decided: int  # of these, by evidence
    alternatives: int  # candidates of all layers but one each
    excluded: int  # of these, by evidence
    error: float | None  # δ, the probability of a wrong exclusion anywhere in the network; `None` where it is not known

    def __str__(self) -> str:
        error = "" if self.error is None else f", at {100 * self.error:.3g} % error for the network"
        return (
            f"{self.decided} of {self.layers} layers decided by evidence, "
            f"{self.excluded} of {self.alternatives} alternatives excluded{error}"
        )


def evidence(record: Record) -> Evidence | None:
    """What the evidence of a record's search comes to; `None` where none was gathered."""
    decisions = record.decisions()
    every = [decisions[label] for label in record.architecture()]
    if not any(d.by in (EVIDENCE, UNDECIDED) for d in every):
        return None
    excluded = sum(len(d.excluded) for d in every)
    left = sum(max(0, len(d.survivors) - 1) for d in every)
    delta = record.config().strategy_options.get("delta")
    return Evidence(
        layers=len(every),
        decided=sum(d.by == EVIDENCE for d in every),
        alternatives=excluded + left,
        excluded=excluded,
        error=float(delta) if isinstance(delta, (int, float)) and 0 < delta < 1 else None,
    )


def why(decision: Decision, candidate: Any) -> str:
    """Why a layer has its candidate, in a line."""
    if decision.by == BUDGET:
        return f"best below the limit; {decision.wanted} without"
    if decision.by == EVIDENCE:
        last = max(decision.excluded.items(), key=lambda item: item[1].step, default=None)
        if last is None:
            return "evidence"
        name, out = last
        return f"evidence: {out.by} better than {name} at step {out.step}, odds {odds(out.odds)}"
    if decision.by == UNDECIDED:
        names, count = decision.survivors, len(decision.survivors)
        left = f"undecided: {', '.join(names) if count <= LONGEST_LIST else count} left"
        if decision.doubt is None:
            return left
        needed = decision.doubt.needed
        return f"{left}; " + (
            "no number of steps would tell" if needed is None else f"would take {about(needed)} new batches"
        )
    if decision.by == LEAD:
        return f"led by ρ at step {decision.step} (training loss {decision.train_loss or 0:.2f})"
    if decision.by == REMOVAL:
        return f"its removal hurt held-out accuracy most, at step {decision.step}"
    if decision.by == LIMIT:
        return "largest π when the search ended" if has_largest_pi(decision, candidate) else "chosen by the strategy"
    return decision.by


def has_largest_pi(decision: Decision, candidate: Any) -> bool:
    """Whether no candidate of a layer has a larger π than this one."""
    pi = decision.pi or {}
    return bool(pi) and pi.get(str(candidate)) == max(pi.values())


def runner_up(decision: Decision, candidate: Any) -> tuple[str, float] | None:
    """The candidate with the largest π beside that which was chosen, and its π; `None` where there is none."""
    others = [(p, name) for name, p in (decision.pi or {}).items() if name != str(candidate)]
    return max(others)[::-1] if others else None


def exclusions(decision: Decision) -> list[str]:
    """Who left a layer, the first first: `avg3 at step 140 (none is better, odds 35 to 1)`."""
    ordered = sorted(decision.excluded.items(), key=lambda item: item[1].step)
    return [f"{name} at step {out.step:,} ({out.by} is better, odds {odds(out.odds)})" for name, out in ordered]


def odds(value: float) -> str:
    """Odds to 1, with two digits: `35 to 1`."""
    if value > LARGEST_ODDS:
        return f"over {LARGEST_ODDS:,.0f} to 1"
    return f"{float(f'{value:.2g}'):,.0f} to 1" if value >= 10 else f"{value:.2g} to 1"


def about(count: int) -> str:
    """A number of steps that is an estimate, with two digits: `about 9,000`."""
    if count > LARGEST_STEPS:
        return f"over {LARGEST_STEPS:,}"
    return f"about {round(count, 2 - len(str(count))):,}"
