"""How networks made for 224×224 images are fitted to small ones."""

from __future__ import annotations

from collections.abc import Sequence

from nasbench.errors import OptionError

SMALLEST_MAP = 4


def fit_strides(image_size: int, original: Sequence[int]) -> list[int]:
    """Strides of a chain of layers for an image size.

    The earliest stride-2 layers become stride 1, as many as it takes for the last map to be at least 4×4; on smaller
    maps several Meta-Pooling candidates coincide, and none of them could ever lead the others by ρ.

    Args:
        image_size: side of the square input in pixels.
        original: strides at 224×224, from the stem to the last stage. Every layer pads so that a side of n becomes
            ⌈n / stride⌉.

    Returns:
        As many strides.

    Raises:
        OptionError: when even without any stride the last map is under 4×4.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < SMALLEST_MAP:
        raise OptionError(
            f"image_size must be a whole number ≥ {SMALLEST_MAP} (the last map's least side), not {image_size!r}"
        )
    chosen = list(original)
    for position in [i for i, s in enumerate(chosen) if s == 2]:
        side = image_size
        for stride in chosen:
            side = -(-side // stride)
        if side >= SMALLEST_MAP:
            break
        chosen[position] = 1
    return chosen
