from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nasbench.benchmarks import interleave, summarised
from nasbench.kernels import POOLING_NAMES, pooling_mixture, reference_mixture

SHAPES = ((64, 24, 56, 56), (64, 96, 14, 14), (64, 320, 7, 7))


def _pass(mixture: Callable[..., Tensor], x: Tensor, pi: Tensor) -> Callable[[], object]:
    g = torch.ones_like(x)
    return lambda: torch.autograd.grad(mixture(x, pi, POOLING_NAMES), (x, pi), g)


def run(repetitions: int = 7) -> list[dict[str, Any]]:
    """Milliseconds of the fused mixture and of the eager one in both layouts, and their ratios, one entry a shape."""
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
        found = summarised(times, "ms")
        speedups = {f"speedup_{layout}": found[f"eager_{layout}_ms"] / found["ours_ms"] for layout in ("nhwc", "nchw")}
        results.append({"shape": list(shape), **found, **speedups})
    return results
