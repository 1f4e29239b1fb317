"""The pooling mixture on CUDA. Sums are in float32 and in a fixed order: results repeat bit for bit."""

from collections.abc import Sequence
from functools import cache

import torch
import triton
from torch import Tensor

from nasbench.kernels.cuda_kernels import average_backward_kernel, forward_kernel, maximum_backward_kernel
from nasbench.kernels.reference import FIRST_MAX, WINDOWS

_MOST_ROWS = 32


def _weights(pi: Tensor, codes: Sequence[int]) -> Tensor:
    """Weights in the order of `POOLING_NAMES`, those of averages over k²; 0 for candidates that take no part."""
    weights = torch.zeros(len(WINDOWS), dtype=torch.float32, device=pi.device)
    index = torch.tensor(list(codes), device=pi.device)
    return weights.index_copy_(0, index, pi.detach().float()) * _scale(pi.device)


@cache
def _scale(device: torch.device) -> Tensor:
    return torch.tensor([1, 1 / 9, 1 / 25, 1 / 49, 1, 1, 1], dtype=torch.float32, device=device)


def _grid(x: Tensor, rows: int, columns: int, lanes: int) -> int:
    images, channels, height, width = x.shape
    return images * triton.cdiv(height, rows) * triton.cdiv(width, columns) * triton.cdiv(channels, lanes)


def _power(size: int, most: int) -> int:
    """A tile's size: the next power of two, but no more than `most`."""
    return min(most, triton.next_power_of_2(size))


def forward(x: Tensor, pi: Tensor, codes: Sequence[int]) -> Tensor:
    """Mix x (N, C, H, W), of float32, bfloat16 or float16 and any layout, by weights pi (K,); see `cpu.forward`."""
    x = x.detach().contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    rows, columns, lanes = _power(height, _MOST_ROWS), _power(width, 16), _power(channels, 32)
    if x.numel():
        forward_kernel[(_grid(x, rows, columns, lanes),)](
            *(x, y, _weights(pi, codes), height, width, channels),
            AVERAGES=any(1 <= code < FIRST_MAX for code in codes),
            MAXIMA=any(code >= FIRST_MAX for code in codes),
            ROWS=rows,
            COLUMNS=columns,
            LANES=lanes,
        )
    return y


def backward(g: Tensor, x: Tensor, pi: Tensor, codes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The gradients of x (channels_last) and of pi (in double precision), from the mixture's gradient g."""
    x = x.detach().contiguous(memory_format=torch.channels_last)
    g = g.detach().contiguous(memory_format=torch.channels_last)
    maxima = any(code >= FIRST_MAX for code in codes)
    dx = torch.empty_like(x, dtype=torch.float32, memory_format=torch.channels_last)
    sums = torch.zeros(len(WINDOWS), dtype=torch.float64, device=x.device)
    if x.numel():
        _, channels, height, width = x.shape
        weights = _weights(pi, codes)
        rows, columns, lanes = _power(height, _MOST_ROWS), _power(width, 16), _power(channels, 32)
        programs = _grid(x, rows, columns, lanes)
        dots = torch.empty(programs, 4, device=x.device)
        sizes = (weights, height, width, channels)
        average_backward_kernel[(programs,)](x, g, dx, dots, *sizes, ROWS=rows, COLUMNS=columns, LANES=lanes)
        sums[:FIRST_MAX] = dots.sum(0, dtype=torch.float64)
        if maxima:
            columns = _power(width + 6, 32)
            programs = _grid(x, rows, columns - 6, lanes)
            dots = torch.empty(programs, 3, device=x.device)
            total = torch.empty_like(x, memory_format=torch.channels_last)
            maximum_backward_kernel[(programs,)](
                x, g, dx, total, dots, *sizes, ROWS=rows, COLUMNS=columns, LANES=lanes, num_warps=8
            )
            dx = total
            sums[FIRST_MAX:] = dots.sum(0, dtype=torch.float64)
    return dx.to(x.dtype), (sums * _scale(x.device))[torch.tensor(list(codes), device=x.device)]
