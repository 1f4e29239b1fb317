"""The best architecture under limits, and whether the network that it makes keeps them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.random import RandomState
from torch import nn

from nasbench.architecture import Architecture, instantiate, resolve
from nasbench.config import RunConfig
from nasbench.errors import LimitError
from nasbench.facts import LimitFacts
from nasbench.limits.costs import Build, Costs, tables, whole_costs
from nasbench.limits.kind import parse
from nasbench.networks import build_space

AGREE = 0.1  # share by which the sum over layers may miss the network as a whole
TRIED = 3  # networks that are measured as a whole before the search
ATTEMPTS = 3  # to come below a limit when measured again
LEFT = -1000.0  # score of a candidate that has left: lower than all others' of a network together
LEAST = 1e-13  # π below which candidates are alike


class Unreachable(LimitError):
    """Not even the cheapest network keeps a limit."""


@dataclass(frozen=True)
class Budget:
    """All limits of a run."""

    costs: Sequence[Costs]  # of each limit
    build: Build  # the network of an architecture; without one the space
    size: int  # S of images (3, S, S)

    def allows(self, architecture: Mapping[str, Any]) -> bool:
        """Whether a network keeps every limit by the tables."""
        return all(costs.of(architecture) <= costs.limit.value for costs in self.costs)

    def best(self, scores: Mapping[str, Mapping[Any, float]]) -> Architecture | None:
        """The architecture with the largest sum of scores (label → candidate → score) that keeps every limit, if any.

        Exact: a knapsack with one candidate of each layer, solved by HiGHS's branch and bound. What keeps a limit only
        within that solver's tolerance is cut off.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        keys = [(label, value) for label, own in self.costs[0].places.items() for value in own]
        labels = list(self.costs[0].places)
        one_each = np.array([[float(key[0] == label) for key in keys] for label in labels])
        rules = [LinearConstraint(one_each, 1, 1)]
        allowed = np.ones(len(keys))
        for costs in self.costs:
            own = np.array([costs.places[label][value].value for label, value in keys])
            if costs.limit.kind.JOIN is max:
                allowed[own > costs.limit.value] = 0
                if costs.whole.value > costs.limit.value:
                    return None
            else:
                rest = costs.whole.value - sum(costs.places[k][costs.base[k]].value for k in labels)
                rules.append(LinearConstraint(own / costs.limit.value, ub=1 - rest / costs.limit.value))
        objective = -np.array([scores[label][value] for label, value in keys])
        while True:
            found = milp(
                objective, integrality=1, bounds=Bounds(0, allowed), constraints=rules, options={"mip_rel_gap": 0}
            )
            if found.x is None:
                return None
            taken = found.x > 0.5
            architecture = dict(key for key, is_taken in zip(keys, taken, strict=True) if is_taken)
            if self.allows(architecture):
                return architecture
            rules.append(LinearConstraint(taken.astype(float), ub=len(labels) - 1))

    def settle(
        self, wanted: Architecture, pi: Mapping[str, Mapping[Any, float]]
    ) -> tuple[Architecture, dict[str, LimitFacts]]:
        """What a strategy wants, or the best that is allowed, and kind → what its network costs, measured again.

        `pi` is label → candidate → π, 0 where a candidate has left; empty where only `wanted` will do. Raises
        LimitError: the network does not cost what the tables say, or more than a limit.
        """
        scores = {
            label: {value: float(np.log(max(p, LEAST))) if p > 0 else LEFT for value, p in own.items()}
            for label, own in pi.items()
        }
        budget, chosen = self, wanted
        for _ in range(ATTEMPTS):
            if scores and not budget.allows(chosen):
                chosen = budget.best(scores) or chosen
            facts = self.measured(chosen)
            if all(facts[c.limit.name].measured <= c.limit.value * (1 + c.limit.kind.TOLERANCE) for c in self.costs):
                return chosen, facts
            budget = replace(budget, costs=[_tightened(c, facts[c.limit.name].measured) for c in budget.costs])
        told = ", ".join(f"{c.limit} ({c.limit.text(facts[c.limit.name].measured)})" for c in self.costs)
        raise LimitError(f"the network that was found misses its limits when measured: {told}; raise them")

    def measured(self, architecture: Architecture) -> dict[str, LimitFacts]:
        """What a network costs as a whole. Raises LimitError: what is counted, not timed, differs from the tables."""
        facts, network = dict[str, LimitFacts](), self.build(architecture)
        for costs in self.costs:
            limit, predicted = costs.limit, costs.of(architecture)
            (found,) = whole_costs(limit, [network], self.size)
            if not limit.kind.TOLERANCE and abs(found.value - predicted) > AGREE * found.value:
                raise LimitError(
                    f"limit {limit}: a network that has {limit.text(predicted)} by the costs of its candidates has "
                    f"{limit.text(found.value)} when measured as a whole; a cost is wrong, or they do not add up"
                )
            facts[limit.name] = LimitFacts(
                limit=limit.value, predicted=predicted, measured=found.value, low=found.low, high=found.high
            )
        return facts

    def check(self) -> None:
        """Raise a LimitError unless some network keeps all limits, and some at random cost what the tables say."""
        values = {label: list(own) for label, own in self.costs[0].places.items()}
        if self.best({label: dict.fromkeys(own, 0.0) for label, own in values.items()}) is None:
            alone = ", ".join(f"{c.limit} ({c.limit.text(c.whole.value)} is reachable alone)" for c in self.costs)
            raise Unreachable(f"no network keeps all limits together: {alone}; raise one")
        state = RandomState(0)
        counted = replace(self, costs=[c for c in self.costs if not c.limit.kind.TOLERANCE])
        for _ in range(TRIED if counted.costs else 0):
            counted.measured({label: own[state.randint(len(own))] for label, own in values.items()})

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The table of costs, see `nasbench.record.HEADERS`."""
        for costs in self.costs:
            for label, own in costs.places.items():
                for value, m in own.items():
                    yield costs.limit.name, label, value, costs.inputs[label], *m

    def notes(self) -> Iterator[str]:
        """What is known before the search, a line a limit."""
        for costs in self.costs:
            count = sum(map(len, costs.places.values()))
            what = f"the cheapest of {count} candidates at their places make" if count else "the given network has"
            yield f"limit {costs.limit}: {what} {costs.limit.text(costs.whole.value)}"


def _tightened(costs: Costs, measured: float) -> Costs:
    share = min(1.0, costs.limit.value / measured)
    return replace(costs, limit=replace(costs.limit, value=costs.limit.value * share))


def network(config: RunConfig, classes: int, size: int, architecture: Architecture | None) -> nn.Module:
    """The network of an architecture of a configuration's space for some data, or without one the space."""
    build = partial(build_space, config, classes, size)
    found: nn.Module = build() if architecture is None else instantiate(build, architecture)
    return found


def budget_of(config: RunConfig, classes: int, size: int) -> Budget:
    """Measure what a configuration's limits are about. Raises LimitError: one is missed, or costs do not add up."""
    given = None if config.strategy else resolve(build_space(config, classes, size), config.architecture)
    build = partial(network, config, classes, size)
    found = Budget(tables(parse(config.limits), build, size, given), build, size)
    for costs in found.costs:
        if costs.whole.value > costs.limit.value:
            which = "the network has" if given else "the cheapest reachable network has"
            raise Unreachable(
                f"limit {costs.limit} cannot be kept: {which} {costs.limit.text(costs.whole.value)}; raise the limit, "
                "or take a smaller width or image size"
            )
    if given is None:
        found.check()
    return found
