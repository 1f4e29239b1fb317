"""How networks made for 224×224 images are fitted to small ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import Literal

from nasbench.errors import OptionError

SMALLEST_MAP = 4
Rule = Literal["fit", "original"]


@dataclass(frozen=True)
class Strides:
    """The strides of a chain of layers, each of which makes ⌈n / stride⌉ of a side of n, and what was done to them."""

    image_size: int  # side of the square input in pixels
    original: tuple[int, ...]  # strides at 224×224, from the stem to the last stage
    chosen: tuple[int, ...]  # as many strides, those for this image size

    @property
    def dropped(self) -> int:
        """How many stride-2 layers became stride 1."""
        return sum(a != b for a, b in zip(self.original, self.chosen, strict=True))

    def notes(self) -> list[str]:
        """What differs from a network at its usual size, in no or one line; multiply-adds go with the maps' areas."""
        usual, fitted = sides(self.image_size, self.original), sides(self.image_size, self.chosen)
        total = sum(s > 1 for s in self.original)
        if self.dropped:
            factors = [(a / b) ** 2 for a, b in zip(fitted, usual, strict=True)]
            times = " to ".join(dict.fromkeys(f"{f:.1f}" for f in (min(factors), max(factors))))
            return [
                f"{self.image_size} px: {self.dropped} of {total} strides dropped, the last map is {_map(fitted)} "
                f"instead of {_map(usual)}; convolutions over maps take {times} times the multiply-adds of the "
                "original strides"
            ]
        if usual[-1] < SMALLEST_MAP:
            return [
                f"{self.image_size} px: all {total} strides kept, the last map is {_map(usual)}: on maps under "
                f"{SMALLEST_MAP}×{SMALLEST_MAP} some poolings coincide, and no threshold can tell them apart"
            ]
        return []


class FittedSpace:
    """Base of spaces whose strides follow the image size, see `fit_strides`; they say what was done."""

    strides: Strides

    def notes(self) -> list[str]:
        """What a user should know of the network beside its options, one line each."""
        return self.strides.notes()


def sides(image_size: int, strides: Sequence[int]) -> list[int]:
    """The side of the map behind each layer of a chain, see `Strides`."""
    return list(accumulate(strides, lambda side, stride: -(-side // stride), initial=image_size))[1:]


def fit_strides(image_size: int, original: Sequence[int], rule: Rule = "fit") -> Strides:
    """Strides of a chain of layers, from the stem to the last stage, for an image size in pixels.

    By the rule `fit` the earliest stride-2 layers become stride 1, as many as it takes for the last map to be at least
    4×4; on smaller maps several Meta-Pooling candidates coincide, and none of them could ever lead the others by ρ. The
    rule `original` keeps those at 224×224. Raises OptionError: the last map cannot be 4×4, or is under 1×1 by
    `original`.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < SMALLEST_MAP:
        raise OptionError(
            f"image_size must be a whole number ≥ {SMALLEST_MAP} (the last map's least side), not {image_size!r}"
        )
    if rule == "original":
        if image_size < prod(original):
            raise OptionError(
                f"strides=original divide the side by {prod(original)}: with an image_size of {image_size} the last "
                f"map would be under 1×1; give strides=fit or an image_size of at least {prod(original)}"
            )
        return Strides(image_size, tuple(original), tuple(original))
    chosen = list(original)
    for position in [i for i, s in enumerate(chosen) if s == 2]:
        if sides(image_size, chosen)[-1] >= SMALLEST_MAP:
            break
        chosen[position] = 1
    return Strides(image_size, tuple(original), tuple(chosen))


def _map(maps: Sequence[int]) -> str:
    return f"{maps[-1]}×{maps[-1]}"
