"""Ranges that stand in annotations."""

from __future__ import annotations

import inspect
import math
from typing import Annotated, Any, Literal, get_type_hints

import nni
import pytest
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from nasbench import registry
from nasbench.errors import OptionError
from nasbench.options import Count, Fraction, Positive, Range, checked


class Base:
    """Has options."""

    @checked
    def __init__(
        self,
        *,
        rate: Positive = 0.1,
        shares: list[Fraction] | None = None,
        kind: Literal["a", "b"] = "a",
        odd: Annotated[int, Range(gt=2, le=9)] = 3,
    ) -> None:
        self.rate, self.shares, self.kind, self.odd = rate, shares, kind, odd


class Derived(Base):
    """Hands options on."""

    @checked
    def __init__(self, *, size: Count | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.size = size


class Space(ModelSpace):
    """NNI wraps its constructor."""

    @checked
    def __init__(self, channels: Count = 4, num_classes: int = 2) -> None:
        super().__init__()
        self.layer = LayerChoice({"a": nn.Identity(), "b": nn.ReLU()}, label="layer.kind")


@nni.trace
class Traced:
    """So does this."""

    @checked
    def __init__(self, share: Fraction = 0.5) -> None:
        self.share = share


def test_what_is_in_range_arrives_unchanged() -> None:
    made = Derived(size=3, rate=2.5, shares=[0.25, 0.75], kind="b", odd=9)
    assert (made.size, made.rate, made.shares, made.kind, made.odd) == (3, 2.5, [0.25, 0.75], "b", 9)
    assert Derived().size is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Base(rate=0), "rate must be > 0, not 0"),
        (lambda: Base(rate=math.inf), "rate must be a finite number, not inf"),
        (lambda: Base(rate=math.nan), "rate must be a finite number, not nan"),
        (lambda: Base(rate="fast"), "rate must be a number, not 'fast'"),  # type: ignore[arg-type]
        (lambda: Base(shares=[0.5, 1.0]), "shares must be > 0 and < 1, not 1.0"),
        (lambda: Base(kind="c"), "kind must be 'a' or 'b', not 'c'"),  # type: ignore[arg-type]
        (lambda: Base(odd=2), "odd must be > 2 and ≤ 9, not 2"),
        (lambda: Derived(size=0), "size must be ≥ 1, not 0"),
        (lambda: Derived(rate=-1), "rate must be > 0, not -1"),
        (lambda: Space(0), "channels must be ≥ 1, not 0"),
        (lambda: Traced(share=2), "share must be > 0 and < 1, not 2"),
    ],
)
def test_what_is_not_is_named(build: Any, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        build()
    assert str(refused.value) == message


@pytest.mark.parametrize(("part", "option"), [(Derived, "rate"), (Space, "channels"), (Traced, "share")])
def test_signatures_and_annotations_stay_readable(part: Any, option: str) -> None:
    assert option in registry.parameters(part)
    assert registry.parameters(part)[option].default is not inspect.Parameter.empty
    value = "0.5" if option == "share" else "1"
    assert registry.check_options("space", "part", part, {option: value}) == {option: float(value)}  # by its type


def test_hints_keep_their_ranges() -> None:
    assert get_type_hints(Base.__init__, include_extras=True)["rate"] == Positive


@pytest.mark.parametrize("value", [".inf", ".nan", "-.inf"])
@pytest.mark.parametrize(
    ("kind", "name", "option"),
    [
        *(("strategy", "pmpl", o) for o in ("rho", "eta", "zeta", "meta_fraction")),
        *(("evaluator", "classification", o) for o in ("learning_rate", "momentum", "weight_decay", "gradient_clip")),
        ("evaluator", "online_distillation", "temperature"),
        ("space", "mbv2_metapool", "width"),
    ],
)
def test_infinities_are_refused_as_options(kind: str, name: str, option: str, value: str) -> None:
    with pytest.raises(OptionError, match=rf"{option} must be a finite number, not -?(inf|nan)"):
        registry.build(kind, name, {option: float(value.replace(".", ""))})
