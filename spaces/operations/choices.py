"""What spaces share, above all those with an enhancer in every block."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from nni.nas.nn.pytorch import LayerChoice
from torch import Tensor, nn

from nasbench.spaces.operations.enhancers import CANDIDATE_SETS, candidate_names, enhancer

# Named architectures that have one candidate everywhere.
UNIFORM = {"none": "none", "local": "avg3", "global": "global"}


class MeanOfFeatures:
    """Base of networks whose classifier sees the mean of the last map."""

    features: nn.Module
    classifier: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images `x` (N, 3, S, S)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class EnhancedSpace:
    """Base of spaces whose every block chooses its enhancer; they call `choose_among`, then `choice` block by block."""

    extra: ClassVar[tuple[str, ...]] = ()  # candidates of the space's own
    pretrained: ClassVar[str] = ""  # `pretrained_backbone` at width 1, with names of options in braces
    candidate_names: tuple[str, ...]
    enhancer_labels: list[str]  # of the blocks so far
    _reductions: Mapping[str, int]

    def choose_among(self, candidates: str | Iterable[str], reductions: Mapping[str, int]) -> None:
        """Set the candidates, see `candidate_names`, and the reductions of some of them."""
        self.candidate_names, self._reductions = candidate_names(candidates, self.extra), reductions
        self.enhancer_labels = []

    def choice(self, channels: int, label: str = "") -> nn.Module:
        """The choice of the next block's enhancer for features of so many channels."""
        self.enhancer_labels.append(label or enhancer_label(len(self.enhancer_labels) + 1))
        return enhancer_choice(self.enhancer_labels[-1], self.candidate_names, channels, self._reductions)

    @classmethod
    def pretrained_backbone(cls, options: Mapping[str, Any]) -> str:
        """The network whose pretrained weights fit by name: what `--weights default` takes."""
        return cls.pretrained.format(**options) if options.get("width") == 1 else ""

    @classmethod
    def words(cls, options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the candidates: the name of their set, or they themselves joined by `+`."""
        members = tuple(options["candidates"])
        names = [name for name in CANDIDATE_SETS if candidate_names(name, cls.extra) == members]
        return {"candidates": names[0] if names else "+".join(members)}

    def architectures(self) -> dict[str, dict[str, str]]:
        """Named architectures: `none`, `local` (avg3) and `global` everywhere, as far as the candidates allow them."""
        return uniform_architectures(self.enhancer_labels, self.candidate_names)


def enhancer_choice(label: str, names: Iterable[str], channels: int, reductions: Mapping[str, int]) -> nn.Module:
    """The choice of one block's enhancer out of `ENHANCERS`, with their own defaults where `reductions` has none."""
    candidates = OrderedDict((name, enhancer(name, channels, reductions.get(name))) for name in names)
    return LayerChoice(candidates, label=label)


def enhancer_label(block: int) -> str:
    """The label of a block's enhancer, e.g. `block09.enhancer`."""
    return f"block{block:02d}.enhancer"


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
