"""The spatial gate on the CPU: one pass over each tensor, forward and backward, compiled by numba."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasbench.kernels import threads
from nasbench.kernels.compilation import carray, compiled
from nasbench.kernels.cpu import FIELDS, TYPES, address_of, computes_in, launch, nhwc, span_of
from nasbench.kernels.cpu_forward import read_next, write
from nasbench.kernels.vector import LANES, fetch_add, lane_sum, pointer, splat


@compiled
def _forward(x: Any, base: Any, rows: Any, columns: Any, y: Any, weight: Any, has_base: bool, sizes: Any) -> None:
    """Gate the channels first to last of one image; all tensors are flat and NHWC, and read as they lie."""
    image, first, last, height, width, channels = sizes
    for h in range(height):
        row = (image * height + h) * channels
        for w in range(width):
            pixel = ((image * height + h) * width + w) * channels
            column = (image * width + w) * channels
            for c in range(first, last, LANES):
                count = min(LANES, channels - c)
                gate = read_next(rows, row + c, count) * splat(x, weight) * read_next(columns, column + c, count)
                value = read_next(x, pixel + c, count) * gate
                if has_base:
                    value = value + read_next(base, pixel + c, count)
                write(y, pixel + c, count, value)


@compiled
def _backward(
    x: Any, g: Any, rows: Any, columns: Any, dx: Any, drows: Any, dcolumns: Any, weight: Any, sizes: Any
) -> float:
    """Differentiate `_forward`; the gradients of rows and columns still lack the weight. Return the weight's."""
    image, first, last, height, width, channels = sizes
    dot = 0.0
    for h in range(height):
        line = (image * height + h) * channels
        for w in range(width):
            pixel = ((image * height + h) * width + w) * channels
            post = (image * width + w) * channels
            for c in range(first, last, LANES):
                count = min(LANES, channels - c)
                row, column = read_next(rows, line + c, count), read_next(columns, post + c, count)
                gradient = read_next(g, pixel + c, count)
                write(dx, pixel + c, count, gradient * (row * column * splat(x, weight)))
                product = gradient * read_next(x, pixel + c, count)
                drow, dcolumn = product * column, product * row
                if w > 0:
                    drow = drow + read_next(drows, line + c, count)
                if h > 0:
                    dcolumn = dcolumn + read_next(dcolumns, post + c, count)
                write(drows, line + c, count, drow)
                write(dcolumns, post + c, count, dcolumn)
        for c in range(first, last, LANES):
            count = min(LANES, channels - c)
            dot += lane_sum(read_next(drows, line + c, count) * read_next(rows, line + c, count))
    return dot


@compiled
def _work(address: Any, kind: Any, inner: Any) -> None:
    """Take tasks until none are left: an image and a range of channels each; types as in `cpu._work`."""
    a = carray(address, (FIELDS,), np.int64)
    images, height, width, channels, span = a[1], a[2], a[3], a[4], a[5]
    pixels, lines, posts = images * height * width, images * height, images * width
    weight = carray(pointer(a[6]), (1,), inner)[0]
    x = carray(pointer(a[7]), (pixels * channels,), kind)
    rows = carray(pointer(a[8]), (lines * channels,), kind)
    columns = carray(pointer(a[9]), (posts * channels,), kind)
    y = carray(pointer(a[10]), (pixels * channels,), kind)
    other = carray(pointer(a[11]), (pixels * channels,), kind)
    has_other, is_backward = a[11] != 0, a[12] != 0
    drows = carray(pointer(a[12]), (lines * channels,), inner)
    dcolumns = carray(pointer(a[13]), (posts * channels,), inner)
    spans = (channels + span - 1) // span
    dots = carray(pointer(a[14]), (images * spans,), np.float64)
    while True:
        task = fetch_add(a, 0, 1)
        if task >= images * spans:
            return
        image, first = task // spans, (task % spans) * span
        last = min(first + span, channels)
        sizes = (image, first, last, height, width, channels)
        if is_backward:
            dots[task] = _backward(x, other, rows, columns, y, drows, dcolumns, weight, sizes)
        else:
            _forward(x, other, rows, columns, y, weight, has_other, sizes)


def _body(kind: Any, inner: Any) -> Callable[[Any], None]:
    return lambda address: _work(address, kind, inner)


_BODIES = {dtype: _body(*types) for dtype, types in TYPES.items()}


def _run(
    x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor, y: Tensor, other: Tensor | None, *sums: Tensor
) -> None:
    workers = threads.count()
    images, channels, height, width = x.shape
    scale = weight.detach().to(computes_in(x.dtype)).contiguous()
    places = map(address_of, (scale, x, rows, columns, y, other, *sums))
    launch(_BODIES[x.dtype], [0, images, height, width, channels, span_of(x, workers), *places], workers)


def forward(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor, base: Tensor | None) -> Tensor:
    """Compute weight · x · rows · columns + base; see `nasbench.kernels.gate`. The result is channels_last."""
    x, rows, columns = nhwc(x), nhwc(rows), nhwc(columns)
    base = None if base is None else nhwc(base)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    if x.numel():
        _run(x, rows, columns, weight, y, base)
    return y


def backward(
    g: Tensor, x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, rows and columns (channels_last, in x's type) and of the weight (in double precision)."""
    g, x, rows, columns = nhwc(g), nhwc(x), nhwc(rows), nhwc(columns)
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    inner = computes_in(x.dtype)
    drows, dcolumns = (
        torch.empty_like(gate, dtype=inner, memory_format=torch.channels_last) for gate in (rows, columns)
    )
    tasks = x.shape[0] * -(-x.shape[1] // span_of(x, threads.count())) if x.numel() else 0
    dots = torch.zeros(tasks, dtype=torch.float64)
    if x.numel():
        _run(x, rows, columns, weight, dx, g, drows, dcolumns, dots)
    scale = weight.detach().to(drows.dtype)
    return dx, (drows * scale).to(x.dtype), (dcolumns * scale).to(x.dtype), dots.sum().reshape(weight.shape)
