"""The limits of a configuration, measured."""

from functools import partial

from torch import nn

from nasbench.architecture import Architecture, instantiate, resolve
from nasbench.config import RunConfig
from nasbench.limits.budget import Budget, Unreachable
from nasbench.limits.costs import tables
from nasbench.limits.kind import parse
from nasbench.networks import build_space


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
