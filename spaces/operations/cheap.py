"""Convolutions that cost little, and the plain one: every cheap one maps (N, C, H, W) to the same shape.

Source: arXiv 1909.13063; the shift is Wu et al., "Shift: A Zero FLOP, Zero Parameter Alternative to Spatial
Convolutions", CVPR 2018.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def convolution(inp: int, oup: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution of odd side without bias; keeps the map's at stride 1. Initialised as in He et al., ICCV 2015."""
    layer = nn.Conv2d(inp, oup, kernel, stride, kernel // 2, groups=groups, bias=False)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return layer


def depthwise(channels: int) -> nn.Conv2d:
    """Depthwise 3×3 convolution of C = `channels`: 9C parameters."""
    return convolution(channels, channels, 3, groups=channels)


def grouped(channels: int, groups: int) -> nn.Conv2d:
    """3×3 convolution of C = `channels` in g = `groups`, or the largest divisor of C below: 9C²/g parameters."""
    return convolution(channels, channels, 3, groups=max(g for g in range(1, groups + 1) if channels % g == 0))


class Shift(nn.Module):
    """Moves the channels of (N, C, H, W) in nine directions: no parameters and no multiply-adds.

    Of C channels the first 9·⌊C/9⌋ move: channel c by (c mod 3) − 1 columns to the right and (⌊c/3⌋ mod 3) − 1 rows
    down; what moves in is zero. The others stay. channels_last stays so, every other layout becomes contiguous.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Shift `x` (N, C, H, W)."""
        if x.shape[1] < 9:
            return x
        # Out of training plain operations, which every exporter knows.
        return _Moved.apply(x, 1) if self.training else _move(x, 1)


class _Moved(torch.autograd.Function):
    """The shift with its gradient, which is the opposite shift; autograd's own would scatter, one by one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sign: int) -> Tensor:
        ctx.sign = sign
        return _move(x, sign)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Moved.apply(gradients[0], -ctx.sign), None


def _move(x: Tensor, sign: int) -> Tensor:
    # One gather of each image's pixels, in the order in which they lie in memory. Measured on one core, batch 64 at
    # (16, 32, 32), forward and backward, contiguous / channels_last: 2.2 / 2.6 ms; nine slices 1.9 / 4.0 ms; nine
    # padded planes 3.2 / 5.3 ms; a depthwise convolution with constant kernels 3.3 / 2.2 ms, but at batch 1 it takes
    # twice this one's time, counts as multiply-adds, and spreads a NaN to its neighbours.
    n, channels, height, width = x.shape
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    sources = _sources(channels, height, width, last, sign, x.device)
    pixels = (x.permute(0, 2, 3, 1) if last else x).reshape(n, channels * height * width)
    moved = F.pad(pixels, (0, 1)).index_select(1, sources)
    return moved.view(n, height, width, channels).permute(0, 3, 1, 2) if last else moved.view_as(x)


@lru_cache(maxsize=256)  # one for all layers of a shape
def _sources(channels: int, height: int, width: int, last: bool, sign: int, device: torch.device) -> Tensor:
    """Where in an image each pixel comes from: (C·H·W,) positions, C·H·W for the zeros that move in."""
    with torch.inference_mode(False):
        c = torch.arange(channels, device=device).view(-1, 1, 1)
        moves = c < channels // 9 * 9
        rows = torch.arange(height, device=device).view(-1, 1) - sign * torch.where(moves, c // 3 % 3 - 1, 0)
        columns = torch.arange(width, device=device) - sign * torch.where(moves, c % 3 - 1, 0)
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        places = (rows * width + columns) * channels + c if last else (c * height + rows) * width + columns
        places = torch.where(inside, places, channels * height * width)
        return (places.permute(1, 2, 0) if last else places).flatten()


CHEAP: dict[str, Callable[[int], nn.Module]] = {
    "depthwise": depthwise,
    "group4": partial(grouped, groups=4),
    "group8": partial(grouped, groups=8),
    "group16": partial(grouped, groups=16),
    "shift": lambda channels: Shift(),
}
