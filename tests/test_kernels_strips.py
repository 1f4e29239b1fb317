"""The means of rows and columns: the fused kernel against plain torch."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nasbench.errors import NasbenchError, OptionError
from nasbench.kernels import reference_strips, strip_means


def both(x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Means and gradients of x, ours and the definition's in float64."""

    def run(x: Tensor, function: object) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        y = function(x)  # type: ignore[operator]
        # Different in every place, so that a gradient in the wrong one shows.
        g = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
        return y.detach(), torch.autograd.grad(y, x, g)[0]

    return run(x, strip_means), run(x.double(), reference_strips)


@settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14), (torch.bfloat16, 2**-7)]
)
@given(
    shape=st.tuples(st.integers(0, 9), st.integers(1, 19), st.integers(1, 9), st.integers(1, 9)),
    is_nhwc=st.booleans(),
)
def test_fused_equals_reference(shape: tuple[int, ...], is_nhwc: bool, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last) if is_nhwc else x
    for ours, theirs in zip(*both(x), strict=True):
        assert ours.dtype == dtype
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance)


def test_rows_come_first() -> None:
    """One bright pixel lights its row and its column, each divided by how long it is."""
    x = torch.zeros(1, 8, 3, 5)
    x[0, 2, 1, 4] = 15
    strips = strip_means(x)[0, :, :, 0]
    assert strips[2].tolist() == [0, 3, 0, *(0, 0, 0, 0, 5)]
    assert strips.sum() == strips[2].sum()


def test_torch_accepts_the_operator() -> None:
    for x in (torch.randn(2, 9, 4, 3), torch.randn(2, 9, 4, 3).contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.nasbench.strip_means, (x.requires_grad_(),))


def test_any_number_of_threads_gives_the_same_bits() -> None:
    x = torch.randn(2, 40, 5, 7).contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = both(x)[0]
        torch.set_num_threads(3)
        together = both(x)[0]
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, alone, together))


def test_falls_back_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 8, 3, 3, requires_grad=True)
    assert "strip_means" in strip_means(x).grad_fn.name()
    assert "strip_means" not in strip_means(x.half()).grad_fn.name()
    monkeypatch.setenv("NASBENCH_KERNELS", "reference")
    assert "strip_means" not in strip_means(x).grad_fn.name()


def test_second_derivatives_are_refused() -> None:
    x = torch.randn(1, 8, 3, 3, requires_grad=True)
    (dx,) = torch.autograd.grad(strip_means(x).square().sum(), x, create_graph=True)
    with pytest.raises(NasbenchError, match="second derivatives"):
        dx.sum().backward()


def test_images_without_pixels_are_refused() -> None:
    with pytest.raises(OptionError, match="with pixels"):
        strip_means(torch.zeros(1, 8, 0, 3))
    with pytest.raises(OptionError, match="N, C, H, W"):
        strip_means(torch.zeros(8, 3, 3))
