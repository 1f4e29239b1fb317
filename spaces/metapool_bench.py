"""A Meta-Pooling space small enough to be trained whole: every network of it, several times."""

from typing import Any

from nni.nas.nn.pytorch import ModelSpace
from torch import nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.ops import Conv2dNormActivation

from nasbench.options import Count, Width, checked
from nasbench.spaces.mbv2_metapool import EnhancedInvertedResidual
from nasbench.spaces.operations.choices import EnhancedSpace, MeanOfFeatures
from nasbench.spaces.operations.enhancers import CANDIDATE_SETS, Candidates

# Expansion, channels, blocks and stride of the stages; with the stem's stride a map is an eighth of the image.
SETTING = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2), (6, 64, 1, 1), (6, 96, 1, 1))
HEAD = 256  # channels before the classifier; MobileNetV2's 1,280 would take most of the time of so small a network
LABELS = tuple(f"stage{number}.enhancer" for number in range(1, len(SETTING) + 1))
CANDIDATES = CANDIDATE_SETS["ablation"]  # of which every network has been trained


class MetaPoolBench(MeanOfFeatures, EnhancedSpace, ModelSpace):
    """A short MobileNetV2, one block in each of five stages, each of which chooses its receptive field.

    With the three candidates of the Meta-Pooling paper's ablation these are 243 networks: few enough to train all of
    them with several seeds, so that it is known where the answer of a search stands among all answers. One
    `LayerChoice` a block, labelled `stage1.enhancer` … `stage5.enhancer`, on the expanded features. (N, 3, S, S) → (N,
    num_classes); made for S of 32 to 64. Source: Sandler et al., CVPR 2018 (the blocks); Dong et al., ICASSP 2023,
    Table 3 (the candidates).
    """

    profile_defaults = (10, 48)

    @checked
    def __init__(
        self,
        width: Width = 0.5,  # width multiplier of MobileNetV2
        candidates: Candidates = "ablation",  # `full`, `ablation`, or names (see `candidate_names`)
        num_classes: Count = 10,  # outputs of the classifier
        reduction: Count = 32,  # of spatial separable pooling
    ) -> None:
        """Build the space. Raises OptionError: a value is unknown or out of range."""
        super().__init__()
        self.choose_among(candidates, {"global": reduction})
        labels = iter(LABELS)

        def block(*args: Any, **kwargs: Any) -> EnhancedInvertedResidual:
            module = EnhancedInvertedResidual(
                *args, position="expanded", downsampling="stride", depthwise="conv", **kwargs
            )
            module.enhancer = self.choice(module.expanded_channels, next(labels))
            return module

        network = MobileNetV2(num_classes, width, [list(stage) for stage in SETTING], block=block)
        last = network.features[-2].out_channels
        head = Conv2dNormActivation(last, HEAD, kernel_size=1, activation_layer=nn.ReLU6)
        self.features = nn.Sequential(*network.features[:-1], head)
        self.classifier = nn.Linear(HEAD, num_classes)
