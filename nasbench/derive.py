"""What a search came to, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import nni.nas.strategy  # noqa: F401  (before nni.nas.oneshot, which imports it in a circle)
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy

from nasbench import registry
from nasbench.architecture import Architecture
from nasbench.config import RunConfig
from nasbench.contracts import Deciding
from nasbench.facts import Decision, LimitFacts
from nasbench.limits.budget import Budget
from nasbench.watch import probabilities


@dataclass(frozen=True)
class Found:
    """What a search came to."""

    architecture: Architecture  # that is trained
    wanted: Architecture  # by the strategy, whatever it costs
    limits: Mapping[str, LimitFacts]  # kind → what the network costs, where there are limits


def within_limits(strategy: Any, budget: Budget | None, wanted: Architecture) -> Found:
    """What a strategy wants, or the best that the limits allow. Raises LimitError: see `Budget.settle`."""
    if budget is None:
        return Found(wanted, wanted, {})
    architecture, facts = budget.settle(wanted, _pi(strategy))
    return Found(architecture, wanted, facts)


def decisions(config: RunConfig, strategy: Any, found: Found) -> dict[str, Decision]:
    """Why each label has its candidate: by the limits, by the strategy's own words, else by its kind."""
    if strategy is None:
        return dict.fromkeys(found.architecture, Decision(by="given"))
    known = strategy.decisions if isinstance(strategy, Deciding) else {}
    of_space = _pi(strategy)
    otherwise = registry.declared(strategy, "decided_by", f"found by {config.strategy}")

    def decision(label: str, candidate: Any) -> Decision:
        changed = {"by": "budget", "wanted": str(found.wanted[label])} if found.wanted[label] != candidate else {}
        if label in known:
            return Decision(**{**known[label], **changed})
        pi = {str(k): v for k, v in of_space.get(label, {}).items()}
        if changed:
            return Decision(**changed, pi=pi or None)
        largest = bool(pi) and pi.get(str(candidate)) == max(pi.values())
        return Decision(by="limit" if largest else otherwise, pi=pi or None)

    return {label: decision(label, candidate) for label, candidate in found.architecture.items()}


def _pi(strategy: Any) -> dict[str, dict[Any, float]]:
    return probabilities(strategy.oneshot_module) if isinstance(strategy, OneShotStrategy) else {}
