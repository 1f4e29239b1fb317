"""What each candidate costs at its place, measured as an operator of its own on maps of the real size."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from nni.nas.nn.pytorch import LayerChoice
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only

from nasbench.architecture import Architecture, choices
from nasbench.errors import LimitError, listed
from nasbench.limits.kind import Call, Limit, Measured
from nasbench.limits.memory import Living

Build = Callable[[Architecture | None], nn.Module]  # the network of an architecture; without one the space
Places = Mapping[str, Sequence[Call]]  # label → how its choice is called, wherever it stands


@dataclass(frozen=True)
class Costs:
    """What the kind of a limit says of every candidate at its place."""

    limit: Limit  # that is to be kept
    base: Architecture  # the cheapest architecture
    whole: Measured  # the cost of its network
    # Label → candidate → its own cost there; empty where the architecture is given.
    places: Mapping[str, Mapping[Any, Measured]]
    inputs: Mapping[str, str]  # label → the shape of what comes there

    def of(self, architecture: Mapping[str, Any]) -> float:
        """The cost of a network by this table."""
        pairs = [(own[architecture[label]].value, own[self.base[label]].value) for label, own in self.places.items()]
        if self.limit.kind.JOIN is max:
            return max([self.whole.value, *(chosen for chosen, _ in pairs)])
        return self.whole.value + sum(chosen - base for chosen, base in pairs)


def tables(limits: Sequence[Limit], build: Build, size: int, architecture: Architecture | None = None) -> list[Costs]:
    """Measure every candidate of a space, and the cheapest network; or only the network of an architecture.

    Images are (3, size, size). Raises LimitError: the space has a choice that is none between operators.
    """
    if architecture is not None:
        network = build(architecture)
        return [Costs(limit, architecture, whole_costs(limit, [network], size)[0], {}, {}) for limit in limits]
    space = build(None).eval()
    found, values = _places(space, size), choices(space)
    first = build({label: own[0] for label, own in values.items()})
    inputs = {k: " ".join("×".join(map(str, t.shape[1:])) for t in tree_leaves(found[k][0].inputs)) for k in found}
    result = []
    for limit in limits:
        own, then = _own(limit, found, values, _call(first, size))
        base = {label: min(costs.items(), key=lambda item: item[1].value)[0] for label, costs in own.items()}
        whole, now = whole_costs(limit, [build(base), first], size)
        if limit.kind.TOLERANCE:  # what is timed: the machine may have become faster or slower between the two
            factor = now.value / then.value
            own = {k: {v: Measured(*(factor * n for n in m)) for v, m in costs.items()} for k, costs in own.items()}
        result.append(Costs(limit, base, whole, own, inputs))
    return result


def whole_costs(limit: Limit, networks: Sequence[nn.Module], size: int) -> list[Measured]:
    """The costs of networks as a whole, in the kind of a limit."""
    return limit.kind.measure([_call(net, size) for net in networks])


def _call(network: nn.Module, size: int) -> Call:
    image = torch.rand(1, 3, size, size)
    return Call(network.eval(), (image,), image.numel() * image.element_size())


def _own(
    limit: Limit, places: Places, values: Mapping[str, Sequence[Any]], beside: Call
) -> tuple[dict[str, dict[Any, Measured]], Measured]:
    keys = [(label, value) for label in values for value in values[label]]
    calls = [
        [replace(place, module=cast(LayerChoice, place.module)[value]) for place in places[label]]
        for label, value in keys
    ]
    measured = iter(limit.kind.measure([*(call for several in calls for call in several), beside]))
    result: dict[str, dict[Any, Measured]] = {label: {} for label in values}
    for (label, value), several in zip(keys, calls, strict=True):
        parts = [next(measured) for _ in several]
        result[label][value] = Measured(*map(limit.kind.JOIN, zip(*parts, strict=True)))
    return result, next(measured)


def _places(space: Any, size: int) -> dict[str, list[Call]]:
    """Where every choice of a space stands, found by a forward pass with the first candidates."""
    seen: dict[str, list[tuple[LayerChoice, Any, int]]] = {label: [] for label in choices(space)}
    image = torch.rand(1, 3, size, size)
    living = Living(image.numel() * image.element_size())

    def note(module: LayerChoice, inputs: Any) -> None:
        shapes = tree_map_only(torch.Tensor, lambda t: partial(torch.rand, t.shape), inputs)  # which shall not live on
        seen.setdefault(str(module.label), []).append((module, shapes, living.now))

    with ExitStack() as hooks, torch.no_grad(), living:
        for module in space.modules():
            if isinstance(module, LayerChoice):
                hooks.enter_context(module.register_forward_pre_hook(note))
        space(image)
    if missing := [label for label, met in seen.items() if not met]:
        raise LimitError(f"a limit needs choices between operators, whose costs add up; no such are {listed(missing)}")
    return {
        label: [Call(m, tree_map_only(partial, lambda make: make(), shapes), held) for m, shapes, held in met]
        for label, met in seen.items()
    }
