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
    """The choice of one block's enhancer.

    Args:
        label: of the choice, see `enhancer_label`.
        names: the candidates, keys of `ENHANCERS`.
        channels: C of the features that are enhanced.
        reductions: of the candidates that squeeze channels; their own defaults where absent.

    Returns:
        A `LayerChoice`; under `model_context` the chosen candidate itself.
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
    """The architectures `none`, `local` (avg3) and `global`: one enhancer in all blocks.

    Args:
        labels: of the choices.
        candidates: what each of them may choose from.

    Returns:
        Name → architecture, of those that the candidates allow.
    """
    labels = list(labels)
    return {name: dict.fromkeys(labels, chosen) for name, chosen in UNIFORM.items() if chosen in candidates}


class OnFirst(nn.Module):
    """An operation of one tensor among candidates that need several: it is applied to the first.

    NNI's choices hand one argument to their candidates, so several tensors travel as a tuple.

    Attributes:
        operation: the operation.
    """

    def __init__(self, operation: nn.Module) -> None:
        """Wrap `operation`."""
        super().__init__()
        self.operation = operation

    def forward(self, inputs: tuple[Tensor, ...]) -> Any:
        """The operation's output for `inputs[0]`."""
        return self.operation(inputs[0])
