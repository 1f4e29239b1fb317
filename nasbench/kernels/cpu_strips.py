"""Means of rows and columns on the CPU: one pass over the images, forward and backward, compiled by numba."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasbench.kernels import threads
from nasbench.kernels.compilation import carray, compiled
from nasbench.kernels.cpu import FIELDS, TYPES, address_of, computes_in, launch, nhwc, span_of
from nasbench.kernels.cpu_forward import read_next, write
from nasbench.kernels.vector import LANES, fetch_add, pointer


@compiled
def _forward(x: Any, strips: Any, sizes: Any) -> None:
    """Add up the channels first to last of one image along both axes; all tensors are flat, NHWC, read as they lie."""
    image, first, last, height, width, channels = sizes
    line = image * (height + width)
    for h in range(height):
        row = (line + h) * channels
        for w in range(width):
            pixel = ((image * height + h) * width + w) * channels
            column = (line + height + w) * channels
            for c in range(first, last, LANES):
                count = min(LANES, channels - c)
                along = across = read_next(x, pixel + c, count)
                if w > 0:
                    along = along + read_next(strips, row + c, count)
                if h > 0:
                    across = across + read_next(strips, column + c, count)
                write(strips, row + c, count, along)
                write(strips, column + c, count, across)


@compiled
def _backward(strips: Any, dx: Any, sizes: Any) -> None:
    """Add up the gradients of each pixel's row and column."""
    image, first, last, height, width, channels = sizes
    line = image * (height + width)
    for h in range(height):
        row = (line + h) * channels
        for w in range(width):
            pixel = ((image * height + h) * width + w) * channels
            column = (line + height + w) * channels
            for c in range(first, last, LANES):
                count = min(LANES, channels - c)
                write(dx, pixel + c, count, read_next(strips, row + c, count) + read_next(strips, column + c, count))


@compiled
def _work(address: Any, kind: Any, inner: Any) -> None:
    """Take tasks until none are left: an image and a range of channels each; types as in `cpu._work`."""
    a = carray(address, (FIELDS,), np.int64)
    images, height, width, channels, span, is_backward = a[1], a[2], a[3], a[4], a[5], a[6] != 0
    pixels = carray(pointer(a[7]), (images * height * width * channels,), kind)
    strips = carray(pointer(a[8]), (images * (height + width) * channels,), inner)
    spans = (channels + span - 1) // span
    while True:
        task = fetch_add(a, 0, 1)
        if task >= images * spans:
            return
        first = (task % spans) * span
        sizes = (task // spans, first, min(first + span, channels), height, width, channels)
        if is_backward:
            _backward(strips, pixels, sizes)
        else:
            _forward(pixels, strips, sizes)


def _body(kind: Any, inner: Any) -> Callable[[Any], None]:
    return lambda address: _work(address, kind, inner)


_BODIES = {dtype: _body(*types) for dtype, types in TYPES.items()}


def _run(pixels: Tensor, strips: Tensor, is_backward: bool) -> None:
    images, channels, height, width = pixels.shape
    if pixels.numel():
        workers = threads.count()
        places = map(address_of, (pixels, strips))
        sizes = (images, height, width, channels, span_of(pixels, workers))
        launch(_BODIES[pixels.dtype], [0, *sizes, is_backward, *places], workers)


def _means(strips: Tensor, height: int) -> Tensor:
    """Divide the first `height` lines, which are sums over a row, by its width, and the others by the height."""
    lines = strips.shape[2]
    sizes = strips.new_full((lines, 1), height)
    sizes[:height] = lines - height
    return strips / sizes


def forward(x: Tensor) -> Tensor:
    """The means of x's rows, then of its columns (N, C, H + W, 1), in x's type and channels_last."""
    images, channels, height, width = x.shape
    shape = (images, channels, height + width, 1)
    strips = torch.empty(shape, dtype=computes_in(x.dtype), memory_format=torch.channels_last)
    _run(nhwc(x), strips, False)
    return _means(strips, height).to(x.dtype)


def backward(g: Tensor, height: int) -> Tensor:
    """The gradient of x (N, C, H, W), channels_last, from that of its means."""
    images, channels, lines, _ = g.shape
    dx = torch.empty((images, channels, height, lines - height), dtype=g.dtype, memory_format=torch.channels_last)
    _run(dx, nhwc(_means(g.to(computes_in(g.dtype)), height)), True)
    return dx
