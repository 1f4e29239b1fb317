"""Training and inference as they are, by torch.compile, and in bfloat16 with float32 weights."""

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch.nn import functional as F

from nasbench.benchmarks import interleave, summarised
from nasbench.benchmarks.step import BATCH, SIZE, fixed
from nasbench.quiet import silence

BACKEND = "inductor"
GOAL = "< 1×"  # else it does not pay


def _passes(mode: str, training: bool, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """A pass of `global` in all blocks: forward and backward, or forward alone in inference."""
    torch.manual_seed(0)
    network = fixed("global").to(memory_format=torch.channels_last).train(training)
    called = torch.compile(network, backend=BACKEND) if mode == "compiled" else network

    def run() -> None:
        with torch.inference_mode(not training), torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
            logits = called(images).float()
        if training:
            network.zero_grad()
            F.cross_entropy(logits, labels).backward()

    return run


def run(repetitions: int = 7) -> dict[str, Any]:
    """Milliseconds of training and of inference in each mode, batch 32, 32×32, width 1.0, `global` in all blocks.

    Ratios are over eager float32; `compiling_s` is what torch.compile takes for the first training step.
    """
    images = torch.randn(BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    contenders = {
        f"{what}_{mode}": _passes(mode, what == "training", images, labels)
        for what in ("training", "inference")
        for mode in ("eager", "compiled", "bf16")
    }
    begun = perf_counter()
    with silence():
        contenders["training_compiled"]()
    compiling = perf_counter() - begun
    times = interleave(contenders, repetitions)
    over = {
        f"{name}_over_eager": median(times[name]) / median(times[f"{name.split('_')[0]}_eager"])
        for name in contenders
        if not name.endswith("eager")
    }
    measured = {**summarised(times, "ms"), "compiling_s": compiling}
    measured["spread"]["compiling"] = [compiling, compiling]
    return {**measured, **over, "goals": dict.fromkeys(over, GOAL)}
