"""ShuffleNetV2 whose every unit chooses its receptive field."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn
from torchvision.models.shufflenetv2 import InvertedResidual, ShuffleNetV2, channel_shuffle

from nasbench.options import Count, Width, checked
from nasbench.spaces.operations.choices import EnhancedSpace
from nasbench.spaces.operations.enhancers import Candidates
from nasbench.spaces.operations.strides import FittedSpace, Rule, fit_strides

REPEATS = (4, 8, 4)
# Stem, three stages and head of the published networks (Table 5 of the paper).
CHANNELS = {
    0.5: (24, 48, 96, 192, 1024),
    1.0: (24, 116, 232, 464, 1024),
    1.5: (24, 176, 352, 704, 1024),
    2.0: (24, 244, 488, 976, 2048),
}


def channels(width: float) -> list[int]:
    """Channels of the stem, the three stages and the head.

    At widths that are not published the channels of 1 are scaled, stem and head included, to even numbers from 8 on.
    """
    if width in CHANNELS:
        return list(CHANNELS[width])
    return [max(8, 2 * round(c * width / 2)) for c in CHANNELS[1.0]]


class EnhancedUnit(InvertedResidual):
    """torchvision's unit of ShuffleNetV2, parameter names included, with a spatial enhancer in its main branch.

    It stands after the depthwise convolution and its batch normalisation, before the second 1×1 convolution. (N, C_in,
    H, W) → (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉). Source: Ma et al., ECCV 2018, figure 3 c and d (the unit); Dong et al.,
    ICASSP 2023 (the enhancer).
    """

    enhancer: nn.Module
    DEPTHWISE, NORM = 3, 4  # positions in branch2

    def forward(self, x: Tensor) -> Tensor:
        """Compute the unit's output for `x` (N, C_in, H, W)."""
        # `stride` tells the two kinds of units apart, also where the convolutions have been given stride 1.
        kept, features = x.chunk(2, dim=1) if self.stride == 1 else (self.branch1(x), x)
        for position, layer in enumerate(self.branch2):
            features = layer(features)
            if position == self.NORM:
                features = self.enhancer(features)
        return channel_shuffle(torch.cat((kept, features), dim=1), 2)


class ShuffleNetV2MetaPooling(EnhancedSpace, FittedSpace, ModelSpace):
    """Meta-Pooling on ShuffleNetV2: each of the 16 units chooses no, a local or the global enhancer.

    One `LayerChoice` a unit, labelled `block01.enhancer` … `block16.enhancer`. (N, 3, S, S) → (N, num_classes), S =
    `image_size`. Source: Ma et al., ECCV 2018; Dong et al., ICASSP 2023, section 2.1; the backbone is torchvision's,
    names included.
    """

    presets: ClassVar = {"quick": {"width": 0.25}}

    @checked
    def __init__(
        self,
        width: Width = 1.0,  # width multiplier, see `channels`
        candidates: Candidates = "full",  # `full`, `ablation`, or names (see `candidate_names`)
        num_classes: Count = 1000,  # outputs of the classifier
        image_size: int = 224,  # side in pixels; 224 keeps all strides; a stem's pooling that loses its own is left out
        reduction: Count = 32,  # of spatial separable pooling
        strides: Rule = "fit",  # `fit` drops those that a small image cannot bear, `original` keeps all (`fit_strides`)
    ) -> None:
        """Build the space. Raises OptionError: a value is unknown or out of range."""
        super().__init__()
        self.choose_among(candidates, {"global": reduction})
        self.strides = fit_strides(image_size, (2, 2, 2, 2, 2), strides)
        stem, pool, *stages = self.strides.chosen
        remaining: Iterator[int] = iter(stages)

        def unit(inp: int, oup: int, stride: int) -> EnhancedUnit:
            module = EnhancedUnit(inp, oup, stride)
            if stride == 2:  # of both depthwise convolutions
                module.branch1[0].stride = module.branch2[module.DEPTHWISE].stride = (next(remaining),) * 2
            module.enhancer = self.choice(oup // 2)
            return module

        network = ShuffleNetV2(list(REPEATS), channels(width), num_classes, inverted_residual=unit)
        network.conv1[0].stride = (stem, stem)
        self.conv1 = network.conv1
        self.maxpool = network.maxpool if pool == 2 else nn.Identity()
        self.stage2, self.stage3, self.stage4 = network.stage2, network.stage3, network.stage4
        self.conv5, self.fc = network.conv5, network.fc

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images `x` (N, 3, S, S)."""
        features = self.maxpool(self.conv1(x))
        features = self.stage4(self.stage3(self.stage2(features)))
        return self.fc(self.conv5(features).mean((2, 3)))

    @property
    def features(self) -> nn.Sequential:
        """The layers up to the last map in one sequence, as torchvision's other networks have them."""
        return nn.Sequential(self.conv1, self.maxpool, *self.stage2, *self.stage3, *self.stage4, self.conv5)

    @classmethod
    def pretrained_backbone(cls, options: Mapping[str, Any]) -> str:
        """See `EnhancedSpace`: there are weights of the published widths."""
        width = float(options["width"])
        return f"torchvision:shufflenet_v2_x{width}".replace(".", "_") if width in CHANNELS else ""
