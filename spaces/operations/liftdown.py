"""LiftDownPool: down-sampling by a learned lifting scheme, and the loss that it adds to training."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasbench.errors import OptionError
from nasbench.options import Count, NonNegative, checked
from nasbench.spaces.operations.auxiliary import AuxiliaryLoss

_TAPS = 5


def high_precision(x: Tensor) -> Tensor:
    """Return x in float32 or better: differences and squares in bfloat16 keep two digits."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _filter(channels: int, axis: int) -> nn.Sequential:
    """P or U: depthwise convolution along one axis – ReLU – depthwise 1×1 – tanh, the borders replicated.

    The last starts at zero, so that P = U = 0: the lazy wavelet, whose sub-bands are the pixels of a 2×2 cell.
    """
    kernel = (_TAPS, 1) if axis == 2 else (1, _TAPS)
    padding = (_TAPS // 2, 0) if axis == 2 else (0, _TAPS // 2)
    along = nn.Conv2d(channels, channels, kernel, padding=padding, groups=channels, padding_mode="replicate")
    last = nn.Conv2d(channels, channels, 1, groups=channels)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)
    return nn.Sequential(along, nn.ReLU(), last, nn.Tanh())


class Lifting(nn.Module):
    """One lifting step along one axis of even length (Zhao and Snoek, ICLR 2021, LiftDownPool-1D).

    x_e and x_o are the even and odd samples; d = x_o − P(x_e), the detail; s = x_e + U(d), the approximation. Because U
    sees only d, the step can be undone whatever P and U are: x_e = s − U(d), x_o = d + P(x_e).

    Shape: (N, C, H, W) → two of (N, C, H/2, W) for axis 2 (rows), two of (N, C, H, W/2) for axis 3 (columns).
    """

    def __init__(self, channels: int, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.predict = _filter(channels, axis)
        self.update = _filter(channels, axis)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the even and the odd samples of x along the axis."""
        if self.axis == 2:
            return x[:, :, 0::2], x[:, :, 1::2]
        return x[..., 0::2], x[..., 1::2]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the approximation s and the detail d of x."""
        even, odd = self.split(x)
        detail = odd - self.predict(even)
        return even + self.update(detail), detail

    def penalties(self, x: Tensor, approximation: Tensor, detail: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means over elements of (s − (x_e + x_o)/2)² and of d²."""
        even, odd = self.split(high_precision(x))
        update = (high_precision(approximation) - (even + odd) / 2).square().mean()
        return update, high_precision(detail).square().mean()


class LiftDownPool(AuxiliaryLoss):
    """LiftDownPool-2D (Zhao and Snoek, "LiftPool: bidirectional ConvNet pooling", ICLR 2021).

    A lifting step along the width gives s and d; one along the height of each gives LL, LH (from s) and HL, HH (from
    d); y = LL + LH + HL + HH. The three steps have weights of their own, since s and d have nothing in common. Training
    adds λ_u · mean (s − (x_e + x_o)/2)² + λ_p · mean d² (`update_weight` and `predict_weight`), summed over the three
    steps.

    (N, C, H, W) → (N, C, ⌈H/2⌉, ⌈W/2⌉). An odd height or width is first extended by the reflection of its last but one
    row or column (a single one is repeated). Parameters: 48C. Raises OptionError: the stride is not 2, since the
    operator merges four sub-sampled bands, a weight is negative or `channels` is below 1.
    """

    @checked
    def __init__(
        self, channels: Count, stride: int = 2, update_weight: NonNegative = 0.01, predict_weight: NonNegative = 0.1
    ) -> None:
        super().__init__()
        if stride != 2:
            raise OptionError(
                f"LiftDownPool splits its input into four sub-sampled bands and has no stride {stride}: "
                "use it for down-sampling, not as an enhancer"
            )
        self.update_weight = update_weight
        self.predict_weight = predict_weight
        self.horizontal = Lifting(channels, axis=3)
        self.vertical_low = Lifting(channels, axis=2)
        self.vertical_high = Lifting(channels, axis=2)

    def forward(self, x: Tensor) -> Tensor:
        """Down-sample x and, while training, keep the auxiliary loss of this batch."""
        dtype = x.dtype
        for axis, padding in ((2, (0, 0, 0, 1)), (3, (0, 1, 0, 0))):
            if x.shape[axis] % 2:
                x = F.pad(x, padding, mode="reflect" if x.shape[axis] > 1 else "replicate")
        low, high = self.horizontal(x)
        low_low, low_high = self.vertical_low(low)
        high_low, high_high = self.vertical_high(high)
        self.auxiliary_loss = None
        if self.training:
            steps = (
                self.horizontal.penalties(x, low, high),
                self.vertical_low.penalties(low, low_low, low_high),
                self.vertical_high.penalties(high, high_low, high_high),
            )
            self.auxiliary_loss = torch.stack(
                [self.update_weight * update + self.predict_weight * predict for update, predict in steps]
            ).sum()
        return (low_low + low_high + high_low + high_high).to(dtype)
