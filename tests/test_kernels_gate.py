"""The spatial gate: the fused kernel against plain torch."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nasbench.errors import NasbenchError, OptionError
from nasbench.kernels import reference_gate, spatial_gate

Inputs = tuple[Tensor, ...]


def inputs(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """x, both gates, the weight and the base."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    shapes = [shape, (n, c, h, 1), (n, c, 1, w), (), shape]
    x, rows, columns, weight, base = (torch.randn(size, generator=generator).to(dtype) for size in shapes)
    return x, rows, columns, weight.to(torch.promote_types(dtype, torch.float32)), base


def nhwc(tensors: Inputs) -> Inputs:
    return tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in tensors)


def run(gate: Callable[..., Tensor], tensors: Inputs) -> Inputs:
    tensors = tuple(t.detach().requires_grad_() for t in tensors)
    y = gate(*tensors)
    # Different in every pixel, so that a gradient in the wrong place shows.
    g = torch.linspace(-1, 1, y.numel()).reshape(y.shape).to(y.dtype)
    return y.detach(), *torch.autograd.grad(y, tensors, g)


@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 19), st.integers(1, 9), st.integers(1, 9)),
    has_base=st.booleans(),
    is_nhwc=st.booleans(),
)
def test_fused_equals_reference(
    shape: tuple[int, ...], has_base: bool, is_nhwc: bool, dtype: torch.dtype, tolerance: float
) -> None:
    tensors = inputs(shape, dtype=dtype)[: 5 if has_base else 4]
    ours = run(spatial_gate, nhwc(tensors) if is_nhwc else tensors)
    theirs = run(reference_gate, tuple(t.double() for t in tensors))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=10 * tolerance)


def test_torch_accepts_the_operator() -> None:
    for tensors in (inputs((2, 9, 4, 3)), nhwc(inputs((2, 9, 4, 3)))):
        leaves = tuple(t.requires_grad_() for t in tensors)
        torch.library.opcheck(torch.ops.nasbench.spatial_gate, leaves)
        torch.library.opcheck(torch.ops.nasbench.spatial_gate, (*leaves[:4], None))


def test_bfloat16_is_added_up_in_float32() -> None:
    tensors = inputs((2, 9, 8, 8), dtype=torch.bfloat16)
    ours = run(spatial_gate, tensors)
    theirs = run(reference_gate, tuple(t.double() for t in tensors))
    assert [t.dtype for t in ours] == [torch.bfloat16] * 4 + [torch.float32, torch.bfloat16]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2**-7, atol=2e-2)


def test_only_what_is_asked_for_comes_back() -> None:
    x, rows, columns, weight, base = inputs((2, 8, 3, 3))
    y = spatial_gate(x, rows, columns, weight, base.requires_grad_())
    (dbase,) = torch.autograd.grad(y.sum(), base)
    assert torch.equal(dbase, torch.ones_like(base))


def test_any_number_of_threads_gives_the_same_numbers() -> None:
    tensors = nhwc(inputs((9, 24, 5, 5)))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(spatial_gate, tensors)
        torch.set_num_threads(3)
        together = run(spatial_gate, tensors)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(alone, together)


def test_falls_back_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = tuple(t.requires_grad_() for t in inputs((1, 8, 3, 3)))
    assert "spatial_gate" in spatial_gate(*tensors).grad_fn.name()
    mixed = (tensors[0].bfloat16(), *tensors[1:])
    assert "spatial_gate" not in spatial_gate(*mixed).grad_fn.name()
    monkeypatch.setenv("NASBENCH_KERNELS", "reference")
    assert "spatial_gate" not in spatial_gate(*tensors).grad_fn.name()


def test_second_derivatives_are_refused() -> None:
    tensors = tuple(t.requires_grad_() for t in inputs((1, 8, 3, 3)))
    (dx,) = torch.autograd.grad(spatial_gate(*tensors).square().sum(), tensors[0], create_graph=True)
    with pytest.raises(NasbenchError, match="second derivatives"):
        dx.sum().backward()


def test_wrong_shapes_are_named() -> None:
    x, rows, columns, weight, base = inputs((2, 8, 3, 4))
    with pytest.raises(OptionError, match="rows"):
        spatial_gate(x, columns, columns, weight)
    with pytest.raises(OptionError, match="columns"):
        spatial_gate(x, rows, rows, weight)
    with pytest.raises(OptionError, match="adds to"):
        spatial_gate(x, rows, columns, weight, base[:1])
    with pytest.raises(OptionError, match="one number"):
        spatial_gate(x, rows, columns, weight.expand(2))


def test_code_just_compiled_and_out_of_the_cache_compute_alike(tmp_path: Path) -> None:
    """Or the first run on a machine would search another network than the second."""
    program = (
        "import torch; from nasbench.kernels import POOLING_NAMES, pooling_mixture, spatial_gate\n"
        "torch.manual_seed(0); x = torch.randn(4, 24, 9, 9).contiguous(memory_format=torch.channels_last)\n"
        "pi = torch.rand(7, requires_grad=True); rows = torch.rand(4, 24, 9, 1); columns = torch.rand(4, 24, 1, 9)\n"
        "y = spatial_gate(x.requires_grad_(), rows, columns, pi[0], pooling_mixture(x, pi, POOLING_NAMES))\n"
        "print([t.sum().item().hex() for t in (y, y.square(), *torch.autograd.grad(y.square().sum(), (x, pi)))])"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert first == second
