"""Inverted residual blocks of which each chooses what it costs, on the skeletons of published mobile networks."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.nn.pytorch.base import MutableModule
from timm.layers.helpers import make_divisible
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from nasbench.errors import OptionError, unknown
from nasbench.options import Count, Share, Width, checked
from nasbench.spaces.operations.choices import EnhancedSpace, MeanOfFeatures
from nasbench.spaces.operations.enhancers import Candidates
from nasbench.spaces.operations.fused import Recomputed
from nasbench.spaces.operations.strides import FittedSpace, Rule, fit_strides

SKIP = "skip"
GRID = tuple(f"e{expansion}k{kernel}" for expansion in (1, 3, 6) for kernel in (3, 5, 7))


class Stage(NamedTuple):
    """Blocks of equal channels, the first of which has the stride and brings the channels."""

    channels: int
    stride: int
    blocks: str  # of the published network: expansion (2_5 is 2.5) and kernel of each, or `skip`
    squeezed: bool = False  # with squeeze-and-excitation
    activation: type[nn.Module] | None = None  # the skeleton's where `None`


class Skeleton(NamedTuple):
    """What stays as it is, with the choices of the network that it was published with."""

    stem: int  # channels of the first convolution, 3×3 with stride 2
    stages: tuple[Stage, ...]
    head: tuple[int, ...]  # outputs of the 1×1 convolution in front of the mean, and of a further layer behind it
    activation: type[nn.Module] = nn.ReLU
    eps: float = 1e-5  # ε of the batch normalisation
    always_expands: bool = False  # expansion 1 has its 1×1 convolution, too
    # Squeeze-and-excitation as in MobileNetV3: to a quarter of the expanded channels, with a hard sigmoid. Otherwise to
    # a quarter of the block's input channels, with a sigmoid.
    hard_squeeze: bool = False


SKELETONS = {
    # Sandler et al., CVPR 2018, Table 2.
    "mobilenet_v2": Skeleton(
        stem=32,
        stages=(
            Stage(16, 1, "e1k3"),
            Stage(24, 2, "e6k3 e6k3"),
            Stage(32, 2, "e6k3 e6k3 e6k3"),
            Stage(64, 2, "e6k3 e6k3 e6k3 e6k3"),
            Stage(96, 1, "e6k3 e6k3 e6k3"),
            Stage(160, 2, "e6k3 e6k3 e6k3"),
            Stage(320, 1, "e6k3"),
        ),
        head=(1280,),
        activation=nn.ReLU6,
    ),
    # Cai et al., ICLR 2019, figure 4, and the authors' repository (mit-han-lab/proxylessnas).
    "proxyless_mobile": Skeleton(
        stem=32,
        stages=(
            Stage(16, 1, "e1k3"),
            Stage(32, 2, "e3k5 e3k3 skip skip"),
            Stage(40, 2, "e3k7 e3k3 e3k5 e3k5"),
            Stage(80, 2, "e6k7 e3k5 e3k5 e3k5"),
            Stage(96, 1, "e6k5 e3k5 e3k5 e3k5"),
            Stage(192, 2, "e6k7 e6k7 e3k7 e3k7"),
            Stage(320, 1, "e6k7"),
        ),
        head=(1280,),
        activation=nn.ReLU6,
        eps=1e-3,
    ),
    "proxyless_cpu": Skeleton(
        stem=40,
        stages=(
            Stage(24, 1, "e1k3"),
            Stage(32, 2, "e6k3 e3k3 e3k3 e3k3"),
            Stage(48, 2, "e6k3 e3k3 e3k3 e3k5"),
            Stage(88, 2, "e6k3 e3k3 skip skip"),
            Stage(104, 1, "e6k5 e3k3 e3k3 e3k3"),
            Stage(216, 2, "e6k5 e3k5 e3k5 e3k3"),
            Stage(360, 1, "e6k5"),
        ),
        head=(1432,),
        activation=nn.ReLU6,
        eps=1e-3,
    ),
    "proxyless_gpu": Skeleton(
        stem=40,
        stages=(
            Stage(24, 1, "e1k3"),
            Stage(32, 2, "e3k5 skip skip skip"),
            Stage(56, 2, "e3k7 skip skip e3k3"),
            Stage(112, 2, "e6k7 skip skip e3k5"),
            Stage(128, 1, "e6k5 skip e3k3 e3k5"),
            Stage(256, 2, "e6k7 e6k7 e6k7 e6k5"),
            Stage(432, 1, "e6k7"),
        ),
        head=(1728,),
        activation=nn.ReLU6,
        eps=1e-3,
    ),
    # Tan et al., CVPR 2019, figure 7.
    "mnasnet_a1": Skeleton(
        stem=32,
        stages=(
            Stage(16, 1, "e1k3"),
            Stage(24, 2, "e6k3 e6k3"),
            Stage(40, 2, "e3k5 e3k5 e3k5", squeezed=True),
            Stage(80, 2, "e6k3 e6k3 e6k3 e6k3"),
            Stage(112, 1, "e6k3 e6k3", squeezed=True),
            Stage(160, 2, "e6k5 e6k5 e6k5", squeezed=True),
            Stage(320, 1, "e6k3"),
        ),
        head=(1280,),
    ),
    # Wu et al., CVPR 2019, Table 1 and figure 4, as timm and pytorchcv have it: 385 M multiply-adds, 5.57 M parameters.
    # The paper prints 375 M and 5.5 M, the authors' repository (mobile-vision) 378.2 M and 5.5 M: there expansion 1 has
    # no 1×1 convolution.
    "fbnet_c": Skeleton(
        stem=16,
        stages=(
            Stage(16, 1, "e1k3"),
            Stage(24, 2, "e6k3 e1k3 e1k3 skip"),
            Stage(32, 2, "e6k5 e3k5 e6k5 e6k3"),
            Stage(64, 2, "e6k5 e3k5 e6k5 e6k5"),
            Stage(112, 1, "e6k5 e6k5 e6k5 e3k5"),
            Stage(184, 2, "e6k5 e6k5 e6k5 e6k5"),
            Stage(352, 1, "e6k3"),
        ),
        head=(1984,),
        always_expands=True,
    ),
    # Howard et al., ICCV 2019, Tables 1 and 2. The large one's 217 M and 5.48 M are 219 M and 5.4 M there, and 217 M,
    # 5.4 M in the authors' repository; the small one's 56.5 M are 56 M.
    "mobilenet_v3_large": Skeleton(
        stem=16,
        stages=(
            Stage(16, 1, "e1k3", activation=nn.ReLU),
            Stage(24, 2, "e4k3 e3k3", activation=nn.ReLU),
            Stage(40, 2, "e3k5 e3k5 e3k5", squeezed=True, activation=nn.ReLU),
            Stage(80, 2, "e6k3 e2_5k3 e2_3k3 e2_3k3"),
            Stage(112, 1, "e6k3 e6k3", squeezed=True),
            Stage(160, 2, "e6k5 e6k5 e6k5", squeezed=True),
        ),
        head=(960, 1280),
        activation=nn.Hardswish,
        eps=1e-3,
        hard_squeeze=True,
    ),
    "mobilenet_v3_small": Skeleton(
        stem=16,
        stages=(
            Stage(16, 2, "e1k3", squeezed=True, activation=nn.ReLU),
            Stage(24, 2, "e4_5k3 e3_67k3", activation=nn.ReLU),
            Stage(40, 2, "e4k5 e6k5 e6k5", squeezed=True),
            Stage(48, 1, "e3k5 e3k5", squeezed=True),
            Stage(96, 2, "e6k5 e6k5 e6k5", squeezed=True),
        ),
        head=(576, 1024),
        activation=nn.Hardswish,
        eps=1e-3,
        hard_squeeze=True,
    ),
}


class Skip(nn.Module):
    """No branch: (N, C, H, W) → zeros of that shape, to which the block adds its input."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros like `x`."""
        return torch.zeros_like(x)


class Block(MutableModule):
    """An inverted residual block: its branch, the branch's enhancer, and the sum with the input where shapes allow it.

    (N, C_in, H, W) → (N, C_out, ⌈H/stride⌉, ⌈W/stride⌉). Source: Sandler et al., CVPR 2018 (the block); Dong et al.,
    ICASSP 2023, Table 4 (the enhancer on the block's output).
    """

    def __init__(self, branch: nn.Module, enhancer: nn.Module, is_residual: bool) -> None:
        super().__init__()
        self.branch, self.enhancer, self.is_residual = branch, enhancer, is_residual

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output for `x` (N, C_in, H, W)."""
        features: Tensor = self.enhancer(self.branch(x))
        return x + features if self.is_residual else features

    def freeze(self, sample: dict[str, Any]) -> nn.Module:
        """See NNI's `MutableModule`."""
        return super().freeze(sample).settled()

    def settled(self) -> nn.Module:
        """The block, or the identity where its architecture skips it: then no enhancer stays behind, either."""
        return nn.Identity() if isinstance(self.branch, Skip) else self


class Mobile(MeanOfFeatures, EnhancedSpace, FittedSpace, ModelSpace):
    """Mobile networks whose every block chooses its expansion, its kernel, whether it is there, and its enhancer.

    One `LayerChoice` a block but the first, labelled `block02.conv`, …: `e1k3` to `e6k7` (expansion 1, 3 or 6, kernel
    3, 5 or 7), what the published network has there if that is none of these, and `skip` where shape is kept; with
    several enhancers another, `block01.enhancer`, …. The published network of a skeleton has the skeleton's name.
    (N, 3, S, S) → (N, num_classes), S = `image_size`. Source: Cai et al., ICLR 2019 (the choices); see `SKELETONS`.
    """

    presets: ClassVar = {"quick": {"width": 0.25}}

    @checked
    def __init__(
        self,
        # Channels, strides, activations, squeeze-and-excitation and the most blocks: a key of `SKELETONS`.
        skeleton: str = "mobilenet_v2",
        # Multiplier of all channels, rounded to multiples of 8; those in front of the classifier never shrink.
        width: Width = 1.0,
        # On the block's output, in front of the sum: `none`, `full`, `ablation`, or names (see `candidate_names`).
        enhancers: Candidates = "none",
        num_classes: Count = 1000,  # outputs of the classifier
        # Side of the input in pixels; 224 keeps the original strides. A block that loses its stride adds its input
        # wherever the channels are equal, and can be skipped.
        image_size: int = 224,
        reduction: Count = 32,  # of spatial separable pooling
        dropout: Share = 0.2,  # before the last layer of the classifier
        strides: Rule = "fit",  # `fit` drops those that a small image cannot bear, `original` keeps all (`fit_strides`)
    ) -> None:
        """Build the space. Raises OptionError: a value is unknown or out of range."""
        super().__init__()
        if skeleton not in SKELETONS:
            raise OptionError(unknown("skeleton", skeleton, SKELETONS))
        self.skeleton, shape = skeleton, SKELETONS[skeleton]
        self.choose_among(enhancers, {"global": reduction})
        blocks = [(stage, name, i) for stage in shape.stages for i, name in enumerate(stage.blocks.split())]
        self.strides = fit_strides(image_size, (2, *(1 if i else stage.stride for stage, _, i in blocks)), strides)
        stem, *block_strides = self.strides.chosen
        channels = make_divisible(shape.stem * width)
        layers = OrderedDict[str, nn.Module](stem=convolution(shape, 3, channels, 3, stem))
        self._published: dict[str, str] = {}  # label → candidate of the published network
        for (stage, published, _), stride in zip(blocks, block_strides, strict=True):
            inputs, channels = channels, make_divisible(stage.channels * width)
            make = partial(branch, shape, stage, inputs, channels, stride)
            keeps_shape = stride == 1 and inputs == channels
            name = f"block{len(layers):02d}"
            if len(layers) == 1:
                chosen = make(published)
            else:
                names = dict.fromkeys([*GRID, published, *([SKIP] if keeps_shape else [])])
                chosen = LayerChoice({n: make(n) for n in names}, label=f"{name}.conv")
                self._published[f"{name}.conv"] = published
            enhancer = nn.Identity() if self.candidate_names == ("none",) else self.choice(channels)
            layers[name] = Block(chosen, enhancer, keeps_shape).settled()
        *inner, final = shape.head
        sizes = [*(make_divisible(n * width) for n in inner), make_divisible(final * max(width, 1.0))]
        layers["head"] = convolution(shape, channels, sizes[0], 1)
        self.features = nn.Sequential(layers)
        further = [module for pair in pairwise(sizes) for module in (nn.Linear(*pair), shape.activation())]
        self.classifier = nn.Sequential(*further, nn.Dropout(dropout), nn.Linear(sizes[-1], num_classes))

    @classmethod
    def named_options(cls, architecture: str) -> dict[str, Any]:
        """The options that a named architecture brings along: the published networks differ in their skeletons."""
        return {"skeleton": architecture} if architecture in SKELETONS else {}

    @classmethod
    def words(cls, options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the enhancers, if there are any."""
        told = super().words({"candidates": options["enhancers"]})["candidates"]
        return {"enhancers": "" if told == "none" else f"enhancers {told}"}

    def architectures(self) -> dict[str, dict[str, str]]:
        """The published network, and with several enhancers the same with `local` (avg3) and `global` everywhere."""
        enhanced = super().architectures().items()
        return {self.skeleton if name == "none" else name: self._published | own for name, own in enhanced}


def convolution(shape: Skeleton, *sizes: int, **options: Any) -> nn.Sequential:
    """Convolution, batch normalisation and activation; inputs, outputs, kernel and stride as torchvision has them."""
    norm = partial(nn.BatchNorm2d, eps=shape.eps)
    return Conv2dNormActivation(*sizes, norm_layer=norm, **{"activation_layer": shape.activation, **options})


def branch(shape: Skeleton, stage: Stage, inputs: int, outputs: int, stride: int, name: str) -> nn.Module:
    """A candidate (N, inputs, H, W) → (N, outputs, ⌈H/stride⌉, ⌈W/stride⌉), by its name."""
    if name == SKIP:
        return Skip()
    expansion, kernel = name[1:].replace("_", ".").split("k")
    hidden, activation = make_divisible(inputs * float(expansion)), stage.activation or shape.activation
    layers: list[nn.Module] = []
    if hidden != inputs or shape.always_expands:
        layers.append(convolution(shape, inputs, hidden, 1, activation_layer=activation))
    layers.append(convolution(shape, hidden, hidden, int(kernel), stride, groups=hidden, activation_layer=activation))
    if stage.squeezed:
        quarter = make_divisible(hidden / 4) if shape.hard_squeeze else inputs // 4
        gate = nn.Hardsigmoid if shape.hard_squeeze else nn.Sigmoid
        layers.append(SqueezeExcitation(hidden, quarter, scale_activation=gate))
    return Recomputed(*layers, convolution(shape, hidden, outputs, 1, activation_layer=None))
