"""The pooling mixture as a torch operator: dispatch, autograd, shapes without data."""

import os
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op

from nasbench.errors import NasbenchError, OptionError
from nasbench.kernels.reference import check, mix

ENVIRONMENT = "NASBENCH_KERNELS"

# By device type: the module that compiles the kernels, and the types that they take.
_KERNELS: dict[str, tuple[str, tuple[torch.dtype, ...]]] = {
    "cpu": ("numba", (torch.float32, torch.bfloat16, torch.float64)),
    "cuda": ("triton", (torch.float32, torch.bfloat16, torch.float16)),
}

_warned: set[str] = set()


def pooling_mixture(x: Tensor, pi: Tensor, names: Sequence[str]) -> Tensor:
    """Mix K different pooling candidates of `POOLING_NAMES` in one pass: Σ_k pi_k · candidate_k(x).

    Shapes: x (N, C, H, W), pi (K,); the result has x's shape and type, and is channels_last if x is, which is fast:
    other layouts are copied. Stride 1 and padding k // 2 keep the shape. Averages are padded with zeros that count,
    maxima with -inf. All is added up in float32, or in float64 if x is. Of equal maxima the first in row-major order
    takes the gradient, as in torch; where a window holds a NaN, averages are NaN, but a maximum may overlook it.
    Derivatives are exact and of first order. The kernels take float32, bfloat16 and float64 on the CPU, float32,
    bfloat16 and float16 on CUDA; elsewhere (with one warning), and with `NASBENCH_KERNELS=reference`, plain torch
    stands in, which has derivatives of any order.

    Raises OptionError: the arguments do not go together, or `NASBENCH_KERNELS` is unknown. Raises NasbenchError: for a
    second derivative. Source: Meta-Pooling, section 2.1 (the parameterised spatial enhancer's local candidates).
    """
    codes = check(x, pi, names)
    if takes_reference(x):
        return mix(x, pi, codes)
    return _mixture(x, pi, codes)


def takes_reference(x: Tensor) -> bool:
    """Decide by environment, device and type whether the reference computes the mixture; say why, once."""
    chosen = os.environ.get(ENVIRONMENT, "auto")
    if chosen == "reference":
        return True
    if chosen != "auto":
        raise OptionError(f"{ENVIRONMENT} must be 'auto' or 'reference', not {chosen!r}")
    module, dtypes = _KERNELS.get(x.device.type, ("", ()))
    if not module:
        reason = f"on {x.device.type}"
    elif x.dtype not in dtypes:
        reason = f"for {x.dtype} on {x.device.type}"
    elif find_spec(module) is None:
        reason = f"without {module}"
    else:
        return False
    if reason not in _warned:
        _warned.add(reason)
        warnings.warn(f"no fused pooling mixture {reason}: the slow reference stands in", stacklevel=3)
    return True


def layout(x: Tensor) -> torch.memory_format:
    """The memory format in which a result for x is given."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def _kernels(x: Tensor) -> Any:
    """The kernels of a device, which are imported where they are used: each needs a compiler of its own."""
    return import_module(f"nasbench.kernels.{x.device.type}")


@custom_op("nasbench::pooling_mixture", mutates_args=(), device_types=tuple(_KERNELS))
def _mixture(x: Tensor, pi: Tensor, codes: Sequence[int]) -> Tensor:
    return _kernels(x).forward(x, pi, codes).contiguous(memory_format=layout(x))


@custom_op("nasbench::pooling_mixture_backward", mutates_args=(), device_types=tuple(_KERNELS))
def _mixture_backward(g: Tensor, x: Tensor, pi: Tensor, codes: Sequence[int]) -> tuple[Tensor, Tensor]:
    dx, dpi = _kernels(x).backward(g, x, pi, codes)
    return dx.contiguous(memory_format=layout(x)), dpi.to(pi.dtype)


@_mixture.register_fake
def _(x: Tensor, pi: Tensor, codes: Sequence[int]) -> Tensor:
    return torch.empty_like(x, memory_format=layout(x))


@_mixture_backward.register_fake
def _(g: Tensor, x: Tensor, pi: Tensor, codes: Sequence[int]) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x, memory_format=layout(x)), torch.empty_like(pi)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, list[int]], output: Tensor) -> None:
    x, pi, ctx.codes = inputs
    ctx.save_for_backward(x, pi)


def _differentiate(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, pi = ctx.saved_tensors
    needs_x, needs_pi, _ = ctx.needs_input_grad
    # Both in one pass: leaving out the sums for pi measured 1 to 4 % of it, and they need all that dx needs.
    dx, dpi = _mixture_backward(g, x, pi, ctx.codes)
    return dx if needs_x else None, dpi if needs_pi else None, None


def _refuse(ctx: Any, *gradients: Tensor | None) -> None:
    raise NasbenchError(
        f"the fused pooling mixture has no second derivatives: set {ENVIRONMENT}=reference in the environment"
    )


_mixture.register_autograd(_differentiate, setup_context=_keep)
_mixture_backward.register_autograd(_refuse)
