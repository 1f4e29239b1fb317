"""What a kind of limit says, and the limits that users write. The kinds are the modules listed in `nasbench.limits`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from nasbench.errors import OptionError, unknown
from nasbench.limits import KINDS

if TYPE_CHECKING:
    from torch import nn

VALUE = re.compile(r"([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)\s*([a-z]*)(?:@(\w+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Call:
    """A network, or an operator at its place, with what it is called with."""

    module: nn.Module  # in evaluation mode
    inputs: tuple[Any, ...]  # of a batch of one image
    held: int = 0  # bytes of activations that live already when it is called, its inputs included


class Measured(NamedTuple):
    """A cost in the kind's unit: the median, and the first and third quartile where it is timed."""

    value: float
    low: float
    high: float


class Kind(Protocol):
    """What the module of a kind has."""

    # How numbers may end → the factor to the unit in which costs are counted. They are told in the last that fits.
    UNITS: dict[str, float]
    RUNTIME: str  # what may follow an @ and is meant without; empty where a cost depends on no runtime
    # That measuring needs beside what nasbench needs anyway; the extra that installs them has the runtime's name.
    PACKAGES: tuple[str, ...]
    # Share by which a network that is measured again may lie above the limit: 0 where nothing is timed.
    TOLERANCE: float
    JOIN: Callable[[Iterable[float]], float]  # how costs of layers make that of the network: `sum`, or `max` of peaks

    def measure(self, calls: Sequence[Call]) -> list[Measured]:
        """The cost of each of some modules; what is timed is interleaved, so that noise hits all alike."""


@dataclass(frozen=True)
class Limit:
    """The most that a network may cost."""

    name: str  # of the kind
    value: float  # in the kind's unit

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return cast(Kind, import_module(f"nasbench.limits.{self.name}"))

    def text(self, value: float, digits: int = 4) -> str:
        """A cost of this kind for a reader, which can also be read back: `97.14M`, `4.9ms`."""
        units = list(self.kind.UNITS.items())
        unit, factor = next((u for u in reversed(units) if value >= u[1]), units[0])
        return f"{value / factor:.{digits}g}{unit}"

    def __str__(self) -> str:
        """As a user may write it, in its normal form."""
        return f"{self.name}={normal(self)}"


def normal(limit: Limit) -> str:
    """The value of a limit in its normal form: `100M`, `5ms@onnx`."""
    return limit.text(limit.value, 12) + (f"@{limit.kind.RUNTIME}" if limit.kind.RUNTIME else "")


def parse(limits: Mapping[str, Any]) -> list[Limit]:
    """The limits that a user has written as kind → value with its unit. Raises OptionError: one is none."""
    result = []
    for name, text in limits.items():
        if name not in KINDS:
            raise OptionError(unknown("limit", name, KINDS))
        kind = Limit(name, 0).kind
        found = VALUE.fullmatch(str(text).strip())
        example = f"{name}=5{list(kind.UNITS)[-2]}" + (f"@{kind.RUNTIME}" if kind.RUNTIME else "")
        if not found or not 0 < float(found[1]) < float("inf"):
            raise OptionError(f"limit {name}={text}: give a positive number with its unit, such as {example}")
        if found[2] not in kind.UNITS:
            raise OptionError(f"limit {name}={text}: {unknown('unit', found[2], filter(None, kind.UNITS))}")
        if found[3] and found[3] != kind.RUNTIME:
            raise OptionError(f"limit {name}={text}: {unknown('runtime', found[3], filter(None, [kind.RUNTIME]))}")
        if missing := [package for package in kind.PACKAGES if find_spec(package) is None]:
            raise OptionError(f'limit {name} needs {", ".join(missing)}: pip install "nasbench[{kind.RUNTIME}]"')
        result.append(Limit(name, float(found[1]) * kind.UNITS[found[2]]))
    return result


def exact(value: float) -> Measured:
    """A cost that is counted."""
    return Measured(value, value, value)
