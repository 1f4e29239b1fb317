"""What the spaces with an enhancer in every block share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from nasbench.spaces.operations.enhancers import enhancer

# Named architectures that have one candidate everywhere.
UNIFORM = {"none": "none", "local": "avg3", "global": "global"}


def enhancer_choice(label: str, names: Iterable[str], channels: int, reductions: Mapping[str, int]) -> nn.Module:
    """The choice of one block's enhancer, keys of `ENHANCERS` for features of C = `channels`.

    Those that squeeze channels have their own defaults where `reductions` lacks them.
    """
    candidates = OrderedDict((name, enhancer(name, channels, reductions.get(name))) for name in names)
    return LayerChoice(candidates, label=label)


def enhancer_label(block: int) -> str:
    """The label of a block's enhancer, e.g. `block09.enhancer`."""
    return f"block{block:02d}.enhancer"


def enhancer_labels(blocks: int) -> list[str]:
    """The labels of all blocks' enhancers."""
    return [enhancer_label(i) for i in range(1, blocks + 1)]


def uniform_architectures(labels: Iterable[str], candidates: Sequence[str]) -> dict[str, dict[str, str]]:
    """The architectures `none`, `local` (avg3) and `global`, one enhancer in all blocks, that the candidates allow."""
    labels = list(labels)
    return {name: dict.fromkeys(labels, chosen) for name, chosen in UNIFORM.items() if chosen in candidates}


class OnFirst(nn.Module):
    """An operation of one tensor among candidates that need several, which travel as a tuple: it gets the first."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, inputs: tuple[Tensor, ...]) -> Any:
        """The operation's output for `inputs[0]`."""
        return self.operation(inputs[0])
