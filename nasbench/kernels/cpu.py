"""The pooling mixture on the CPU: hands torch's memory to the compiled kernels and shares out their tasks."""

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasbench.kernels import threads
from nasbench.kernels.compilation import body, carray, compiled
from nasbench.kernels.cpu_backward import backward_task
from nasbench.kernels.cpu_forward import PLANES, forward_task
from nasbench.kernels.vector import LANES, fetch_add, pointer

FIELDS = 16  # what a kernel is told at most, as 64-bit integers: counters, sizes, then addresses

# Type of the images → what they are in memory, and what is computed in.
TYPES: dict[torch.dtype, tuple[Any, Any]] = {
    torch.float32: (np.float32, np.float32),
    torch.bfloat16: (np.uint16, np.float32),
    torch.float64: (np.float64, np.float64),
}

# The kernels add up windows and know no division: the averages' 1 / k² is part of their weights.
_SCALE = (1, 1 / 9, 1 / 25, 1 / 49, 1, 1, 1)

# Blocks of a channels_last image share cache lines, so one thread takes a whole image as long as there are
# enough images for all threads.
_IMAGES_PER_THREAD = 4


@compiled
def _work(address: Any, kind: Any, inner: Any) -> None:
    """Take tasks until none are left, see `TYPES`. Every thread runs this, on the same arguments, in `_run`'s order."""
    a = carray(address, (FIELDS,), np.int64)
    images, height, width, channels, grain = a[2], a[3], a[4], a[5], a[6]
    averages, maxima, size = a[7] != 0, a[8] != 0, a[9]
    numbers = images * height * width * channels
    blocks = (channels + LANES - 1) // LANES
    tasks = images * blocks
    weights = carray(pointer(a[10]), (7,), inner)
    x = carray(pointer(a[12]), (numbers,), kind)
    y = carray(pointer(a[13]), (numbers,), kind)
    scratch = carray(pointer(a[11] + weights.itemsize * size * fetch_add(a, 0, 1)), (size,), inner)
    is_backward = a[14] != 0
    g = carray(pointer(a[14]), (numbers,), kind)
    dots = carray(pointer(a[15]), (tasks, 7), np.float64)
    while True:
        first = fetch_add(a, 1, grain)
        if first >= tasks:
            return
        for task in range(first, min(first + grain, tasks)):
            block = (task % blocks) * LANES
            place = (task // blocks) * height * width * channels + block
            count = min(LANES, channels - block)
            rest = (scratch, place, (count, height, width, channels), weights, averages, maxima)
            if is_backward:
                backward_task(x, g, y, dots[task], *rest)
            else:
                forward_task(x, y, *rest)


def _body(kind: Any, inner: Any) -> Callable[[Any], None]:
    return lambda address: _work(address, kind, inner)


_BODIES = {dtype: _body(*types) for dtype, types in TYPES.items()}


def computes_in(dtype: torch.dtype) -> torch.dtype:
    """The type in which a kernel adds up images of another."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def nhwc(tensor: Tensor) -> Tensor:
    """A tensor without its history, in channels_last memory format."""
    return tensor.detach().contiguous(memory_format=torch.channels_last)


def address_of(tensor: Tensor | None) -> int:
    """Where a tensor lies, 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def launch(kernel: Callable[[Any], None], fields: Sequence[int], workers: int) -> None:
    """Run a kernel on so many threads; fields that are not given are 0."""
    arguments = (ctypes.c_int64 * FIELDS)(*fields)
    threads.run(body(kernel), ctypes.addressof(arguments), workers)


def span_of(x: Tensor, workers: int) -> int:
    """Channels of a task that goes through an image as it lies: as many as leave each thread a few tasks."""
    images, channels = x.shape[:2]
    return max(LANES, images * channels // (_IMAGES_PER_THREAD * workers) // LANES * LANES)


def _run(x: Tensor, y: Tensor, pi: Tensor, codes: Sequence[int], g: Tensor | None, dots: Tensor | None) -> None:
    """Run the kernels over channels_last tensors; `g` and `dots` make it the backward pass."""
    images, channels, height, width = x.shape
    inner = computes_in(x.dtype)
    weights = torch.zeros(7, dtype=inner)
    for code, weight in zip(codes, pi.tolist(), strict=True):
        weights[code] = weight * _SCALE[code]
    blocks = -(-channels // LANES)
    workers = max(1, min(threads.count(), images * blocks))
    size = PLANES * height * (width | 1) * LANES
    scratch = torch.empty(workers * size, dtype=inner)
    grain = blocks if images >= _IMAGES_PER_THREAD * workers else 1
    kinds = (any(1 <= code < 4 for code in codes), any(code >= 4 for code in codes))
    places = map(address_of, (weights, scratch, x, y, g, dots))
    launch(_BODIES[x.dtype], [0, 0, images, height, width, channels, grain, *kinds, size, *places], workers)


def forward(x: Tensor, pi: Tensor, codes: Sequence[int]) -> Tensor:
    """Mix x (N, C, H, W), of a type with a kernel and any layout, by weights pi (K,); in channels_last."""
    x = nhwc(x)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    if x.numel():
        _run(x, y, pi, codes, None, None)
    return y


def backward(g: Tensor, x: Tensor, pi: Tensor, codes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The gradients of x (channels_last) and of pi (in double precision), from the mixture's gradient g."""
    x, g = nhwc(x), nhwc(g.to(x.dtype))
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dots = torch.zeros(x.shape[0] * -(-x.shape[1] // LANES), 7, dtype=torch.float64)
    if x.numel():
        _run(x, dx, pi, codes, g, dots)
    sums = dots.sum(0).tolist()
    return dx, torch.tensor([sums[code] * _SCALE[code] for code in codes], dtype=torch.float64)
