"""The pooling mixture against the eager one: `python -m benchmarks.kernel` from the root of the source tree.

All seven candidates, forward and backward, at three shapes of MobileNetV2 at 224×224. The three contenders take turns
within one run, so that a neighbour's load falls on all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from nasbench.kernels import POOLING_NAMES, pooling_mixture, reference_mixture

SHAPES = ((64, 24, 56, 56), (64, 96, 14, 14), (64, 320, 7, 7))

Mixture = Callable[[Tensor, Tensor, tuple[str, ...]], Tensor]


def _milliseconds(mixture: Mixture, x: Tensor, pi: Tensor, g: Tensor) -> float:
    start = perf_counter()
    torch.autograd.grad(mixture(x, pi, POOLING_NAMES), (x, pi), g)
    return 1e3 * (perf_counter() - start)


def _spread(times: list[float]) -> list[float]:
    """First and third quartile."""
    if len(times) < 2:
        return [times[0], times[0]]
    low, _, high = quantiles(times, n=4, method="inclusive")
    return [low, high]


def run(repetitions: int = 7) -> list[dict[str, Any]]:
    """Time forward + backward of the fused mixture and of the eager one in both layouts.

    Args:
        repetitions: rounds per shape, in each of which every contender runs once (after one round to warm up).

    Returns:
        One entry a shape: `shape`, medians in milliseconds (`ours_ms`, `eager_nhwc_ms`, `eager_nchw_ms`), the
        medians' ratios (`speedup_nhwc`, `speedup_nchw`), and `spread`: first and third quartile of each contender's
        times in milliseconds.
    """
    results = []
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(0)
        nchw = torch.nn.functional.relu6(4 * torch.randn(shape, generator=generator))
        nhwc = nchw.contiguous(memory_format=torch.channels_last)
        pi = torch.full((len(POOLING_NAMES),), 1 / len(POOLING_NAMES), requires_grad=True)
        contenders: dict[str, tuple[Mixture, Tensor]] = {
            "ours": (pooling_mixture, nhwc),
            "eager_nhwc": (reference_mixture, nhwc),
            "eager_nchw": (reference_mixture, nchw),
        }
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(repetitions + 1):
            for name, (mixture, x) in contenders.items():
                taken = _milliseconds(mixture, x.detach().requires_grad_(), pi, torch.ones_like(x))
                if turn > 0:
                    times[name].append(taken)
        medians = {name: median(values) for name, values in times.items()}
        results.append(
            {
                "shape": list(shape),
                **{f"{name}_ms": value for name, value in medians.items()},
                "speedup_nhwc": medians["eager_nhwc"] / medians["ours"],
                "speedup_nchw": medians["eager_nchw"] / medians["ours"],
                "spread": {name: _spread(values) for name, values in times.items()},
            }
        )
    return results


if __name__ == "__main__":
    for entry in run():
        print(json.dumps({key: round(value, 2) if isinstance(value, float) else value for key, value in entry.items()}))
