"""The space of NAS-Bench-Macro, of which every network was trained."""

from collections import OrderedDict
from typing import Any

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from nasbench.options import Count, Width, checked
from nasbench.spaces.operations.choices import MeanOfFeatures

STAGES = (2, 3, 3)  # layers of each stage; the first of a stage halves the map and doubles the channels
STEM, HEAD = 32, 1280  # channels
LABELS = tuple(f"layer{number}" for number in range(1, sum(STAGES) + 1))
# Candidate → expansion and kernel of its inverted residual; in the order of the benchmark's digits.
CANDIDATES = {"identity": None, "expand3_kernel3": (3, 3), "expand6_kernel5": (6, 5)}


class NasBenchMacro(MeanOfFeatures, ModelSpace):
    """NAS-Bench-Macro: eight layers, each nothing or a block of MobileNetV2, of two sizes: 6,561 networks for CIFAR.

    One `LayerChoice` a layer, labelled `layer1` … `layer8`. (N, 3, S, S) → (N, num_classes). Source: Su et al.,
    "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021, section 5 and its repository.
    """

    profile_defaults = (10, 32)

    @checked
    def __init__(self, width: Width = 1.0, num_classes: Count = 10) -> None:
        """Build the space; the benchmark's networks have width 1. Raises OptionError: a value is out of range."""
        super().__init__()
        channels, head = max(1, round(STEM * width)), max(1, round(HEAD * width))
        layers: list[nn.Module] = [Conv2dNormActivation(3, channels, 3)]
        labels = iter(LABELS)
        for count in STAGES:
            for number in range(count):
                stride = 1 if number else 2
                blocks = [(name, block(channels, channels * stride, stride, size)) for name, size in CANDIDATES.items()]
                channels *= stride
                layers.append(LayerChoice(OrderedDict(blocks), label=next(labels)))
        self.features = nn.Sequential(*layers, Conv2dNormActivation(channels, head, 1))
        self.classifier = nn.Linear(head, num_classes)

    def architectures(self) -> dict[str, dict[str, str]]:
        """`best`, the most accurate on CIFAR-10 in the benchmark, and one candidate everywhere."""
        best = [list(CANDIDATES)[int(digit)] for digit in "22212202"]
        return {
            "best": dict(zip(LABELS, best, strict=True)),
            **{name: dict.fromkeys(LABELS, name) for name in CANDIDATES},
        }


class Residual(nn.Sequential):
    """Layers whose input is added to their output."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        result: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return result + x


def block(inputs: int, outputs: int, stride: int, size: tuple[int, int] | None) -> nn.Module:
    """A candidate (N, inputs, H, W) → (N, outputs, H / stride, W / stride), an identity without a `size`."""
    plain: dict[str, Any] = {"activation_layer": None}
    if size is None:
        return nn.Identity() if inputs == outputs else Conv2dNormActivation(inputs, outputs, 1, stride, **plain)
    expansion, kernel = size
    hidden = expansion * inputs
    return (Residual if inputs == outputs else nn.Sequential)(
        Conv2dNormActivation(inputs, hidden, 1),
        Conv2dNormActivation(hidden, hidden, kernel, stride, groups=hidden),
        Conv2dNormActivation(hidden, outputs, 1, **plain),
    )
