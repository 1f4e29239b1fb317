"""MobileNetV3 whose every block chooses its receptive field."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import ClassVar, Literal

from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small
from torchvision.models.mobilenetv3 import InvertedResidual, InvertedResidualConfig

from nasbench.options import Count, Share, Width, checked
from nasbench.spaces.operations.choices import EnhancedSpace
from nasbench.spaces.operations.enhancers import Candidates
from nasbench.spaces.operations.strides import FittedSpace, Rule, fit_strides

# Strides of the stem and of every block at 224×224 (Tables 1 and 2 of the paper).
STRIDES = {
    "large": (2, 1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1),
    "small": (2, 2, 2, 1, 2, 1, 1, 1, 1, 2, 1, 1),
}
NETWORKS = {"large": mobilenet_v3_large, "small": mobilenet_v3_small}


class EnhancedV3Residual(InvertedResidual):
    """torchvision's inverted residual block of MobileNetV3, parameter names included, with a spatial enhancer.

    It stands after the depthwise convolution, its batch normalisation and its activation, before squeeze-and-excitation
    and projection. (N, C_in, H, W) → (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉). Source: Howard et al., ICCV 2019, figure 4
    (the block); Dong et al., ICASSP 2023 (the enhancer).
    """

    enhancer: nn.Module

    def __init__(self, config: InvertedResidualConfig, norm_layer: Callable[..., nn.Module]) -> None:
        super().__init__(config, norm_layer)
        self.depthwise = len(self.block) - (3 if config.use_se else 2)  # its position; behind it: SE, projection

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for `x` (N, C_in, H, W)."""
        features = x
        for position, layer in enumerate(self.block):
            features = layer(features)
            if position == self.depthwise:
                features = self.enhancer(features)
        return x + features if self.use_res_connect else features


class MobileNetV3MetaPooling(EnhancedSpace, FittedSpace, ModelSpace):
    """Meta-Pooling on MobileNetV3: each of the 15 (large) or 11 (small) blocks chooses its enhancer, or none.

    One `LayerChoice` a block, labelled `block01.enhancer`, …. (N, 3, S, S) → (N, num_classes), S = `image_size`.
    Source: Howard et al., ICCV 2019; Dong et al., ICASSP 2023, section 2.1; the backbone is torchvision's, names
    included.
    """

    presets: ClassVar = {"quick": {"model": "small", "width": 0.25}}
    pretrained = "torchvision:mobilenet_v3_{model}"

    @checked
    def __init__(
        self,
        model: Literal["large", "small"] = "large",
        width: Width = 1.0,  # width multiplier of MobileNetV3
        candidates: Candidates = "full",  # `full`, `ablation`, or names (see `candidate_names`)
        num_classes: Count = 1000,  # outputs of the classifier
        # Side of the input in pixels; 224 keeps the original strides. A block that loses its stride adds its input
        # wherever the channels are equal, as blocks of stride 1 do.
        image_size: int = 224,
        reduction: Count = 32,  # of spatial separable pooling
        dropout: Share = 0.2,  # before the last layer of the classifier
        strides: Rule = "fit",  # `fit` drops those that a small image cannot bear, `original` keeps all (`fit_strides`)
    ) -> None:
        """Build the space. Raises OptionError: a value is unknown or out of range."""
        super().__init__()
        self.choose_among(candidates, {"global": reduction})
        self.strides = fit_strides(image_size, STRIDES[model], strides)
        stem, *block_strides = self.strides.chosen
        remaining: Iterator[int] = iter(block_strides)

        def block(config: InvertedResidualConfig, norm_layer: Callable[..., nn.Module]) -> EnhancedV3Residual:
            config.stride = next(remaining)
            module = EnhancedV3Residual(config, norm_layer)
            module.enhancer = self.choice(config.expanded_channels)
            return module

        # The published momentum 0.01 makes batch statistics lag behind by hundreds of steps: a network trained for
        # fewer is perfect in training and at chance level in evaluation. PyTorch's own 0.1 serves long trainings too.
        norm = partial(nn.BatchNorm2d, eps=0.001)
        network = NETWORKS[model](
            width_mult=width, num_classes=num_classes, dropout=dropout, block=block, norm_layer=norm
        )
        network.features[0][0].stride = (stem, stem)
        self.features = network.features
        self.avgpool = network.avgpool
        self.classifier = network.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images `x` (N, 3, S, S)."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
