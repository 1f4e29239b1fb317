"""The candidates of one Meta-Pooling layer: local pooling, global spatial separable pooling, or nothing.

Source: Dong et al., "Progressive Meta-Pooling Learning for Lightweight Image Classification Model", ICASSP 2023,
section 2.1. Every candidate maps (N, C, H, W) to the same shape.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, cast

import torch
from pydantic import AfterValidator
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.errors import OptionError, unknown
from nasbench.kernels import POOLING_NAMES, strip_means
from nasbench.spaces.operations.attention import ATTENTION
from nasbench.spaces.operations.fused import GatedEnhancer, PoolingTerm
from nasbench.spaces.operations.pooling import ENHANCERS as POOLING


class SpatialSeparablePooling(GatedEnhancer):
    """Spatial separable pooling (SSP), the global enhancer: (N, C, H, W) → (N, C, H, W).

    With z_h the mean over the width and z_w the mean over the height, both are concatenated along space, squeezed to m
    = max(8, C // reduction) channels by a shared 1×1 convolution (no bias), batch-normalised, passed through h-swish,
    split again and expanded by one 1×1 convolution (with bias) each; their sigmoids gate the rows and the columns: y =
    x · a_h · a_w. Source: Dong et al. 2023, section 2.1; the form is coordinate attention's (Hou et al., CVPR 2021, eq.
    4–8).
    """

    def __init__(self, channels: int, reduction: int = 32) -> None:
        """Build the layer of C = `channels`; the width squeezed by `reduction` is never under 8."""
        super().__init__()
        squeezed = max(8, channels // reduction)
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=False)
        self.norm = nn.BatchNorm2d(squeezed)
        self.activation = nn.Hardswish()
        self.rows = nn.Conv2d(squeezed, channels, 1)
        self.columns = nn.Conv2d(squeezed, channels, 1)
        self.gain: Tensor | None
        self.register_buffer("gain", None)

    def start_as_identity(self) -> None:
        """See `GatedEnhancer`: both sigmoids begin at ½, and twice that is the gate from now on (buffer `gain`)."""
        for expand in (self.rows, self.columns):
            nn.init.zeros_(expand.weight)
            nn.init.zeros_(cast(Tensor, expand.bias))
        self.gain = torch.tensor(2.0)
        self.began_as_identity = True

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates a_h (N, C, H, 1) and a_w (N, C, 1, W) of `x` (N, C, H, W), each in 0–1 (0–2 with a `gain`)."""
        height, width = x.shape[2:]
        if self.norm.training:
            means = strip_means(x)
        else:  # every exporter knows these, and ONNX Runtime is faster at them than at means
            means = torch.cat([F.avg_pool2d(x, (1, width)), F.avg_pool2d(x, (height, 1)).transpose(2, 3)], 2)
        rows, columns = self.activation(self.norm(self.squeeze(means))).split([height, width], 2)
        rows, columns = self.rows(rows).sigmoid(), self.columns(columns.transpose(2, 3)).sigmoid()
        return (rows, columns) if self.gain is None else (rows * self.gain, columns * self.gain)


def _pooling(name: str) -> Callable[[int], nn.Module]:
    return lambda channels: PoolingTerm(name)


META_POOLING: dict[str, Callable[[int], nn.Module]] = {
    **{name: _pooling(name) for name in POOLING_NAMES},
    "global": SpatialSeparablePooling,
}
CANDIDATE_SETS = {"full": tuple(META_POOLING), "ablation": ("none", "avg3", "global")}
ENHANCERS: dict[str, Callable[[int], nn.Module]] = {**META_POOLING, **ATTENTION, **POOLING}


def candidate_names(candidates: str | Iterable[str], extra: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The names of a set, `full` (section 2.1 of the paper) or `ablation` (its Table 3), or of a list, or with commas.

    A set has candidates of the space's own, `extra`, after `none`. Raises OptionError: an unknown or repeated name.
    """
    if isinstance(candidates, str) and candidates in CANDIDATE_SETS:
        none, *others = CANDIDATE_SETS[candidates]
        return (none, *extra, *others)
    names = [n.strip() for n in candidates.split(",")] if isinstance(candidates, str) else list(candidates)
    for name in names:
        if name not in ENHANCERS and name not in extra:
            raise OptionError(unknown("candidate", name, [*CANDIDATE_SETS, *extra, *ENHANCERS]))
    if not names or len(set(names)) != len(names):
        raise OptionError(f"candidates must be one or more different names, not {', '.join(names) or 'none at all'}")
    return tuple(names)


Candidates = Annotated[str | list[str], AfterValidator(candidate_names)]


def enhancer(name: str, channels: int, reduction: int | None = None) -> nn.Module:
    """Build a candidate, a key of `ENHANCERS`; the reduction of one that squeezes channels is its own by default."""
    factory: Callable[..., nn.Module] = ENHANCERS[name]
    return factory(channels) if reduction is None else factory(channels, reduction=reduction)
