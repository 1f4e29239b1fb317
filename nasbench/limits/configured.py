"""The limits of a configuration, and what takes the largest value below them."""

from __future__ import annotations

from functools import partial

from torch import nn

from nasbench.architecture import Architecture, instantiate, resolve
from nasbench.config import RunConfig
from nasbench.limits.budget import Budget, budget
from nasbench.limits.kind import parse
from nasbench.networks import build_space


def network(config: RunConfig, classes: int, size: int, architecture: Architecture | None) -> nn.Module:
    """The network of an architecture of a configuration's space for some data, or without one the space."""
    found: nn.Module = (
        build_space(config, classes, size)
        if architecture is None
        else instantiate(lambda: build_space(config, classes, size), architecture)
    )
    return found


def budget_of(config: RunConfig, classes: int, size: int) -> Budget:
    """Measure what a complete configuration's limits are about, for so many classes and images (3, size, size).

    Raises NasbenchError: a limit cannot be kept, or is none.
    """
    given = None if config.strategy else resolve(build_space(config, classes, size), config.architecture)
    return budget(parse(config.limits), partial(network, config, classes, size), size, given)
