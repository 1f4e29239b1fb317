"""Architectures: plain dicts `{label: candidate}`, the one currency between search, retraining, tables and export."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any, cast

from nasbench.errors import ArchitectureError, unknown
from nasbench.registry import declared

if TYPE_CHECKING:
    from nni.nas.nn.pytorch import ModelSpace
    from torch import nn

Architecture = dict[str, Any]


def choices(space: ModelSpace) -> dict[str, list[Any]]:
    """All labels of a space with their candidates, in the space's order."""
    return {label: list(mutable.values) for label, mutable in space.simplify().items()}


def named(space: ModelSpace) -> dict[str, Architecture]:
    """The architectures that a space gives names to, by its method `architectures`."""
    return dict(declared(space, "architectures", dict)())


def validate(space: ModelSpace, architecture: Mapping[str, Any]) -> Architecture:
    """An architecture in the space's order of labels.

    Raises ArchitectureError: a label is missing or unknown, or a candidate is not one of its label's.
    """
    known = space.simplify()
    for label in architecture:
        if label not in known:  # NNI itself accepts these silently
            raise ArchitectureError(f"the architecture does not fit the space: {unknown('label', label, known)}")
    missing = [label for label in known if label not in architecture]
    if missing:
        raise ArchitectureError(
            f"the architecture does not fit the space: {len(missing)} label(s) missing, e.g. {missing[0]!r}"
        )
    for label, mutable in known.items():
        if mutable.check_contains(architecture) is not None:
            what = unknown(f"candidate of {label}", architecture[label], mutable.values)
            raise ArchitectureError(f"the architecture does not fit the space: {what}")
    return {label: architecture[label] for label in known}


def resolve(space: ModelSpace, choice: str | Mapping[str, Any] | None) -> Architecture:
    """Turn what a user wrote into an architecture: a mapping, a name of the space's, or one candidate for every label.

    `None` stands for the first named one, `random` and `random:SEED` for a draw by lot. Raises ArchitectureError: it is
    none of these, or does not fit the space.
    """
    if isinstance(choice, Mapping):
        return validate(space, choice)
    names = named(space)
    if choice is None:
        if not names:
            raise ArchitectureError("this space names no architecture to take by default: say which with --choice")
        return validate(space, next(iter(names.values())))
    if choice in names:
        return validate(space, names[choice])
    options = {label: {str(v): v for v in values} for label, values in choices(space).items()}
    everywhere = set.intersection(*map(set, options.values())) if options else set()
    if choice in everywhere:
        return {label: own[choice] for label, own in options.items()}
    if drawn := re.fullmatch(r"random(?::(\d{1,9}))?", choice):
        lot = Random(int(drawn[1] or 0))
        return {label: lot.choice(values) for label, values in choices(space).items()}
    valid = [*names, "random", *(v for v in sorted(everywhere) if v not in names)]
    raise ArchitectureError(unknown("architecture", choice, valid))


def instantiate(factory: Callable[[], ModelSpace], architecture: Mapping[str, Any]) -> nn.Module:
    """Build the network of one validated architecture with fresh weights.

    A searched space is never reused for this: NNI changes it in place, and its frozen copies share modules.
    """
    from nni.nas.space import model_context

    with model_context(dict(architecture)):
        return factory()


def fresh_copy(network: nn.Module, architecture: Mapping[str, Any] | None = None) -> nn.Module:
    """Another network of the same space and options, of its own or a validated architecture, with fresh weights.

    Raises ArchitectureError: it is not one architecture of an NNI ModelSpace, with which NNI keeps how it was built.
    """
    from nni.nas.nn.pytorch import ModelSpace

    known = getattr(network, "_frozen_context", None) if isinstance(network, ModelSpace) else None
    context = dict(known) if isinstance(known, dict) else {}  # of a space that was not built as one network: no dict
    if not context.pop("__arch__", False):
        raise ArchitectureError(
            f"a further {type(network).__name__} cannot be built: it is not one architecture of an NNI ModelSpace, "
            "built under nni.nas.space.model_context"
        )
    recipe: Any = cast("ModelSpace", network).trace_copy()
    return instantiate(lambda: recipe.get(traceable=False), context if architecture is None else architecture)
