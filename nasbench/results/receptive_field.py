"""Receptive fields of a trained network: what can reach the centre unit of a map, and what does.

Theoretical: which input pixels the unit depends on at all. Every stage of the network is probed with NaN, which
passes through any operation that looks at it, so a stage's window is found whatever it is made of; the windows are
then composed from the last stage back to the image.

Effective: how strongly it depends on each pixel, |∂ unit / ∂ input| averaged over inputs (Luo et al., "Understanding
the Effective Receptive Field in Deep Convolutional Neural Networks", NeurIPS 2016).
"""

import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nasbench.profile import last_map

PROBE_SIDE = 24  # of the map on which a stage's window is measured: wider than any local window of a stage
BATCH, BATCHES = 8, 4  # inputs at a time, and how many times for the last map
CHANNELS = 3  # of an image
LUO_THRESHOLD = 1 - 0.9545  # of the maximum; Luo et al. count the pixels above it

Stage = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Window:
    """What one output unit of a stage depends on, along one axis: input positions stride·o + low … stride·o + high."""

    low: int  # in input pixels of the stage
    high: int  # likewise, inclusive
    stride: int  # input pixels an output pixel
    everything: bool = False  # whether it depends on the whole axis


@dataclass(frozen=True)
class Field:
    """What the centre unit of a map sees."""

    # First and last row of the image, in pixels, inclusive. They may lie outside the image; the last lies before the
    # first where nothing is seen.
    rows: tuple[int, int]
    columns: tuple[int, int]  # likewise
    # Numbers of the stages that depend on their whole input; then the field is the whole image.
    global_stages: tuple[int, ...] = ()
    effective: float = math.nan  # see `effective_side`, in pixels, where it was measured

    @property
    def side(self) -> int:
        """The longer side in pixels."""
        return max(last - first + 1 for first, last in (self.rows, self.columns))


def theoretical(model: nn.Module, image_size: int) -> Field:
    """The theoretical field of the centre unit of the last feature map; OptionError where the network has none.

    Its stages are the children of `features` where it has such a sequence; any other network is probed as a whole, and
    its field then ends at the image's border.
    """
    network = copy.deepcopy(model).cpu().double().eval()
    features = getattr(network, "features", None)
    image = torch.zeros(1, CHANNELS, image_size, image_size, dtype=torch.float64)
    with torch.no_grad():
        if not isinstance(features, nn.Sequential):
            _, last = last_map(network, image)
            stages: list[tuple[Stage, int, int]] = [(lambda x: last_map(network, x)[1], CHANNELS, image_size)]
        else:
            stages, last = [], image
            for stage in features:
                stages.append((stage, last.shape[1], PROBE_SIDE))
                last = stage(last)
        whole, extents = set[int](), []
        for axis in (2, 3):
            windows = [probe(stage, inner, side, axis) for stage, inner, side in stages]
            whole |= {number for number, window in enumerate(windows) if window.everything}
            low = high = last.shape[axis] // 2
            for window in reversed(windows):
                low, high = window.stride * low + window.low, window.stride * high + window.high
            extents.append((low, high))
    if whole:
        return Field((0, image_size - 1), (0, image_size - 1), tuple(sorted(whole)))
    return Field(rows=extents[0], columns=extents[1])


def probe(stage: Stage, channels: int, side: int = PROBE_SIDE, axis: int = 2) -> Window:
    """Measure the window along an axis, 2 (rows) or 3 (columns), of a stage: (1, channels, side, side) → (1, C, S, S).

    In float64, for which PyTorch's CPU convolutions are plain sums: faster algorithms would spread NaN over a tile.
    """
    clean = torch.zeros(1, channels, side, side, dtype=torch.float64)
    shape = stage(clean).shape
    stride = max(1, round(side / shape[axis]))
    centre = shape[axis] // 2

    def touched(first: int, last: int) -> bool:
        image = clean.clone()
        image.narrow(axis, first, last - first + 1).fill_(torch.nan)
        return bool(stage(image)[:, :, shape[2] // 2, shape[3] // 2].isnan().any())

    # The unit's interval is found from both sides; both tests are monotone in the boundary.
    end = side - 1
    low = bisect_left(range(end), True, key=lambda last: touched(0, last))
    high = end - bisect_left(range(end - low), True, key=lambda beyond: touched(end - beyond, end))
    return Window(low - stride * centre, high - stride * centre, stride, everything=high - low == end)


def of_layers(model: nn.Module, names: Iterable[str], image_size: int) -> dict[str, Field]:
    """What each of some modules of a network sees; those that return no map are left out."""
    found = {}
    for name, strength in _influence(model, names, image_size).items():
        places = [(strength > 0).any(axis).nonzero().flatten().tolist() or [0, -1] for axis in (1, 0)]
        rows, columns = ((along[0], along[-1]) for along in places)
        found[name] = Field(rows, columns, effective=effective_side(strength.numpy()))
    return found


def effective(model: nn.Module, image_size: int) -> NDArray[np.float64]:
    """The effective field (S, S) of the last map's centre unit, its maximum scaled to 1. OptionError: no such map."""
    with torch.no_grad():
        images = torch.zeros(1, CHANNELS, image_size, image_size)
        name, _ = last_map(copy.deepcopy(model).cpu().float().eval(), images)
    return _influence(model, [name], image_size, BATCHES)[name].numpy()


def _influence(model: nn.Module, names: Iterable[str], image_size: int, batches: int = 1) -> dict[str, Tensor]:
    """|∂ Σ_c y_c / ∂ x| of the centre unit y of each named module's map: (image_size, image_size) in float64.

    Summed over channels and over inputs that are standard normal, as normalised images are, and scaled to a maximum of
    1 unless all are 0. The network is not changed.
    """
    network = copy.deepcopy(model).cpu().float().eval().requires_grad_(False)
    maps: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: maps.update({name: output})

    for name in names:
        network.get_submodule(name).register_forward_hook(note(name))
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for _ in range(batches):
        images = torch.randn(BATCH, CHANNELS, image_size, image_size, generator=generator, requires_grad=True)
        network(images)
        for name, output in maps.items():
            if isinstance(output, Tensor) and output.ndim == 4:
                unit = output[:, :, output.shape[2] // 2, output.shape[3] // 2].sum()
                (gradient,) = torch.autograd.grad(unit, images, retain_graph=True)
                found[name] = found.get(name, 0) + gradient.abs().sum((0, 1)).double()
    return {name: strength / strength.max().clamp_min(1e-300) for name, strength in found.items()}


def effective_side(field: NDArray[np.float64]) -> float:
    """Side in pixels of a square as large as the area above 4.55 % of the maximum (Luo et al., section 4)."""
    return float((field > LUO_THRESHOLD).sum()) ** 0.5
