"""Candidates that say how a supernet may compute them: in one pass with others, or twice for less memory."""

from abc import abstractmethod
from typing import Any, final

from torch import Tensor, nn

from nasbench.errors import OptionError, unknown
from nasbench.kernels import spatial_gate
from nasbench.kernels.reference import POOLING_NAMES, pool


@final
class PoolingTerm(nn.Module):
    """Pooling at stride 1, or the identity, that `pooling_mixture` adds up: (N, C, H, W) → (N, C, H, W).

    Averages are padded with zeros that count, which keeps the operation linear and its own adjoint; maxima with −∞.
    """

    def __init__(self, name: str) -> None:
        """Build the operation called `name`. Raises OptionError: the mixture knows no such name."""
        super().__init__()
        if name not in POOLING_NAMES:
            raise OptionError(unknown("pooling candidate", name, POOLING_NAMES))
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x` (N, C, H, W)."""
        return pool(x, POOLING_NAMES.index(self.name))

    def extra_repr(self) -> str:
        """The name."""
        return self.name


class Recomputed(nn.Sequential):
    """Layers of whose candidates a supernet keeps the outputs alone, and computes the rest again to go back through it.

    For candidates that are many and much wider inside than their outputs: it takes one more forward pass.
    """


def is_identity(candidate: nn.Module) -> bool:
    """Whether a candidate is the identity, for good or to begin with."""
    if isinstance(candidate, PoolingTerm):
        return candidate.name == "none"
    return candidate.began_as_identity if isinstance(candidate, GatedEnhancer) else type(candidate) is nn.Identity


class GatedEnhancer(nn.Module):
    """Base of candidates that gate rows and columns of (N, C, H, W), y = x · a_h · a_w, and do nothing else.

    A supernet asks for the gates only and applies them within its sum, so a subclass defines `gates` and no `forward`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a `forward` of one's own. Raises TypeError: the class has one."""
        super().__init_subclass__(**kwargs)
        if cls.forward is not GatedEnhancer.forward:
            raise TypeError(f"{cls.__name__}: a GatedEnhancer is defined by gates(x) alone; derive from nn.Module")

    began_as_identity = False

    def start_as_identity(self) -> None:
        """Make the gates 1 everywhere, to be trained from there, so that a pretrained network stays what it is.

        A subclass that knows how sets `began_as_identity`; whatever else it sets is a buffer or parameter.
        """

    @abstractmethod
    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The gates a_h (N, C, H, 1) and a_w (N, C, 1, W) of `x` (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Gate every row and every column of `x` (N, C, H, W)."""
        rows, columns = self.gates(x)
        if not self.training:  # plain operations, which every exporter knows; in this order they are fastest
            return x * (rows * columns)
        return spatial_gate(x, rows, columns, x.new_ones(1))
