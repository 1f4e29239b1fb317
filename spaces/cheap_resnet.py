"""Residual networks for small images whose every block chooses a standard or a cheap convolution."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, ClassVar

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nasbench.errors import OptionError
from nasbench.options import Count, Range, checked
from nasbench.spaces.operations.cheap import CHEAP, convolution
from nasbench.spaces.operations.choices import MeanOfFeatures
from nasbench.spaces.operations.strides import FittedSpace, Rule, fit_strides

STAGES = (16, 32, 64)
CANDIDATES = ("standard", *CHEAP)


class ResidualBlock(nn.Module):
    """(N, C_in, H, W) → (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉), beside it the identity or a 1×1 convolution and BN."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inp != oup:
            self.shortcut = nn.Sequential(convolution(inp, oup, 1, stride), nn.BatchNorm2d(oup))


class StandardBlock(ResidualBlock):
    """Two 3×3 convolutions, and a ReLU after the sum. Source: He et al., CVPR 2016, figure 5 left, section 4.2."""

    def __init__(self, inp: int, oup: int, stride: int) -> None:
        super().__init__(inp, oup, stride)
        self.conv1, self.bn1 = convolution(inp, oup, 3, stride), nn.BatchNorm2d(oup)
        self.conv2, self.bn2 = convolution(oup, oup, 3), nn.BatchNorm2d(oup)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for `x` (N, C_in, H, W)."""
        features = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(features)) + self.shortcut(x))


class CheapBlock(ResidualBlock):
    """Each 3×3 convolution of the basic block replaced by a cheap operation and a 1×1 convolution.

    The cheap operations keep shape and channels, the second 1×1 convolution has the stride; nothing stands between an
    operation and its convolution, and nothing after the sum. Source: arXiv 1909.13063.
    """

    def __init__(self, inp: int, oup: int, stride: int, operation: Callable[[int], nn.Module]) -> None:
        """Build the block from `inp` to `oup` channels; `operation` makes a cheap operation of so many channels."""
        super().__init__(inp, oup, stride)
        self.cheap1, self.conv1, self.bn1 = operation(inp), convolution(inp, oup, 1), nn.BatchNorm2d(oup)
        self.cheap2, self.conv2, self.bn2 = operation(oup), convolution(oup, oup, 1, stride), nn.BatchNorm2d(oup)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for `x` (N, C_in, H, W)."""
        features = self.relu(self.bn1(self.conv1(self.cheap1(x))))
        return self.relu(self.bn2(self.conv2(self.cheap2(features)))) + self.shortcut(x)


class CheapResNet(MeanOfFeatures, FittedSpace, ModelSpace):
    """Cheap convolutions in a ResNet for small images: each block is standard, depthwise, grouped or shifted.

    One `LayerChoice` a block, labelled `block01.conv` … `block27.conv` (at depth 56). Its candidates are whole blocks:
    the standard one has a ReLU after the sum, the others have not. (N, 3, S, S) → (N, num_classes), S = `image_size`.
    Source: arXiv 1909.13063 (the cheap blocks); He et al., CVPR 2016, section 4.2 (the network), with 1×1 convolutions
    on the shortcuts that change shape.
    """

    # What the network was made for: classes and image size of a profile without a data set.
    profile_defaults = (10, 32)
    presets: ClassVar = {"quick": {"depth": 20}}

    @checked
    def __init__(
        self,
        depth: Annotated[int, Range(ge=8, le=1202)] = 56,  # layers with weights on the longest path, 6n + 2: 20, 56, …
        # Multiplier of the 16, 32 and 64 channels of the stages, rounded to multiples of 4. A grouped convolution has
        # no more groups than channels, and shifting moves 9·⌊C/9⌋ of C channels.
        width: Annotated[float, Range(ge=0.25, le=8)] = 1.0,
        num_classes: Count = 10,  # outputs of the classifier
        image_size: int = 32,  # side of the input in pixels; 13 and more keep the two strides
        strides: Rule = "fit",  # `fit` drops those that a small image cannot bear, `original` keeps all (`fit_strides`)
    ) -> None:
        """Build the space. Raises OptionError: a value is out of range."""
        super().__init__()
        if (depth - 2) % 6:
            below = depth - (depth - 2) % 6
            raise OptionError(f"depth must be 6n + 2 (8, 14, 20, …), e.g. {below} or {below + 6}, not {depth}")
        blocks = (depth - 2) // 6
        channels = [max(4, 4 * round(c * width / 4)) for c in STAGES]
        self.strides = fit_strides(image_size, (1, 2, 2), strides)
        layers: list[tuple[str, nn.Module]] = [
            ("stem", nn.Sequential(convolution(3, channels[0], 3), nn.BatchNorm2d(channels[0]), nn.ReLU()))
        ]
        self._labels: list[str] = []
        inp = channels[0]
        for oup, first in zip(channels, self.strides.chosen, strict=True):
            for stride in [first] + [1] * (blocks - 1):
                name = f"block{len(layers):02d}"
                self._labels.append(f"{name}.conv")
                candidates: OrderedDict[str, nn.Module] = OrderedDict(standard=StandardBlock(inp, oup, stride))
                candidates.update((kind, CheapBlock(inp, oup, stride, make)) for kind, make in CHEAP.items())
                layers.append((name, LayerChoice(candidates, label=self._labels[-1])))
                inp = oup
        self.features = nn.Sequential(OrderedDict(layers))
        self.classifier = nn.Linear(inp, num_classes)

    def architectures(self) -> dict[str, dict[str, str]]:
        """Named architectures: each candidate in all blocks."""
        return {name: dict.fromkeys(self._labels, name) for name in CANDIDATES}
