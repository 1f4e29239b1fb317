"""Attention modules of Tables 2 and 4: SE, CBAM, SK and CoordAttention, each (N, C, H, W) → (N, C, H, W).

All four are timm's (`timm.layers`), sub-classed only to fix the widths with which the networks of the Meta-Pooling
paper have their printed parameter counts (the tests build these): timm's own defaults round the hidden width to
multiples of eight or scale it. A number of channels, reduction or stride below 1 is an OptionError.
"""

from collections.abc import Callable

from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.selective_kernel import SelectiveKernel
from timm.layers.squeeze_excite import SqueezeExcite
from torch import nn

from nasbench.options import Count, checked


class SE(SqueezeExcite):
    """Squeeze-and-excitation (Hu, Shen and Sun, CVPR 2018, equations 2–4), timm's `SqueezeExcite`.

    z = mean of x over height and width; y = x · sigmoid(W2 · relu(W1 · z + b1) + b2), with W1 of shape m×C, W2 of shape
    C×m and m = max(1, C // reduction), which timm would round to a multiple of 8. Parameters: 2Cm + m + C.
    """

    @checked
    def __init__(self, channels: Count, reduction: Count = 24) -> None:
        super().__init__(channels, rd_channels=max(1, channels // reduction))


class CBAM(CbamModule):
    """Convolutional block attention module (Woo et al., ECCV 2018, equations 1–3), timm's `CbamModule`.

    Channel: x' = x · sigmoid(M(mean of x over space) + M(maximum of x over space)), with one shared M(z) = W2 · relu(W1
    · z + b1) + b2 of hidden width m = max(1, C // reduction). Spatial: y = x' · sigmoid(BN(conv7×7([mean of x' over
    channels, maximum of x' over channels]))), the convolution without bias. timm leaves out M's biases unless asked;
    the printed counts need them. Parameters: 2Cm + m + C + 2·49 + 2.
    """

    @checked
    def __init__(self, channels: Count, reduction: Count = 24) -> None:
        super().__init__(channels, rd_channels=max(1, channels // reduction), mlp_bias=True)


class SK(SelectiveKernel):
    """Selective kernel convolution (Li et al., CVPR 2019, equations 1–6), timm's `SelectiveKernel`.

    u_k = relu6(BN(depthwise 3×3 of dilation k on x)), k = 1, 2; z = relu(BN(W · mean over space of (u_1 + u_2))) with W
    of shape m×C, m = max(8, C // reduction); a = softmax over k of (A_k · z); y = a_1 · u_1 + a_2 · u_2, per channel.
    No convolution has a bias. Both branches see all channels (timm would give each its half) and end in ReLU6 like what
    this stands in for, the depthwise convolution–BN–ReLU6 of MobileNetV2. Parameters: 2(9C + 2C) + Cm + 2m + 2Cm. With
    stride 2 (N, C, ⌈H/2⌉, ⌈W/2⌉). In training torch refuses a batch of one image, of which the BatchNorm on z would see
    one value.
    """

    @checked
    def __init__(self, channels: Count, reduction: Count = 8, stride: Count = 1) -> None:
        hidden = max(8, channels // reduction)
        super().__init__(
            channels,
            kernel_size=[3, 5],
            stride=stride,
            groups=channels,
            rd_channels=hidden,
            keep_3x3=True,
            split_input=False,
            act_layer=nn.ReLU6,
        )


class CoordAttention(CoordAttn):
    """Coordinate attention (Hou, Zhou and Feng, CVPR 2021, equations 4–9), timm's `CoordAttn`.

    z_h = mean of x over width, z_w = mean of x over height; f = hswish(BN(F · [z_h, z_w] + b)), joined along space,
    split again into f_h and f_w; y = x · sigmoid(A_h · f_h + b_h) · sigmoid(A_w · f_w + b_w), with m = max(8, C //
    reduction) hidden channels. All three 1×1 convolutions have a bias, as in the authors' release; timm leaves them out
    by default, and rounds. Parameters: 3Cm + 3m + 2C. The paper's 3.95 M needs reduction 32 on the expanded features.
    It is the `global` candidate of Meta-Pooling plus the m biases of its first convolution.
    """

    @checked
    def __init__(self, channels: Count, reduction: Count = 32) -> None:
        super().__init__(channels, rd_channels=max(8, channels // reduction), bias=True)


ATTENTION: dict[str, Callable[[int], nn.Module]] = {"se": SE, "cbam": CBAM, "sk": SK, "coord": CoordAttention}
"""Candidates on the expanded features (Table 2): factories of the channel count, shape-preserving."""
