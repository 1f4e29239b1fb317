"""Pooling baselines: against loops over windows, and against what their papers prove."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasbench.errors import OptionError
from nasbench.spaces.operations.auxiliary import auxiliary_loss
from nasbench.spaces.operations.liftdown import LiftDownPool, Lifting
from nasbench.spaces.operations.pooling import (
    DOWNSAMPLING,
    ENHANCERS,
    AveragePool,
    BlurPool,
    DetailPreservingPool,
    GatedPool,
    GaussianPool,
    MaxPool,
    SkipPool,
)

SIZES = [(6, 4), (5, 7), (2, 2), (3, 2)]
CASES = [(name, stride) for stride in (1, 2) for name in DOWNSAMPLING if (name, stride) != ("liftdown", 1)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on shared cores: handing them to a second thread costs a hundred times the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def build(name: str, stride: int, channels: int) -> nn.Module:
    return (DOWNSAMPLING if stride == 2 else ENHANCERS)[name](channels)


def image(*shape: int, seed: int = 0) -> Tensor:
    """Random pixels of which no two are closer than the step of a numerical derivative."""
    generator = torch.Generator().manual_seed(seed)
    count = math.prod(shape)
    return ((torch.randperm(count, generator=generator).double() / count - 0.5) * 5).reshape(shape)


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    """Give every parameter and running statistic a random value, in float64."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                assert child.running_mean is not None
                assert child.running_var is not None
                child.running_mean.copy_(torch.randn(child.num_features, generator=generator) * 0.3)
                child.running_var.copy_(torch.rand(child.num_features, generator=generator) + 0.5)
    return module


def slow(x: Tensor, stride: int, pool: Callable[[int, int, list[float]], float]) -> Tensor:
    """Apply `pool(image, channel, pixels of the window)` to window after window.

    Cells at an odd border hold the pixels that exist; 3×3 windows repeat the border.
    """
    images, channels, height, width = x.shape
    y = x.new_zeros(images, channels, -(-height // stride), -(-width // stride))
    for n, c, i, j in positions(y):
        if stride == 2:
            rows, columns = range(2 * i, min(2 * i + 2, height)), range(2 * j, min(2 * j + 2, width))
            pixels = [float(x[n, c, p, q]) for p in rows for q in columns]
        else:
            pixels = [
                float(x[n, c, min(max(p, 0), height - 1), min(max(q, 0), width - 1)])
                for p in range(i - 1, i + 2)
                for q in range(j - 1, j + 2)
            ]
        y[n, c, i, j] = pool(n, c, pixels)
    return y


def positions(x: Tensor) -> Iterator[tuple[int, ...]]:
    return iter(tuple(index) for index in torch.cartesian_prod(*[torch.arange(s) for s in x.shape]).tolist())


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("size", SIZES)
def test_skip_max_and_average_against_loops(size: tuple[int, int]) -> None:
    x = image(2, 3, *size)
    torch.testing.assert_close(MaxPool(3)(x), slow(x, 2, lambda n, c, w: max(w)))
    torch.testing.assert_close(MaxPool(3, stride=1)(x), slow(x, 1, lambda n, c, w: max(w)))
    torch.testing.assert_close(AveragePool(3)(x), slow(x, 2, lambda n, c, w: mean(w)))
    torch.testing.assert_close(SkipPool(3)(x), slow(x, 2, lambda n, c, w: w[0]))
    assert torch.equal(SkipPool(3, stride=1)(x), x)
    # The enhancer's average counts zeros beyond the border: a window that repeats a border of zeros.
    inside = slow(F.pad(x, (1, 1, 1, 1)), 1, lambda n, c, w: mean(w))[..., 1:-1, 1:-1]
    torch.testing.assert_close(AveragePool(3, stride=1)(x), inside)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_blur_against_loops(size: tuple[int, int], stride: int) -> None:
    x = image(1, 2, *size)
    height, width = size
    y = BlurPool(2, stride).double()(x)
    taps = {-1: 1, 0: 2, 1: 1}

    def reflect(p: int, length: int) -> int:
        return -p if p < 0 else 2 * (length - 1) - p if p >= length else p

    for n, c, i, j in positions(y):
        expected = sum(
            a * b / 16 * float(x[n, c, reflect(stride * i + p, height), reflect(stride * j + q, width)])
            for p, a in taps.items()
            for q, b in taps.items()
        )
        assert y[n, c, i, j].item() == pytest.approx(expected, abs=1e-12)


def shift_error(pool: nn.Module) -> float:
    """How far pooling (up-sampled again) and a shift by one pixel are from commuting."""
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def dense(x: Tensor) -> Tensor:
        return F.interpolate(pool(x), scale_factor=2, mode="bilinear", align_corners=False)

    one = dense(x.roll((1, 1), (2, 3)))[..., 6:-6, 6:-6]
    other = dense(x).roll((1, 1), (2, 3))[..., 6:-6, 6:-6]
    return float((one - other).norm() / (other - other.mean()).norm())


def test_blur_commutes_with_shifts_better_than_max_or_skip() -> None:
    blurred, maximum, skipped = (shift_error(pool) for pool in (BlurPool(3), MaxPool(3), SkipPool(3)))
    assert blurred < 0.75 * maximum
    assert blurred < 0.5 * skipped


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_lite_dpp_against_loops(size: tuple[int, int], asymmetric: bool, stride: int) -> None:
    x = image(1, 2, *size)
    pool = DetailPreservingPool(2, stride, asymmetric=asymmetric)
    randomise(pool)
    exponents, biases = pool.log_exponent.exp().tolist(), pool.log_bias.exp().tolist()

    def dpp(n: int, c: int, window: list[float]) -> float:
        reference = mean(window)
        energies = [(max(0.0, v - reference) if asymmetric else v - reference) ** 2 + 1e-3 for v in window]
        weights = [(e / mean(energies)) ** exponents[c] + biases[c] for e in energies]
        return sum(w * v for w, v in zip(weights, window, strict=True)) / sum(weights)

    torch.testing.assert_close(pool(x), slow(x, stride, dpp))


def test_full_dpp_against_loops() -> None:
    x = image(1, 2, 6, 4)
    pool = DetailPreservingPool(2, asymmetric=False, full=True)
    randomise(pool)
    assert pool.reference is not None
    pool.requires_grad_(False)
    y = pool(x)
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
    for n, c, i, j in positions(y):
        reference = float((padded[n, c, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] * pool.reference[c, 0]).sum())
        window = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()
        energy = (window - reference) ** 2 + 1e-3
        weight = (energy / energy.mean()) ** pool.log_exponent[c].exp() + pool.log_bias[c].exp()
        assert y[n, c, i, j].item() == pytest.approx(float((weight * window).sum() / weight.sum()))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_full_dpp_starts_as_lite(size: tuple[int, int], stride: int) -> None:
    x = image(2, 3, *size)
    full, lite = DetailPreservingPool(3, stride, full=True), DetailPreservingPool(3, stride)
    torch.testing.assert_close(full.double()(x), lite.double()(x))


@pytest.mark.parametrize("alpha", [40.0, 1e4])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_dpp_at_infinite_alpha_is_average_pooling(asymmetric: bool, alpha: float) -> None:
    x = image(2, 3, 5, 6)
    pool = DetailPreservingPool(3, asymmetric=asymmetric).double()
    nn.init.constant_(pool.log_bias, alpha)
    torch.testing.assert_close(pool(x), AveragePool(3)(x), rtol=1e-9, atol=1e-9)


def test_dpp_tends_to_the_maximum_only_if_asymmetric() -> None:
    x = image(2, 3, 8, 8)
    asymmetric, symmetric = DetailPreservingPool(3, asymmetric=True), DetailPreservingPool(3)
    distances = []
    for log_exponent in (-2.0, 0.0, 2.0, 8.0):
        for pool in (asymmetric, symmetric):
            nn.init.constant_(pool.double().log_exponent, log_exponent)
        distances.append(float((asymmetric(x) - MaxPool(3)(x)).abs().mean().detach()))
    assert distances == sorted(distances, reverse=True)
    torch.testing.assert_close(asymmetric(x), MaxPool(3)(x))
    # The symmetric form goes to the pixel that stands out, dark or bright.
    dark = torch.tensor([[1.0, 1.1], [1.2, -5.0]]).double().expand(1, 3, 2, 2)
    torch.testing.assert_close(symmetric(dark), dark[..., 1:, 1:], rtol=0, atol=1e-6)


def test_dpp_names_the_parameters_without_weight_decay() -> None:
    pool = DetailPreservingPool(3, full=True)
    assert pool.no_weight_decay() == set(dict(pool.named_parameters())) - {"reference"}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_gated_against_loops(size: tuple[int, int], per_channel: bool, stride: int) -> None:
    x = image(2, 2, *size)
    pool = GatedPool(2, stride, per_channel=per_channel)
    randomise(pool)
    y = pool(x)
    if stride == 2:  # the filter sees a whole cell: repeat what an odd border lacks
        x = F.pad(x, (0, size[1] % 2, 0, size[0] % 2), mode="replicate")

    def gated(n: int, c: int, window: list[float]) -> float:
        response = sum(a * b for a, b in zip(pool.weight[c * per_channel].flatten().tolist(), window, strict=True))
        gate = 1 / (1 + math.exp(-response))
        return gate * max(window) + (1 - gate) * mean(window)

    torch.testing.assert_close(y, slow(x, stride, gated))


@given(
    seed=st.integers(0, 2**31),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    stride=st.sampled_from([1, 2]),
)
@settings(max_examples=40)
def test_gated_lies_between_average_and_maximum(seed: int, height: int, width: int, stride: int) -> None:
    x = image(1, 2, height, width, seed=seed)
    pool = randomise(GatedPool(2, stride), seed=seed)
    assert (pool(x) <= slow(x, stride, lambda n, c, w: max(w)) + 1e-12).all()
    assert (pool(x) >= slow(x, stride, lambda n, c, w: mean(w)) - 1e-12).all()


def test_gated_ends_are_maximum_and_average() -> None:
    x = image(2, 3, 6, 6).abs() + 1
    pool = GatedPool(3).double()
    torch.testing.assert_close(pool(x), (MaxPool(3)(x) + AveragePool(3)(x)) / 2)
    nn.init.constant_(pool.weight, 50.0)
    torch.testing.assert_close(pool(x), MaxPool(3)(x))
    nn.init.constant_(pool.weight, -50.0)
    torch.testing.assert_close(pool(x), AveragePool(3)(x))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_gaussian_against_loops(size: tuple[int, int], stride: int) -> None:
    x = image(2, 3, *size)
    pool = GaussianPool(3, stride)
    randomise(pool)
    pool.eval()

    def norm(values: Tensor, bn: nn.Module) -> Tensor:
        assert isinstance(bn, nn.BatchNorm2d)
        assert bn.running_mean is not None
        assert bn.running_var is not None
        return (values - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias

    hidden = norm(x.mean((2, 3)) @ pool.context[1].weight.flatten(1).t(), pool.context[2]).clamp(min=0)
    offset = norm(hidden @ pool.mean[0].weight.flatten(1).t(), pool.mean[1]).tolist()

    def gaussian(n: int, c: int, window: list[float]) -> float:
        variance = max(1e-6, mean([(v - mean(window)) ** 2 for v in window]))
        return mean(window) + math.log1p(math.exp(offset[n][c])) * math.sqrt(variance)

    torch.testing.assert_close(pool(x), slow(x, stride, gaussian))


def test_gaussian_at_vanishing_deviation_is_the_mean() -> None:
    x = image(4, 3, 6, 6)
    pool = GaussianPool(3).double()
    for head, bias in ((pool.mean, -60.0), (pool.deviation, -60.0)):
        nn.init.zeros_(head[1].weight)
        nn.init.constant_(head[1].bias, bias)
    torch.testing.assert_close(pool(x), AveragePool(3)(x))
    constant = torch.full((4, 3, 5, 5), 2.0).double()
    for stride in (1, 2):
        # No deviation in any window, borders included: the mean, but for the clamp of 1e-3 = sqrt(1e-6).
        difference = (GaussianPool(3, stride).double()(constant) - 2.0).detach()
        assert 0 < float(difference.max()) < 1e-2


def test_gaussian_draws_one_number_per_element_only_while_training() -> None:
    pool = GaussianPool(2).double()
    for head, bias in ((pool.mean, 1.0), (pool.deviation, 50.0)):  # mu_0 = 1, sigma_0 = 1
        nn.init.zeros_(head[1].weight)
        nn.init.constant_(head[1].bias, bias)
    x = torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]).double().repeat(2, 2, 40, 40)  # mean 0, deviation 1 in each cell
    torch.manual_seed(0)
    y = pool(x).flatten()
    assert y.unique().numel() == y.numel() == 2 * 2 * 1600
    noise = torch.log(torch.expm1(y)) - 1  # the inverse of softplus gives back ε
    assert noise.mean().item() == pytest.approx(0.0, abs=0.04)
    assert noise.std().item() == pytest.approx(1.0, abs=0.04)
    pool.eval()
    torch.testing.assert_close(pool(x), F.softplus(torch.ones_like(pool(x))))


def slow_filter(sequence: nn.Module, x: Tensor, axis: int) -> Tensor:
    """P or U, sample after sample along the axis."""
    assert isinstance(sequence, nn.Sequential)
    along, last = sequence[0], sequence[2]
    x = x.movedim(axis, -1)
    per_channel = (1, -1, 1)
    y = []
    for p in range(x.shape[-1]):
        value = along.bias.view(per_channel).clone()
        for tap in range(5):
            sample = x[..., min(max(p + tap - 2, 0), x.shape[-1] - 1)]
            value = value + along.weight.flatten(1)[:, tap].view(per_channel) * sample
        value = value.clamp(min=0) * last.weight.view(per_channel) + last.bias.view(per_channel)
        y.append(value.tanh())
    return torch.stack(y, -1).movedim(-1, axis)


def test_liftdown_against_loops() -> None:
    x = image(2, 3, 6, 8)
    pool = LiftDownPool(3)
    randomise(pool)

    def lift(step: Lifting, x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        even, odd = x.movedim(axis, 0)[0::2].movedim(0, axis), x.movedim(axis, 0)[1::2].movedim(0, axis)
        detail = odd - slow_filter(step.predict, even, axis)
        return even + slow_filter(step.update, detail, axis), detail

    low, high = lift(pool.horizontal, x, 3)
    bands = [*lift(pool.vertical_low, low, 2), *lift(pool.vertical_high, high, 2)]
    torch.testing.assert_close(pool(x), bands[0] + bands[1] + bands[2] + bands[3])


def inverse(step: Lifting, approximation: Tensor, detail: Tensor) -> Tensor:
    """Undo a lifting step: x_e = s − U(d), x_o = d + P(x_e)."""
    even = approximation - step.update(detail)
    odd = detail + step.predict(even)
    x = torch.stack([even, odd], dim=step.axis + 1)
    return x.flatten(step.axis, step.axis + 1)


@given(seed=st.integers(0, 1000), channels=st.integers(1, 4), height=st.integers(1, 4), width=st.integers(1, 4))
@settings(max_examples=20)
def test_liftdown_loses_nothing(seed: int, channels: int, height: int, width: int) -> None:
    x = image(2, channels, 2 * height, 2 * width, seed=seed)
    pool = LiftDownPool(channels)
    randomise(pool, seed)
    low, high = pool.horizontal(x)
    bands = (pool.vertical_low(low), pool.vertical_high(high))
    assert (low - x[..., 0::2]).abs().max() > 1e-3  # the filters do something
    restored = inverse(pool.horizontal, inverse(pool.vertical_low, *bands[0]), inverse(pool.vertical_high, *bands[1]))
    torch.testing.assert_close(restored, x)
    torch.testing.assert_close(pool(x), bands[0][0] + bands[0][1] + bands[1][0] + bands[1][1])


def test_liftdown_reflects_odd_sizes() -> None:
    pool = LiftDownPool(2)
    randomise(pool)
    x = image(1, 2, 5, 7)
    reflected = torch.cat([x, x[:, :, 3:4]], 2)
    reflected = torch.cat([reflected, reflected[..., 5:6]], 3)
    torch.testing.assert_close(pool(x), pool(reflected))
    assert pool(x[..., :1, :1]).shape == (1, 2, 1, 1)


def test_liftdown_starts_as_the_sum_of_the_cell() -> None:
    x = image(2, 3, 6, 6)
    torch.testing.assert_close(LiftDownPool(3).double()(x), 4 * AveragePool(3)(x))


def test_liftdown_auxiliary_loss() -> None:
    x = image(2, 3, 4, 6)
    pool = LiftDownPool(3, update_weight=0.3, predict_weight=0.7)
    randomise(pool)
    network = nn.Sequential(pool, nn.ReLU())
    network(x)
    low, high = pool.horizontal(x)
    expected = 0.0
    for step, source in ((pool.horizontal, x), (pool.vertical_low, low), (pool.vertical_high, high)):
        approximation, detail = step(source)
        even, odd = source.unflatten(step.axis, (-1, 2)).unbind(step.axis + 1)
        expected += 0.3 * ((approximation - (even + odd) / 2) ** 2).mean().item()
        expected += 0.7 * (detail**2).mean().item()
    loss = auxiliary_loss(network)
    assert loss is not None
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert all(p.grad is not None for name, p in pool.named_parameters())
    assert auxiliary_loss(network) is None, "handed out once"


def test_liftdown_auxiliary_loss_of_networks() -> None:
    x = image(2, 2, 8, 8).float()
    network = nn.Sequential(LiftDownPool(2), LiftDownPool(2))
    network(x)
    single = [pool.auxiliary_loss for pool in network if isinstance(pool, LiftDownPool)]
    copied = copy.deepcopy(network)  # torch refuses to copy a tensor with a graph
    assert auxiliary_loss(copied) is None
    total = auxiliary_loss(network)
    assert total is not None
    torch.testing.assert_close(total, sum(value for value in single if value is not None))
    network(x)
    network.eval()(x)
    assert auxiliary_loss(network) is None
    assert auxiliary_loss(nn.ReLU()) is None


def test_liftdown_default_weights() -> None:
    pool = LiftDownPool(1)
    assert (pool.update_weight, pool.predict_weight) == (0.01, 0.1)


@given(
    name=st.sampled_from(sorted(DOWNSAMPLING)),
    channels=st.integers(1, 7),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    training=st.booleans(),
)
@settings(max_examples=120)
def test_shapes(name: str, channels: int, height: int, width: int, training: bool) -> None:
    x = torch.randn(2, channels, height, width)
    strided = nn.Conv2d(channels, channels, 3, stride=2, padding=1)(x)
    y = DOWNSAMPLING[name](channels).train(training)(x)
    assert y.shape == strided.shape
    assert y.dtype == x.dtype
    assert y.isfinite().all()
    if name != "liftdown":
        assert ENHANCERS[name](channels).train(training)(x).shape == x.shape


@pytest.mark.parametrize(
    ("module", "count"),
    [
        (SkipPool(6), 0),
        (MaxPool(6), 0),
        (AveragePool(6), 0),
        (BlurPool(6), 0),
        (DetailPreservingPool(6), 2 * 6),
        (DetailPreservingPool(6, full=True), 11 * 6),
        (GatedPool(6), 4),
        (GatedPool(6, stride=1), 9),
        (GatedPool(6, per_channel=True), 4 * 6),
        (GaussianPool(6), 3 * 6 * 3 + 2 * 3 + 4 * 6),
        (LiftDownPool(6), 48 * 6),
    ],
)
def test_parameter_counts(module: nn.Module, count: int) -> None:
    assert sum(p.numel() for p in module.parameters()) == count


GRADIENTS: dict[str, nn.Module] = {
    **{f"{name}-{stride}": build(name, stride, 2) for name, stride in CASES},
    "dpp-asymmetric": DetailPreservingPool(2, asymmetric=True),
    "dpp-full": DetailPreservingPool(2, full=True),
    "gated-per-channel": GatedPool(2, per_channel=True),
}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("training", [False, True])
def test_gradients(name: str, training: bool) -> None:
    module = randomise(copy.deepcopy(GRADIENTS[name])).train(training)
    names = [n for n, _ in module.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in module.parameters()]

    def run(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)  # the same ε at every evaluation
        y = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))
        loss = auxiliary_loss(module)
        return (y,) if loss is None else (y, loss)

    x = image(2, 2, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters))


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_memory_format_makes_no_difference(name: str, stride: int) -> None:
    module = randomise(build(name, stride, 3)).float().eval()
    x = torch.randn(2, 3, 7, 6)
    torch.testing.assert_close(module(x.contiguous(memory_format=torch.channels_last)), module(x))


@pytest.mark.parametrize(("name", "stride"), CASES)
def test_bfloat16_autocast(name: str, stride: int) -> None:
    module = randomise(build(name, stride, 3)).float().eval()
    x = torch.randn(2, 3, 7, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = module(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        assert module.train()(x.float()).isfinite().all()
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


def test_impossible_options_are_refused_in_one_line() -> None:
    for refused in (
        lambda: ENHANCERS["liftdown"](4),
        lambda: LiftDownPool(0),
        lambda: LiftDownPool(4, update_weight=-0.1),
        lambda: LiftDownPool(4, predict_weight=-0.1),
        *(lambda c=c: c(4, stride=3) for c in (SkipPool, MaxPool, AveragePool, BlurPool)),
        *(lambda c=c: c(4, stride=3) for c in (DetailPreservingPool, GatedPool, GaussianPool)),
        *(lambda f=f: f(0) for f in DOWNSAMPLING.values()),
    ):
        with pytest.raises(OptionError) as error:
            refused()
        assert "\n" not in str(error.value)


def test_names() -> None:
    names = ["skip", "max", "average", "blur", "dpp", "gated", "gaussian", "liftdown"]
    assert list(DOWNSAMPLING) == list(ENHANCERS) == names
