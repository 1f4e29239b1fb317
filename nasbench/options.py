"""Ranges of options, said once where the option is: annotated types, and the decorator that checks them."""

import functools
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast

from nasbench.errors import OptionError

SIGNS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Range:
    """Bounds of a number, beside its type in an `Annotated`; NaN and infinities are outside."""

    gt: float | None = None  # exclusive lower bound
    ge: float | None = None  # inclusive lower bound
    lt: float | None = None  # exclusive upper bound
    le: float | None = None  # inclusive upper bound

    def check(self, name: str, value: Any) -> None:
        """Raise an OptionError that names option, value and bounds unless it is a number within them."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise OptionError(f"{name} must be a number, not {value!r}")
        if not math.isfinite(value):
            raise OptionError(f"{name} must be a finite number, not {value}")
        given = {bound: limit for bound, limit in asdict(self).items() if limit is not None}
        if not all(getattr(operator, bound)(value, limit) for bound, limit in given.items()):
            wanted = " and ".join(f"{SIGNS[bound]} {limit}" for bound, limit in given.items())
            raise OptionError(f"{name} must be {wanted}, not {value}")


Positive = Annotated[float, Range(gt=0)]
NonNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(gt=0, lt=1)]  # a share that is neither nothing nor all
Share = Annotated[float, Range(ge=0, lt=1)]  # a share that may be nothing
Rate = Annotated[float, Range(gt=0, le=1e38)]  # a learning rate; single precision ends there
Width = Annotated[float, Range(ge=0.05, le=8)]  # a multiplier of a network's channels
Count = Annotated[int, Range(ge=1)]
Whole = Annotated[int, Range(ge=0)]
Seed = Annotated[int, Range(ge=0, lt=2**32)]


def checked(init: F) -> F:
    """Let a constructor (or function) check the values of its arguments by their annotations, before it runs.

    Seen are `Range` and `Literal`, also within `| None` and `list`. What an option's type is, the registry checks. The
    signature stays the constructor's own; it then raises an `OptionError` that names argument, bounds and value.
    """
    signature = inspect.signature(init)

    @functools.cache
    def hints() -> dict[str, Any]:  # at the first call: annotations may name what the module defines further down
        return typing.get_type_hints(init, include_extras=True)

    @functools.wraps(init)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints() and signature.parameters[name].kind is not inspect.Parameter.VAR_KEYWORD:
                check(name, hints()[name], value)
        return init(*args, **kwargs)

    return cast(F, wrapper)


def check(name: str, hint: Any, value: Any) -> None:
    """Check an option's value by its annotation, see `checked`; an OptionError names option, bounds and value."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        for mark in inner[1:]:
            if isinstance(mark, Range):
                mark.check(name, value)
    elif origin in (Union, types.UnionType):
        for member in inner if value is not None else ():
            check(name, member, value)
    elif origin is list:
        for item in value if isinstance(value, (list, tuple)) else ():
            check(name, inner[0], item)
    elif origin is Literal and value not in inner:
        raise OptionError(f"{name} must be {' or '.join(map(repr, inner))}, not {value!r}")
