"""The means of rows and of columns that spatial separable pooling looks at: x is read once for both."""

from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from nasbench.errors import NasbenchError, OptionError
from nasbench.kernels.operator import ENVIRONMENT, layout, takes_reference


def reference_strips(x: Tensor) -> Tensor:
    """Compute `strip_means` in plain torch; arguments as there."""
    return torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)], 2)


def strip_means(x: Tensor) -> Tensor:
    """Average x (N, C, H, W) over the width and over the height, joined along space: (N, C, H + W, 1), rows first.

    The result has x's type, and is channels_last if x is. Derivatives are exact and of first order; nothing is kept for
    them. On the CPU in float32, bfloat16 (added up in float32) and float64 a fused kernel computes it, elsewhere plain
    torch. Raises OptionError: x has no pixels or not four dimensions. Raises NasbenchError: for a second derivative.

    Source: Meta-Pooling, section 2.1 (spatial separable pooling); coordinate attention, eq. 4–6.
    """
    if x.dim() != 4 or 0 in x.shape[2:]:
        raise OptionError(f"means of rows and columns need images (N, C, H, W) with pixels, not {tuple(x.shape)}")
    if x.device.type != "cpu" or takes_reference(x):
        return reference_strips(x)
    return _strips(x)


@custom_op("nasbench::strip_means", mutates_args=(), device_types="cpu")
def _strips(x: Tensor) -> Tensor:
    from nasbench.kernels import cpu_strips

    return cpu_strips.forward(x).contiguous(memory_format=layout(x))


@custom_op("nasbench::strip_means_backward", mutates_args=(), device_types="cpu")
def _strips_backward(g: Tensor, height: int, channels_last: bool) -> Tensor:
    from nasbench.kernels import cpu_strips

    return cpu_strips.backward(g, height).contiguous(memory_format=_format(channels_last))


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


@_strips.register_fake
def _(x: Tensor) -> Tensor:
    images, channels, height, width = x.shape
    return x.new_empty(images, channels, height + width, 1).contiguous(memory_format=layout(x))


@_strips_backward.register_fake
def _(g: Tensor, height: int, channels_last: bool) -> Tensor:
    images, channels, lines, _ = g.shape
    return g.new_empty(images, channels, height, lines - height).contiguous(memory_format=_format(channels_last))


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.height, ctx.channels_last = inputs[0].shape[2], layout(inputs[0]) == torch.channels_last


def _differentiate(ctx: Any, g: Tensor) -> Tensor:
    return _strips_backward(g, ctx.height, ctx.channels_last)


def _refuse(ctx: Any, *gradients: Tensor | None) -> None:
    raise NasbenchError(f"the fused means have no second derivatives: set {ENVIRONMENT}=reference in the environment")


_strips.register_autograd(_differentiate, setup_context=_keep)
_strips_backward.register_autograd(_refuse)
