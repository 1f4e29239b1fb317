"""The mixed layer of the differentiable strategies."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedLayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nasbench.kernels import pooling_mixture, spatial_gate
from nasbench.spaces.operations.choices import OnFirst
from nasbench.spaces.operations.fused import GatedEnhancer, PoolingTerm, Recomputed, is_identity
from nasbench.strategies.restored import preserved


class MixedLayer(DifferentiableMixedLayer):
    """Weighted sum of a layer's candidates, Σ_k π_k β_k(x) with π = softmax(α), until one of them is fixed.

    Those that are excluded before are not computed either. The candidates that declare themselves as pooling terms are
    computed by one fused operator, and those that declare themselves as gates of rows and columns are added by another
    (see `nasbench.spaces.operations.fused`); of all others the forward pass is called, of some again in the backward
    pass. Source: Liu et al., DARTS, ICLR 2019, eq. 2; Dong et al., ICASSP 2023, eq. 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build the layer; see NNI for the arguments."""
        super().__init__(*args, **kwargs)
        self.fixed: Any = None  # the only candidate that is still computed
        self.excluded: set[Any] = set()  # candidates that have left, whose π must be 0
        self._pooling = {name: term for name in self.names if (term := pooling_name(self[name])) is not None}
        self._start: Tensor | None = None  # weights of the mixture to begin with, if not π
        self._initial: Tensor | None = None  # α then
        # Beside candidates that need several tensors, which come as a tuple, the others work on the first.
        self._several = any(isinstance(module, OnFirst) for module in self)

    def start_as_identity(self) -> None:
        """Let the mixture begin as the identity, so that a pretrained network is not blurred by candidates.

        The weights of the mixture are then π plus what they had to be at first minus π at first: their sum is 1, and
        their derivatives by α are those of π. What is the identity at first has equal shares. A layer without such a
        candidate stays as it is.
        """
        identical = torch.tensor([is_identity(_operation(self[name])) for name in self.names])
        if identical.any():
            self._start = identical.to(self._arch_alpha) / identical.sum()
            self._initial = self._arch_alpha.detach().clone()

    def weights(self) -> Tensor:
        """(K,) the weights of the mixture: π, or what `start_as_identity` makes of it."""
        pi: Tensor = self._softmax(self._arch_alpha)
        if self._start is None or self._initial is None:
            return pi
        here = torch.tensor([name not in self.excluded for name in self.names], device=pi.device)
        start, initial = self._start.to(pi) * here, self._initial.to(pi).masked_fill(~here, -torch.inf).softmax(0)
        return pi if not start.any() else start / start.sum() + pi - initial

    @staticmethod
    def shares(alpha: Tensor) -> Tensor:
        """(K,) what is shown as the probabilities of candidates, in float32: π = softmax(α)."""
        return alpha.detach().float().softmax(0)

    def export_probs(self, memo: dict[str, Any]) -> dict[str, dict[Any, float]]:
        """See NNI's `BaseSuperNetModule`."""
        known = {} if self.label in memo else dict(zip(self.names, self.shares(self._arch_alpha).tolist(), strict=True))
        return {self.label: known} if known else {}

    def is_live(self, candidate: str) -> bool:
        """Whether a candidate, by its name as a module, is still computed."""
        return candidate not in map(str, self.excluded) and (self.fixed is None or candidate == str(self.fixed))

    def cost(self, candidate: Any) -> tuple[int, int]:
        """What orders candidates from cheap to dear: parameters, then the side of the window (0 without pooling)."""
        window = self._pooling.get(candidate, "none").lstrip("avgmx")
        return sum(p.numel() for p in self[candidate].parameters()), 0 if window == "none" else int(window)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The mixture of the candidates that are left, or the fixed one alone."""
        if self.fixed is not None:
            return self[self.fixed](*args, **kwargs)
        pi = self.weights()
        live = {name: i for i, name in enumerate(self.names) if name not in self.excluded}
        # The operator knows each term once; a second candidate of the same kind is left to itself.
        pools = {self._pooling[name]: i for name, i in reversed(live.items()) if name in self._pooling}
        x = args[0][0] if self._several and args else args[0] if args else None
        if len(pools) < 2 or kwargs or len(args) != 1 or not isinstance(x, Tensor) or x.dim() != 4:
            return self._reduction([_output(self[name], *args, **kwargs) for name in live], pi[list(live.values())])
        pooled = list(pools.values())
        result = pooling_mixture(x, pi[pooled], tuple(pools))
        for name, i in live.items():
            if i in pooled:
                continue
            operation = _operation(self[name])
            if isinstance(operation, GatedEnhancer):
                rows, columns = operation.gates(x)
                result = spatial_gate(x, rows, columns, pi[i], result)
            else:
                result = torch.addcmul(result, pi[i].to(result.dtype), self[name](args[0]).to(result.dtype))
        return result


def layers_of(network: nn.Module, label: str) -> list[MixedLayer]:
    """The mixed layers of a supernet that have a label."""
    return [module for module in network.modules() if isinstance(module, MixedLayer) and module.label == label]


def live_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of a supernet that are still computed with."""
    yield from module.parameters(recurse=False)
    for name, child in module.named_children():
        if not isinstance(module, MixedLayer) or module.is_live(name):
            yield from live_parameters(child)


def pooling_name(module: nn.Module) -> str | None:
    """What the fused operator calls a `PoolingTerm`, or torch's module of exactly the same operation, if it is one."""
    module = _operation(module)
    if isinstance(module, PoolingTerm):
        return module.name
    if type(module) is nn.Identity:
        return "none"
    kernel = getattr(module, "kernel_size", None)
    if kernel not in (3, 5, 7) or module.stride != 1 or module.padding != kernel // 2 or module.ceil_mode:
        return None
    if type(module) is nn.AvgPool2d and module.count_include_pad and module.divisor_override is None:
        return f"avg{kernel}"
    if type(module) is nn.MaxPool2d and module.dilation == 1 and not module.return_indices:
        return f"max{kernel}"
    return None


def _output(candidate: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(candidate, Recomputed):
        return candidate(*args, **kwargs)
    # The second time shall not move the batch statistics again.
    both: Any = {"context_fn": lambda: (nullcontext(), preserved(candidate.buffers())), "preserve_rng_state": False}
    return checkpoint(candidate, *args, use_reentrant=False, **both, **kwargs)


def _operation(candidate: nn.Module) -> nn.Module:
    return candidate.operation if isinstance(candidate, OnFirst) else candidate
