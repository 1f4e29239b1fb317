"""The pooling mixture against the eager one.

All seven candidates, forward and backward, at three shapes of MobileNetV2 at 224×224. The three contenders take turns
within one run, so that a neighbour's load falls on all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from nasbench.benchmarks import interleave, spread
from nasbench.kernels import POOLING_NAMES, pooling_mixture, reference_mixture

SHAPES = ((64, 24, 56, 56), (64, 96, 14, 14), (64, 320, 7, 7))

Mixture = Callable[[Tensor, Tensor, tuple[str, ...]], Tensor]


def _pass(mixture: Mixture, x: Tensor, pi: Tensor) -> Callable[[], object]:
    g = torch.ones_like(x)
    return lambda: torch.autograd.grad(mixture(x, pi, POOLING_NAMES), (x, pi), g)


def run(repetitions: int = 7) -> list[dict[str, Any]]:
    """Time forward + backward of the fused mixture and of the eager one in both layouts, one entry a shape.

    An entry has `shape`, medians in milliseconds (`ours_ms`, `eager_nhwc_ms`, `eager_nchw_ms`), the medians' ratios
    (`speedup_nhwc`, `speedup_nchw`), and `spread`: first and third quartile of each contender's times in milliseconds.
    """
    results = []
    for shape in SHAPES:
        generator = torch.Generator().manual_seed(0)
        nchw = torch.nn.functional.relu6(4 * torch.randn(shape, generator=generator))
        nhwc = nchw.contiguous(memory_format=torch.channels_last)
        pi = torch.full((len(POOLING_NAMES),), 1 / len(POOLING_NAMES), requires_grad=True)
        times = interleave(
            {
                "ours": _pass(pooling_mixture, nhwc.clone().requires_grad_(), pi),
                "eager_nhwc": _pass(reference_mixture, nhwc.requires_grad_(), pi),
                "eager_nchw": _pass(reference_mixture, nchw.requires_grad_(), pi),
            },
            repetitions,
        )
        medians = {name: median(values) for name, values in times.items()}
        results.append(
            {
                "shape": list(shape),
                **{f"{name}_ms": value for name, value in medians.items()},
                "speedup_nhwc": medians["eager_nhwc"] / medians["ours"],
                "speedup_nchw": medians["eager_nchw"] / medians["ours"],
                "spread": {name: spread(values) for name, values in times.items()},
            }
        )
    return results
