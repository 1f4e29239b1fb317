"""The mixed layer of the differentiable strategies."""

from __future__ import annotations

from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.differentiable import DifferentiableMixedLayer
from torch import Tensor, nn

from nasbench.kernels import pooling_mixture, spatial_gate
from nasbench.spaces.operations.choices import OnFirst
from nasbench.spaces.operations.fused import GatedEnhancer, PoolingTerm


class MixedLayer(DifferentiableMixedLayer):
    """Weighted sum of a layer's candidates, Σ_k π_k β_k(x) with π = softmax(α), until one of them is fixed.

    The candidates that declare themselves as pooling terms are computed by one fused operator, and those that declare
    themselves as gates of rows and columns are added by another (see `nasbench.spaces.operations.fused`); of all others
    the forward pass is called.

    Source: Liu et al., DARTS, ICLR 2019, eq. 2; Dong et al., ICASSP 2023, eq. 1.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build the layer; see NNI for the arguments."""
        super().__init__(*args, **kwargs)
        self.fixed: Any = None  # the only candidate that is still computed
        pools = {i: name for i, module in enumerate(self) if (name := pooling_name(module)) is not None}
        # The operator knows each candidate once; a second one of the same kind is left to itself.
        self._pools = {name: i for i, name in reversed(pools.items())} if len(pools) > 1 else {}
        # Beside candidates that need several tensors, which come as a tuple, the others work on the first.
        self._several = any(isinstance(module, OnFirst) for module in self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The mixture, or the fixed candidate alone."""
        if self.fixed is not None:
            return self[self.fixed](*args, **kwargs)
        if not self._pools or kwargs or len(args) != 1:
            return super().forward(*args, **kwargs)
        x = args[0][0] if self._several else args[0]
        if not isinstance(x, Tensor) or x.dim() != 4:
            return super().forward(*args, **kwargs)
        pi = self._softmax(self._arch_alpha)
        pooled = list(self._pools.values())
        result = pooling_mixture(x, pi[pooled], tuple(self._pools))
        for i, name in enumerate(self.names):
            if i in pooled:
                continue
            operation = _operation(self[name])
            if isinstance(operation, GatedEnhancer):
                rows, columns = operation.gates(x)
                result = spatial_gate(x, rows, columns, pi[i], result)
            else:
                result = torch.addcmul(result, pi[i].to(result.dtype), self[name](args[0]).to(result.dtype))
        return result


def pooling_name(module: nn.Module) -> str | None:
    """What the fused operator calls a module.

    Args:
        module: a candidate.

    Returns:
        `none`, `avg3` … `max7`: the name of a `PoolingTerm`, or of torch's module that is exactly the same operation;
        `None` for any other module.
    """
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


def _operation(candidate: nn.Module) -> nn.Module:
    return candidate.operation if isinstance(candidate, OnFirst) else candidate
