"""MobileNetV2 whose every block chooses its receptive field."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual, MobileNetV2

from nasbench.errors import OptionError, unknown
from nasbench.options import Count, Share, Width, checked
from nasbench.spaces.operations.attention import SK
from nasbench.spaces.operations.choices import EnhancedSpace, MeanOfFeatures
from nasbench.spaces.operations.enhancers import Candidates
from nasbench.spaces.operations.pooling import DOWNSAMPLING
from nasbench.spaces.operations.strides import FittedSpace, Rule, fit_strides

# Expansion, channels, blocks and stride of the stages (Table 2 of the paper of MobileNetV2).
SETTING = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STRIDES = (2, *(stride for *_, stride in SETTING))  # of the stem and of the stages
REDUCTION = {"expanded": 24, "output": 8}  # of the attention's candidates, by position (Tables 2 and 4 of the paper)


class EnhancedInvertedResidual(InvertedResidual):
    """torchvision's inverted residual block, parameter names included, with a spatial enhancer.

    It stands on the expanded features (after the depthwise conv–BN–ReLU6, before the linear projection) or on the
    block's output (after the projection's batch normalisation, before the residual sum). (N, C_in, H, W) → (N, C_out,
    ⌈H/stride⌉, ⌈W/stride⌉). Source: Sandler et al., CVPR 2018 (the block); Dong et al., ICASSP 2023 (the enhancer).
    """

    enhancer: nn.Module

    def __init__(
        self, inp: int, oup: int, stride: int, *, position: str, downsampling: str, depthwise: str, **kwargs: Any
    ) -> None:
        """Build the block without its enhancer; see the space for the options, and torchvision for the others."""
        super().__init__(inp, oup, stride, **kwargs)
        self.position = position
        self.expanded_channels = self.conv[-2].in_channels
        if depthwise == "sk":
            self.conv[-3] = SK(self.expanded_channels, stride=stride)
        self.downsampling: nn.Module | None = None
        if stride == 2 and downsampling != "stride":
            self.conv[-3][0].stride = (1, 1)
            self.downsampling = DOWNSAMPLING[downsampling](self.expanded_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for `x` (N, C_in, H, W)."""
        *expand, project, norm = self.conv
        features = x
        for layer in expand:
            features = layer(features)
        if self.downsampling is not None:
            features = self.downsampling(features)
        if self.position == "expanded":
            features = self.enhancer(features)
        features = norm(project(features))
        if self.position == "output":
            features = self.enhancer(features)
        return x + features if self.use_res_connect else features


class MobileNetV2MetaPooling(MeanOfFeatures, EnhancedSpace, FittedSpace, ModelSpace):
    """Meta-Pooling on MobileNetV2: each of the 17 blocks chooses no, a local or the global enhancer.

    One `LayerChoice` a block, labelled `block01.enhancer` … `block17.enhancer`. (N, 3, S, S) → (N, num_classes), S =
    `image_size`. Source: Dong et al., ICASSP 2023, sections 2.1 and 3; the backbone is torchvision's, names included.
    """

    presets: ClassVar = {"quick": {"width": 0.25}}
    pretrained = "torchvision:mobilenet_v2"

    @checked
    def __init__(
        self,
        width: Width = 1.0,  # width multiplier of MobileNetV2
        candidates: Candidates = "full",  # `full`, `ablation`, or names (see `candidate_names`)
        position: Literal["expanded", "output"] = "expanded",  # `expanded` or `output`, see `EnhancedInvertedResidual`
        num_classes: Count = 1000,  # outputs of the classifier
        image_size: int = 224,  # side of the input in pixels; 224 keeps the original strides
        reduction: Count = 32,  # of spatial separable pooling
        dropout: Share = 0.2,  # before the classifier
        # `stride`, or the pooling (a key of `DOWNSAMPLING`) that takes the place of the stride of the down-sampling
        # depthwise convolutions: they become stride 1, and the pooling follows (Table 1).
        downsampling: str = "stride",
        # `conv`, or `sk` for selective kernels in place of every depthwise convolution (Table 4).
        depthwise: Literal["conv", "sk"] = "conv",
        # Of `se` and `cbam`; by default 24 on the expanded features (Table 2) and 8 on the output (Table 4).
        attention_reduction: Count | None = None,
        strides: Rule = "fit",  # `fit` drops those that a small image cannot bear, `original` keeps all (`fit_strides`)
    ) -> None:
        """Build the space. Raises OptionError: a value is unknown or out of range."""
        super().__init__()
        if downsampling not in ("stride", *DOWNSAMPLING):
            raise OptionError(unknown("downsampling", downsampling, ["stride", *DOWNSAMPLING]))
        if depthwise == "sk" and downsampling != "stride":
            raise OptionError("depthwise 'sk' brings its own stride: it goes with downsampling 'stride' only")
        attention = attention_reduction or REDUCTION[position]
        self.choose_among(candidates, {"global": reduction, "se": attention, "cbam": attention})
        self.strides = fit_strides(image_size, STRIDES, strides)
        stem_stride, *stage_strides = self.strides.chosen

        def block(*args: Any, **kwargs: Any) -> EnhancedInvertedResidual:
            module = EnhancedInvertedResidual(
                *args, position=position, downsampling=downsampling, depthwise=depthwise, **kwargs
            )
            channels = module.expanded_channels if position == "expanded" else module.out_channels
            module.enhancer = self.choice(channels)
            return module

        setting = [[t, c, n, stride] for (t, c, n, _), stride in zip(SETTING, stage_strides, strict=True)]
        network = MobileNetV2(num_classes, width, setting, block=block, dropout=dropout)
        network.features[0][0].stride = (stem_stride, stem_stride)
        self.features = network.features
        self.classifier = network.classifier

    @classmethod
    def settle(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Put the values in the place of those that depend on others."""
        return {**options, "attention_reduction": options["attention_reduction"] or REDUCTION[options["position"]]}

    @classmethod
    def words(cls, options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says in the place of options' values."""
        where = "" if options["position"] == "expanded" else f"at {options['position']}"
        # The attention's reduction goes with the position, unless it was chosen.
        usual = options["attention_reduction"] == REDUCTION[options["position"]]
        reduction = {"attention_reduction": ""} if usual else {}
        return {**super().words(options), "position": where, **reduction}

    def architectures(self) -> dict[str, dict[str, str]]:
        """`none`, `local` (avg3) and `global` everywhere, and `paper`: blocks 9–17 global, the others without enhancer.

        That is the only such rule that gives the paper's parameter counts at all three widths (Table 2).
        """
        paper = {label: "global" if i > 8 else "none" for i, label in enumerate(self.enhancer_labels, 1)}
        return super().architectures() | ({"paper": paper} if {"none", "global"} <= set(self.candidate_names) else {})
