"""The pooling baselines of Table 1, for down-sampling by 2 and, at stride 1, as fixed enhancers.

At stride 2 every operator maps (N, C, H, W) to (N, C, ⌈H/2⌉, ⌈W/2⌉), like the stride-2 convolution (3×3, padding 1)
which it replaces after that convolution's stride has become 1. The windows are the 2×2 cells; where H or W is odd, the
last cells are cut off at the border and their statistics are those of the pixels that exist. At stride 1 every operator
keeps the shape and looks at the 3×3 window around each pixel. Three coincide with candidates of Meta-Pooling (`skip`
with `none`, `max` with `max3`, `average` with `avg3`): a search should not offer both. Any other stride, or no
channels, is an OptionError.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers.blur_pool import BlurPool2d
from torch import Tensor, nn

from nasbench.errors import OptionError
from nasbench.options import Count, checked
from nasbench.spaces.operations.liftdown import LiftDownPool, high_precision


@checked
def _window_size(channels: Count, stride: int) -> int:
    """Return the side of the windows that belong to a stride: 2 for cells, 3 around a pixel."""
    if stride not in (1, 2):
        raise OptionError(f"a pooling operator has stride 2 (down-sampling) or 1 (enhancer), not {stride!r}")
    return 2 if stride == 2 else 3


def _extend(x: Tensor, stride: int) -> Tensor:
    """Repeat border pixels until the windows of a stride fit, at stride 2 one row or column where the size is odd.

    Each pixel of a cut-off cell then counts equally often: all statistics are those of the pixels that exist.
    """
    if stride == 1:
        return F.pad(x, (1, 1, 1, 1), mode="replicate")
    height, width = x.shape[-2:]
    return F.pad(x, (0, width % 2, 0, height % 2), mode="replicate") if height % 2 or width % 2 else x


def _windows(x: Tensor, stride: int) -> Tensor:
    """Return the pixels of every window: (N, C, H, W) → (k², N, C, H', W') with k = 2 at stride 2, else 3."""
    x = _extend(x, stride)
    size = 2 if stride == 2 else 3
    rows, columns = x.shape[-2] - size + 1, x.shape[-1] - size + 1
    return torch.stack(
        [x[..., i : i + rows : stride, j : j + columns : stride] for i in range(size) for j in range(size)]
    )


class SkipPool(nn.Module):
    """Strided sub-sampling: y(i, j) = x(2i, 2j); at stride 1 the identity."""

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        _window_size(channels, stride)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Keep every stride-th row and column of x."""
        return x[..., :: self.stride, :: self.stride]


class MaxPool(nn.MaxPool2d):
    """Max pooling: y = maximum of x over the window, pixels beyond the border counting as −∞."""

    def __init__(self, channels: int, stride: int = 2) -> None:
        size = _window_size(channels, stride)
        super().__init__(size, stride, padding=size // 2 if stride == 1 else 0, ceil_mode=True)


class AveragePool(nn.AvgPool2d):
    """Average pooling: y = mean of x over the window.

    A 2×2 cell cut off at the border is averaged over the pixels it has; at stride 1 pixels beyond the border are zeros.
    """

    def __init__(self, channels: int, stride: int = 2) -> None:
        size = _window_size(channels, stride)
        super().__init__(size, stride, padding=size // 2 if stride == 1 else 0, ceil_mode=True)


class BlurPool(BlurPool2d):
    """BlurPool (Zhang, "Making convolutional networks shift-invariant again", ICML 2019): timm's.

    y = x filtered per channel by the fixed [1 2 1] ⊗ [1 2 1] / 16, borders reflected (H, W ≥ 2), sampled at (2i, 2j);
    at stride 1 the blur alone. No parameters.
    """

    def __init__(self, channels: int, stride: int = 2) -> None:
        _window_size(channels, stride)
        super().__init__(channels, filt_size=3, stride=stride)


class DetailPreservingPool(nn.Module):
    """Detail-preserving pooling, DPP (Saeedan, Weber, Goesele and Roth, CVPR 2018, section 3).

    Over each window Ω of pixels I, with the reference Ĩ = mean of Ω: e = (I − Ĩ)² + 10⁻³ (asymmetric, for what is
    brighter: max(0, I − Ĩ) is squared); ê = e / mean of e over Ω; w = ê^exp(λ_c) + exp(α_c); y = Σ wI / Σ w. λ and α
    are learned per channel and start at 0. In the "full" form Ĩ comes from a learned 3×3 filter per channel with the
    operator's stride, which starts as the mean of Ω. Parameters: 2C, full 11C.

    α → ∞ is average pooling; large exp(λ) in the asymmetric form tends to the maximum. The weights are formed as a
    softmax of log w, so that no power overflows. (The authors' program raises ê to exp(λ)/2, which is λ shifted by ln
    2.)
    """

    def __init__(self, channels: int, stride: int = 2, asymmetric: bool = False, full: bool = False) -> None:
        super().__init__()
        size = _window_size(channels, stride)
        self.stride = stride
        self.asymmetric = asymmetric
        self.log_exponent = nn.Parameter(torch.zeros(channels))
        self.log_bias = nn.Parameter(torch.zeros(channels))
        self.reference: nn.Parameter | None = None
        if full:
            weight = torch.zeros(channels, 1, 3, 3)
            weight[..., -size:, -size:] = 1 / size**2
            self.reference = nn.Parameter(weight)

    def no_weight_decay(self) -> set[str]:
        """Return the names of λ and α, which the paper excludes from weight decay (timm's convention)."""
        return {"log_exponent", "log_bias"}

    def forward(self, x: Tensor) -> Tensor:
        """Average each window of x, weighting its details."""
        pixels = _windows(high_precision(x), self.stride)
        if self.reference is None:
            reference = pixels.mean(0)
        else:
            around = F.pad(x, (1, 1, 1, 1), mode="replicate")
            reference = F.conv2d(around, self.reference, stride=self.stride, groups=x.shape[1])
        difference = pixels - reference
        if self.asymmetric:
            difference = difference.relu()
        detail = difference.square() + 1e-3
        log_detail = detail.log() - detail.mean(0).log()
        per_channel = (1, -1, 1, 1)
        exponent, bias = self.log_exponent.exp().view(per_channel), self.log_bias.view(per_channel)
        weights = torch.logaddexp(exponent * log_detail, bias).softmax(0)
        return (weights * pixels).sum(0).to(x.dtype)


class GatedPool(nn.Module):
    """Gated max-average pooling (Lee, Gallagher and Tu, AISTATS 2016, section 3).

    Over each window x: y = σ(ω·x) · max x + (1 − σ(ω·x)) · mean x, with a learned ω of the window's shape, shared by
    the channels of the layer or one per channel. ω starts at 0, half-way between max and average. Borders are repeated,
    so that the output always lies between a window's mean and its maximum.
    """

    def __init__(self, channels: int, stride: int = 2, per_channel: bool = False) -> None:
        super().__init__()
        size = _window_size(channels, stride)
        self.stride = stride
        self.weight = nn.Parameter(torch.zeros(channels if per_channel else 1, size, size))

    def forward(self, x: Tensor) -> Tensor:
        """Mix each window's maximum and mean."""
        pixels = _windows(x, self.stride)
        weight = self.weight.flatten(1).t()[:, None, :, None, None]
        gate = (weight * pixels).sum(0).sigmoid()
        average = pixels.mean(0)
        return (average + gate * (pixels.amax(0) - average)).to(x.dtype)


class GaussianPool(nn.Module):
    """Gaussian-based pooling, iSP form (Kobayashi, NeurIPS 2019, "inverse softplus-Gaussian").

    Over each window y = μ_X + softplus(μ_0 + σ_0 ε) · σ_X, with μ_X and σ_X the window's mean and standard deviation
    (variance not below 10⁻⁶) and ε ~ N(0, 1) for each output element while training, 0 in evaluation. From the global
    average of x come h = relu(BN(W x)) of m = max(1, C // 2) channels, μ_0 = BN(W_μ h) and σ_0 = sigmoid(BN(W_σ h)),
    one of each per image and channel. Borders are repeated, so that constant images have no deviation there. In
    training torch refuses a batch of one image, of which the BatchNorms would see one value. Parameters: 3Cm + 2m + 4C.
    """

    def __init__(self, channels: int, stride: int = 2) -> None:
        super().__init__()
        _window_size(channels, stride)
        self.stride = stride
        hidden = max(1, channels // 2)
        self.context = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
        )
        self.mean = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.deviation = nn.Sequential(
            nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Raise each window's mean by a (while training random) share of its deviation."""
        pixels = _windows(high_precision(x), self.stride)
        average = pixels.mean(0)
        spread = (pixels - average).square().mean(0).clamp(min=1e-6).sqrt()
        context = self.context(x)
        mean = self.mean(context)
        if self.training:
            mean = mean + self.deviation(context) * torch.randn_like(average)
        return (average + F.softplus(mean) * spread).to(x.dtype)


DOWNSAMPLING: dict[str, Callable[..., nn.Module]] = {
    "skip": SkipPool,
    "max": MaxPool,
    "average": AveragePool,
    "blur": BlurPool,
    "dpp": DetailPreservingPool,
    "gated": GatedPool,
    "gaussian": GaussianPool,
    "liftdown": LiftDownPool,
}
"""Down-sampling by 2: factories of the channel count."""

ENHANCERS: dict[str, Callable[[int], nn.Module]] = {
    name: partial(pooling, stride=1) for name, pooling in DOWNSAMPLING.items()
}
"""The same operators as shape-preserving enhancers; `liftdown` has no such form and raises OptionError."""
