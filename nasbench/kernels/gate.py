"""The gate of spatial separable pooling, folded into a sum: one pass instead of four."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from nasbench.errors import NasbenchError, OptionError
from nasbench.kernels.operator import ENVIRONMENT, layout, takes_reference


def reference_gate(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor, base: Tensor | None = None) -> Tensor:
    """Compute `spatial_gate` in plain torch; arguments as there."""
    y = weight.to(x.dtype) * (x * rows * columns)
    return y if base is None else base + y


def spatial_gate(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor, base: Tensor | None = None) -> Tensor:
    """Gate each pixel by its row and its column: weight · x · a_h · a_w + base, in one pass.

    Shapes: x and base (N, C, H, W), rows a_h (N, C, H, 1), columns a_w (N, C, 1, W), all of one type, weight one
    number. The result has x's shape and type, and is channels_last if x is. Derivatives are exact and of first order;
    only x and the gates are kept for them. On the CPU in float32, bfloat16 (both added up in float32) and float64 a
    fused kernel computes it, elsewhere plain torch. Raises OptionError: shapes do not go together. Raises
    NasbenchError: for a second derivative.

    Source: Meta-Pooling, section 2.1 (the global candidate, spatial separable pooling).
    """
    images, channels, height, width = x.shape
    wanted = {"rows": (images, channels, height, 1), "columns": (images, channels, 1, width)}
    for name, gate in (("rows", rows), ("columns", columns)):
        if tuple(gate.shape) != wanted[name]:
            raise OptionError(f"a spatial gate's {name} must have shape {wanted[name]}, not {tuple(gate.shape)}")
    if base is not None and base.shape != x.shape:
        raise OptionError(f"a spatial gate adds to a tensor of shape {tuple(x.shape)}, not {tuple(base.shape)}")
    if weight.numel() != 1:
        raise OptionError(f"a spatial gate's weight must be one number, not {tuple(weight.shape)}")
    same = all(tensor.dtype == x.dtype for tensor in (rows, columns, x if base is None else base))
    if not same or x.device.type != "cpu" or takes_reference(x):
        return reference_gate(x, rows, columns, weight, base)
    return _gate(x, rows, columns, weight, base)


@custom_op("nasbench::spatial_gate", mutates_args=(), device_types="cpu")
def _gate(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor, base: Tensor | None) -> Tensor:
    from nasbench.kernels import cpu_gate

    return cpu_gate.forward(x, rows, columns, weight, base).contiguous(memory_format=layout(x))


@custom_op("nasbench::spatial_gate_backward", mutates_args=(), device_types="cpu")
def _gate_backward(
    g: Tensor, x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from nasbench.kernels import cpu_gate

    dx, drows, dcolumns, dweight = cpu_gate.backward(g, x, rows, columns, weight)
    return dx.contiguous(memory_format=layout(x)), drows, dcolumns, dweight.to(weight.dtype)


@_gate.register_fake
def _(x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor, base: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=layout(x))


@_gate_backward.register_fake
def _(g: Tensor, x: Tensor, rows: Tensor, columns: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    gates = [torch.empty_like(gate, memory_format=torch.channels_last) for gate in (rows, columns)]
    return torch.empty_like(x, memory_format=layout(x)), gates[0], gates[1], torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    x, rows, columns, weight, _ = inputs
    ctx.save_for_backward(x, rows, columns, weight)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    gradients: tuple[Tensor | None, ...] = (None,) * 4
    if any(ctx.needs_input_grad[:4]):
        gradients = _gate_backward(g, *ctx.saved_tensors)
    gradients = (*gradients, g)
    return tuple(value if needed else None for value, needed in zip(gradients, ctx.needs_input_grad, strict=True))


def _refuse(ctx: Any, *gradients: Tensor | None) -> None:
    raise NasbenchError(f"the fused gate has no second derivatives: set {ENVIRONMENT}=reference in the environment")


_gate.register_autograd(_differentiate, setup_context=_keep)
_gate_backward.register_autograd(_refuse)
