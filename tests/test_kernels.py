"""The pooling mixture: every implementation against plain torch, ties included."""

import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d, relu6

from nasbench.errors import NasbenchError, OptionError
from nasbench.kernels import POOLING_NAMES, operator, pooling_mixture, reference_mixture

ROOT = Path(__file__).resolve().parent.parent

Gradients = tuple[Tensor, Tensor, Tensor]


def run(mixture, x: Tensor, pi: Tensor, names: tuple[str, ...], g: Tensor) -> Gradients:
    """The mixture with the gradients of x and pi."""
    x, pi = x.detach().requires_grad_(), pi.detach().requires_grad_()
    y = mixture(x, pi, names)
    return y.detach(), *torch.autograd.grad(y, (x, pi), g)


def python(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Tensor, Tensor, tuple[str, ...], Tensor]:
    """Shapes down to 1x1 and to an empty batch, any candidates in any order, three layouts, values full of ties."""
    shape = [draw(st.integers(low, high)) for low, high in ((0, 3), (1, 19), (1, 12), (1, 12))]
    names = tuple(draw(st.permutations(POOLING_NAMES))[: draw(st.integers(1, 7))])
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(("integers", "relu6", "constant")))
    if kind == "integers":
        x = torch.randint(-2, 3, shape, generator=generator).float()
    elif kind == "relu6":
        x = relu6(torch.randn(shape, generator=generator) * 6)
    else:
        x = torch.full(shape, -1.5)
    layout = draw(st.sampled_from(("nhwc", "nchw", "strided")))
    if layout == "nhwc":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "strided":
        x = torch.stack((x, x + 1), dim=-1).flatten(3)[..., ::2]
    # Weights and gradients in sixteenths: products and sums of maxima are exact, in whatever order.
    pi = torch.randint(-16, 17, (len(names),), generator=generator) / 16
    g = torch.randint(-8, 9, shape, generator=generator).float()
    return x, pi, names, g


@settings(max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
@given(mixture=mixtures())
def test_fused_equals_reference(
    mixture: tuple[Tensor, Tensor, tuple[str, ...], Tensor], dtype: torch.dtype, tolerance: float
) -> None:
    x, pi, names, g = mixture
    x, pi, g = x.to(dtype), pi.to(dtype), g.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, dx, dpi = run(pooling_mixture, x, pi, names, g)
    expected = run(reference_mixture, x.double(), pi.double(), names, g.double())
    assert y.dtype == x.dtype
    assert y.is_contiguous(memory_format=torch.channels_last if _is_nhwc(x) else torch.contiguous_format)
    for ours, theirs in zip((y, dx, dpi), expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=10 * tolerance)


def _is_nhwc(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=30, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mixtures())
def test_ties_go_where_torch_sends_them(mixture: tuple[Tensor, Tensor, tuple[str, ...], Tensor]) -> None:
    x, pi, names, g = mixture
    names = tuple(name for name in names if not name.startswith("avg")) or ("max5",)
    pi = pi[: len(names)]
    _, dx, _ = run(pooling_mixture, x, pi, names, g)
    _, expected, _ = run(reference_mixture, x, pi, names, g)
    assert torch.equal(dx, expected)


def test_reference_is_what_it_says() -> None:
    x = torch.randn(2, 3, 6, 5)
    y = reference_mixture(x, torch.tensor([0.5, 2.0, 3.0]), ("max3", "none", "avg5"))
    expected = 0.5 * max_pool2d(x, 3, 1, 1) + 2 * x + 3 * avg_pool2d(x, 5, 1, 2, count_include_pad=True)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("implementation", [reference_mixture, pooling_mixture])
def test_gradients_are_right(implementation: Callable[..., Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    # Different values, far apart: finite differences cannot cross a tie.
    x = torch.randperm(2 * 3 * 5 * 4, generator=generator).double().reshape(2, 3, 5, 4).requires_grad_()
    pi = torch.rand(7, generator=generator, dtype=torch.double).requires_grad_()

    def mixture(x: Tensor, pi: Tensor) -> Tensor:
        return implementation(x, pi, POOLING_NAMES)

    assert torch.autograd.gradcheck(mixture, (x, pi))
    if implementation is reference_mixture:
        assert torch.autograd.gradgradcheck(mixture, (x, pi))


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = relu6(torch.randn(2, 12, 9, 7, generator=generator) * 4).to(dtype)
    pi = torch.rand(7, generator=generator)
    return x.contiguous(memory_format=torch.channels_last).requires_grad_(), pi.requires_grad_()


def test_torch_accepts_the_operator() -> None:
    x, pi = example()
    for layout in (x, x.detach().contiguous().requires_grad_()):
        for codes in (list(range(7)), [5, 0]):
            torch.library.opcheck(torch.ops.nasbench.pooling_mixture, (layout, pi[: len(codes)], codes))


def test_only_inputs_are_kept_and_only_what_is_needed_is_computed() -> None:
    x, pi = example()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = pooling_mixture(x, pi, POOLING_NAMES)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), pi.data_ptr()}
    (dx,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    (dpi,) = torch.autograd.grad(y.sum(), pi)
    both = torch.autograd.grad(pooling_mixture(x, pi, POOLING_NAMES).sum(), (x, pi))
    assert torch.equal(dx, both[0])
    assert torch.equal(dpi, both[1])


def test_compiles_without_graph_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch's own cache would bring back graphs of an earlier version of the operator.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    x, pi = example()
    compiled = torch.compile(lambda x, pi: pooling_mixture(2 * x, pi, POOLING_NAMES), fullgraph=True)
    y, dx, dpi = run(lambda x, pi, _: compiled(x, pi), x, pi, POOLING_NAMES, torch.ones_like(x))
    expected = run(pooling_mixture, 2 * x, pi, POOLING_NAMES, torch.ones_like(x))
    torch.testing.assert_close((y, dx / 2, dpi), expected)


def test_bfloat16_is_added_up_in_float32_under_autocast() -> None:
    x, pi = example(torch.bfloat16)
    g = torch.ones_like(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, dx, dpi = run(pooling_mixture, x, pi, POOLING_NAMES, g)
    assert (y.dtype, dx.dtype, dpi.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    expected = run(reference_mixture, x.double(), pi.double(), POOLING_NAMES, g.double())
    # Rounded once, at the end: half a unit in the last of eight places.
    torch.testing.assert_close(y.double(), expected[0], rtol=2**-8, atol=0)
    torch.testing.assert_close(dx.double(), expected[1], rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(dpi.double(), expected[2], rtol=1e-5, atol=0)
    assert pooling_mixture(torch.full((1, 1, 2, 2), float("nan")).bfloat16(), pi[:1], ("none",)).isnan().all()


@pytest.mark.parametrize("team", [True, False])
def test_any_number_of_threads_gives_the_same_bits(team: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasbench.kernels import threads

    if not team:
        monkeypatch.setattr(threads, "_team", lambda: None)
    x, pi = example()
    g = torch.ones_like(x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(pooling_mixture, x, pi, POOLING_NAMES, g)
        torch.set_num_threads(3)
        results: list[Gradients] = []
        callers = [
            threading.Thread(target=lambda: results.append(run(pooling_mixture, x, pi, POOLING_NAMES, g)))
            for _ in range(3)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    finally:
        torch.set_num_threads(before)
    assert len(results) == 3
    for result in results:
        assert all(torch.equal(a, b) for a, b in zip(alone, result, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_works_in_a_forked_process() -> None:
    code = """
import os, torch
from nasbench.kernels import POOLING_NAMES, pooling_mixture
torch.set_num_threads(2)
x, pi = torch.rand(4, 8, 6, 6), torch.rand(7)
expected = pooling_mixture(x, pi, POOLING_NAMES)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(expected, pooling_mixture(x, pi, POOLING_NAMES)) else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(code).split() == ["0"]


def test_the_environment_forces_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    x, pi = example()
    names = ("none", "max3")
    assert "pooling_mixture" in pooling_mixture(x, pi[:2], names).grad_fn.name()
    monkeypatch.setenv("NASBENCH_KERNELS", "reference")
    y = pooling_mixture(x, pi[:2], names)
    assert "pooling_mixture" not in y.grad_fn.name()
    assert torch.equal(y, reference_mixture(x, pi[:2], names))
    monkeypatch.setenv("NASBENCH_KERNELS", "fastest")
    with pytest.raises(OptionError, match="NASBENCH_KERNELS"):
        pooling_mixture(x, pi[:2], names)


def test_unsupported_types_warn_once_and_take_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operator, "_warned", set())
    x, pi = torch.rand(1, 2, 3, 3).half(), torch.rand(1).half()
    with pytest.warns(UserWarning, match="float16 on cpu"):
        y = pooling_mixture(x, pi, ("avg3",))
    assert torch.equal(y, reference_mixture(x, pi, ("avg3",)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pooling_mixture(x, pi, ("avg3",))


def test_second_derivatives_are_refused() -> None:
    x, pi = example()
    (dx,) = torch.autograd.grad(pooling_mixture(x, pi, POOLING_NAMES).square().sum(), x, create_graph=True)
    with pytest.raises(NasbenchError, match="second derivatives"):
        dx.sum().backward()


def test_wrong_arguments_are_named() -> None:
    x, pi = torch.rand(1, 2, 3, 3), torch.rand(2)
    wrong = [
        ((x, pi, ("none", "avg9")), "avg9"),
        ((x, pi, ("max3", "max3")), "different candidates"),
        ((x, pi[:0], ()), "at least one"),
        ((x[0], pi, ("none", "max3")), r"\(N, C, H, W\)"),
        ((x[:, :0], pi, ("none", "max3")), "may be empty"),
        ((x[:, :, :0], pi, ("none", "max3")), "may be empty"),
        ((x[..., :0], pi, ("none", "max3")), "may be empty"),
        ((x, pi, ("none",)), r"shape \(1,\)"),
        ((x.int(), pi, ("none", "max3")), "floating-point"),
        ((x, pi.to("meta"), ("none", "max3")), "meta"),
    ]
    for arguments, message in wrong:
        for mixture in (pooling_mixture, reference_mixture):
            with pytest.raises(OptionError, match=message):
                mixture(*arguments)


def test_importing_the_kernels_stays_cheap() -> None:
    python("import sys, nasbench.kernels\nassert not {'numba', 'triton'} & set(sys.modules)")


def test_kernels_compile_where_no_folder_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasbench.kernels import compilation

    assert compilation.cache_folder() is not None
    (tmp_path / "file").touch()
    monkeypatch.setattr("numba.config.CACHE_DIR", str(tmp_path / "file"))
    assert compilation.cache_folder() is None


def test_triton_kernels_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    code = """
import torch
from nasbench.kernels import cuda
from nasbench.kernels.reference import mix
cuda._MOST_ROWS = 4  # strips meet inside these small images
generator = torch.Generator().manual_seed(0)
for shape, codes, dtype in (
    ((1, 3, 5, 7), [0, 1, 2, 3, 4, 5, 6], torch.float32),
    ((1, 2, 2, 28), [6, 4, 1], torch.float32),
    ((1, 2, 1, 1), [0, 5], torch.bfloat16),
    ((1, 2, 2, 3), [3], torch.float16),
    ((0, 2, 2, 3), [0, 3], torch.float32),
):
    x = torch.randint(-2, 3, shape, generator=generator).float()
    g = torch.randint(-4, 5, shape, generator=generator).float()
    pi = torch.rand(len(codes), generator=generator)
    y = cuda.forward(x.to(dtype), pi, codes)
    dx, dpi = cuda.backward(g.to(dtype), x.to(dtype), pi, codes)
    xr, pr = x.clone().requires_grad_(), pi.clone().requires_grad_()
    yr = mix(xr, pr, codes)
    yr.backward(g)
    assert y.dtype == dx.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    for ours, theirs in ((y, yr), (dx, xr.grad), (dpi, pr.grad)):
        torch.testing.assert_close(ours.float(), theirs.detach(), rtol=tolerance, atol=10 * tolerance)
"""
    python(code, TRITON_INTERPRET="1")
