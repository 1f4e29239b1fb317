from collections.abc import Callable
from typing import Any

import nni.nas.strategy
import torch
from torch import nn
from torch.nn import functional as F

from nasbench.architecture import instantiate, resolve
from nasbench.benchmarks import interleave, summarised
from nasbench.machine import environment
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.strategies.pmpl import PMPL

BATCH, SIZE = 32, 32
GOALS = {"global_over_plain": "≤ 1.25×", "over_plain": "≤ 1.6×", "speedup_nni": "≥ 8×"}
NAMES = ("plain", "all_global", "ours", "eager", "nni_darts")


def space(image_size: int = SIZE) -> MobileNetV2MetaPooling:
    """The space of all contenders, at width 1.0."""
    return MobileNetV2MetaPooling(num_classes=10, image_size=image_size)


def fixed(choice: str, image_size: int = SIZE) -> nn.Module:
    """A network that has one candidate in all blocks."""
    return instantiate(lambda: space(image_size), resolve(space(image_size), choice))


def build(name: str) -> tuple[nn.Module, str, torch.memory_format]:
    """A contender at width 1.0 in training mode, the value of NASBENCH_KERNELS for it, and its memory layout.

    `plain` and `all_global` are fixed networks; `ours` is the eight-candidate supernet, `eager` the same in plain
    PyTorch, and `nni_darts` NNI's stock DARTS on the same space, in the default layout.
    """
    torch.manual_seed(0)
    layout = torch.contiguous_format if name == "nni_darts" else torch.channels_last
    if name in ("plain", "all_global"):
        network: Any = fixed("none" if name == "plain" else "global")
    else:
        network = (nni.nas.strategy.DARTS() if name == "nni_darts" else PMPL()).mutate_model(space())
    return network.to(memory_format=layout).train(), "reference" if name in ("eager", "nni_darts") else "auto", layout


def step(name: str, batch: int = BATCH) -> Callable[[], None]:
    """Forward and backward of one contender on a batch of random images, as a function to be timed."""
    network, kernels, layout = build(name)
    images = torch.randn(batch, 3, SIZE, SIZE).contiguous(memory_format=layout)
    labels = torch.randint(0, 10, (batch,))

    def run() -> None:
        with environment(NASBENCH_KERNELS=kernels):
            network.zero_grad()
            F.cross_entropy(network(images), labels).backward()

    return run


def run(repetitions: int = 7) -> dict[str, Any]:
    """Milliseconds of forward + backward of every contender, batch 32, 32×32, width 1.0, and ratios."""
    found = summarised(interleave({name: step(name) for name in NAMES}, repetitions), "ms")
    ratios = {
        "global_over_plain": found["all_global_ms"] / found["plain_ms"],
        "over_plain": found["ours_ms"] / found["plain_ms"],
        "over_all_global": found["ours_ms"] / found["all_global_ms"],
        "speedup_nni": found["nni_darts_ms"] / found["ours_ms"],
    }
    return {**found, **ratios, "goals": GOALS}
