"""The gradients of PMPL and DARTS, and what is read off them, against formulas and finite differences, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import nni.nas.strategy
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from torch import nn

from nasbench.errors import OptionError
from nasbench.networks import build_space
from nasbench.pipeline import build_evaluator
from nasbench.presets import resolve_config
from nasbench.strategies.darts import DARTS, DartsModule
from nasbench.strategies.deciding import Evidence
from nasbench.strategies.evidence import Races
from nasbench.strategies.gdas import GDAS, SampledLayer
from nasbench.strategies.pmpl import PMPL, ProgressiveModule, lead
from nasbench.strategies.supernet import fitting_eta
from tests.toys import TwoScales, numbers, squared_error

RATE = 0.3
TRAIN, META = (1.3, 0.9), (-0.8, 1.7)
ALPHA = [0.4, -0.9]


def search(strategy: Any, space: Any, evaluator: Any) -> Any:
    """Run a strategy by NNI's sequential engine; returns its one-shot module."""
    strategy(RawFormatModelSpace.from_model(space, evaluator), SequentialExecutionEngine())
    return strategy.oneshot_module


def spied(strategy: Any, module: type) -> Any:
    """Let a strategy start from ALPHA and keep its first architecture gradient."""

    class Spy(module):  # type: ignore[misc]
        gradients: list[Any]

        def on_train_start(self) -> None:
            self.gradients = []
            with torch.no_grad():
                for alpha in self.all_alphas:
                    alpha.copy_(torch.tensor(ALPHA, dtype=alpha.dtype))

        def architecture_gradient(self, train: Any, meta: Any, alphas: Any) -> Any:
            self.gradients.append(super().architecture_gradient(train, meta, alphas)[0].clone())
            return [self.gradients[-1]]

    strategy.module_class = Spy
    return strategy


def softmax(alpha: Any) -> Any:
    e = np.exp(np.array(alpha))
    return e / e.sum()


def virtual(theta: Any, alpha: Any) -> Any:
    """θ' of one plain gradient step on the training pair."""
    (x, t), pi = TRAIN, softmax(alpha)
    return theta - RATE * (x * pi @ theta - t) * x * pi


def meta_loss(theta: Any, alpha: Any) -> float:
    x, t = META
    return float(0.5 * (x * softmax(alpha) @ theta - t) ** 2)


def meta_gradient(theta: Any, alpha: Any) -> Any:
    """∇_α of the meta loss, θ held constant: r x π_j (θ_j − Σ π θ)."""
    (x, t), pi = META, softmax(alpha)
    return (x * pi @ theta - t) * x * pi * (theta - pi @ theta)


def bilevel_gradient(theta: Any, alpha: Any, step: float = 1e-6) -> Any:
    """Central differences of α ↦ L_meta(θ'(α), α)."""
    result = []
    for j in range(len(alpha)):
        up, down = np.array(alpha), np.array(alpha)
        up[j] += step
        down[j] -= step
        result.append((meta_loss(virtual(theta, up), up) - meta_loss(virtual(theta, down), down)) / (2 * step))
    return np.array(result)


THETA = np.array([0.7, -0.4])


def first_gradient(strategy: Any, module: type) -> Any:
    evaluator = squared_error(numbers([TRAIN]), numbers([META]), RATE)
    spy = search(spied(strategy, module), TwoScales(tuple(THETA)), evaluator)
    # The toy's parameters are made in float32.
    return spy.gradients[0].numpy()


def test_pmpl_gradient_is_first_order_maml() -> None:
    expected = meta_gradient(virtual(THETA, ALPHA), ALPHA)
    np.testing.assert_allclose(first_gradient(PMPL(), ProgressiveModule), expected, rtol=1e-6)
    # The test tells it from a gradient without virtual step, and from the full bilevel one.
    assert not np.allclose(expected, meta_gradient(THETA, ALPHA), rtol=1e-2)
    assert not np.allclose(expected, bilevel_gradient(THETA, ALPHA), rtol=1e-2)


def test_darts_first_order_has_no_virtual_step() -> None:
    np.testing.assert_allclose(first_gradient(DARTS(order=1), DartsModule), meta_gradient(THETA, ALPHA), rtol=1e-6)


def test_darts_second_order_is_the_bilevel_gradient() -> None:
    np.testing.assert_allclose(first_gradient(DARTS(order=2), DartsModule), bilevel_gradient(THETA, ALPHA), rtol=1e-5)


def test_the_evaluator_s_rate_is_that_of_both_steps() -> None:
    evaluator = squared_error(numbers([TRAIN]), numbers([META]), RATE)
    module = search(spied(PMPL(zeta=RATE), ProgressiveModule), TwoScales(tuple(THETA)), evaluator)
    np.testing.assert_allclose(module.gradients[0].numpy(), meta_gradient(virtual(THETA, ALPHA), ALPHA), rtol=1e-6)
    trained = [p.item() for n, p in module.named_parameters() if n.endswith("theta")]
    assert np.abs(np.array(trained) - THETA).max() > 1e-3


@given(
    st.lists(st.floats(-3, 3), min_size=2, max_size=8),
    st.floats(0.01, 0.9),
)
@settings(max_examples=200)
def test_lead_is_best_minus_second_best(alpha: list[float], rho: float) -> None:
    pi = softmax(alpha).tolist()
    best, margin = lead(pi)
    # The definition of equation 4, over all m other than the best.
    assert pi[best] == max(pi)
    assert margin == min(pi[best] - p for m, p in enumerate(pi) if m != best)


def test_a_single_candidate_leads() -> None:
    assert lead([1.0]) == (0, 1.0)


def forced(winner: int, gap: float, thetas: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)) -> Any:
    """Search one step with π of the winner leading by exactly `gap`, α standing still."""
    rest = (1 - gap) / len(thetas)
    pi = torch.full((len(thetas),), rest, dtype=torch.float64)
    pi[winner] += gap

    class Still(ProgressiveModule):
        def on_train_start(self) -> None:
            with torch.no_grad():
                for alpha in self.all_alphas:
                    alpha.copy_(pi.log())

        def _train_alphas(self, train: Any, meta: Any) -> None:
            pass

    strategy = PMPL(rho=0.2)
    strategy.module_class = Still
    return search(strategy, TwoScales(thetas), squared_error(numbers([TRAIN]), numbers([META]), RATE))


@pytest.mark.parametrize("winner", range(4))
def test_every_candidate_can_be_fixed_and_only_at_rho(winner: int) -> None:
    names = ["first", "second", "third", "fourth"]
    at = forced(winner, 0.2 + 1e-6)
    assert at.fixed == {"layer.scale": names[winner]}
    assert at.decisions["layer.scale"]["by"] == "threshold"
    assert at.decisions["layer.scale"]["step"] == 1
    assert at.export() == {"layer.scale": names[winner]}
    below = forced(winner, 0.2 - 1e-3)
    assert below.decisions["layer.scale"]["by"] == "limit"
    assert below.export() == {"layer.scale": names[winner]}


def test_nothing_is_fixed_during_the_warm_up() -> None:
    pairs = numbers([TRAIN] * 5)
    strategy = PMPL(eta=0.5, rho=0.01, warmup_epochs=2)
    evaluator = squared_error(pairs, numbers([META] * 5), 0.01, epochs=4)
    module = search(strategy, TwoScales(), evaluator)
    assert module.decisions["layer.scale"]["step"] > 10
    assert module.decisions["layer.scale"]["by"] == "threshold"


def test_the_search_stops_when_all_is_fixed() -> None:
    strategy = PMPL(eta=0.5, rho=0.01)
    module = search(strategy, TwoScales(), squared_error(numbers([TRAIN] * 50), numbers([META] * 50), 0.01))
    assert module.steps == module.decisions["layer.scale"]["step"] < 50


def test_a_frozen_alpha_stands_still_and_losers_are_not_trained() -> None:
    """Adam would move α by its momentum if its gradient were zero instead of absent."""
    seen: list[Any] = []

    class Two(TwoScales):
        def __init__(self) -> None:
            super().__init__()
            self.other = nni.nas.nn.pytorch.LayerChoice({"a": nn.Identity(), "b": nn.Identity()}, label="other.choice")

        def forward(self, x: Any) -> Any:
            return self.other(self.layer(x))

    class Spy(ProgressiveModule):
        def after_step(self) -> None:
            if self.steps == 5:  # late enough for Adam to have gathered momentum
                self.fix("layer.scale", "second")

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            if "layer.scale" in self.fixed:
                thetas = {n: p.item() for n, p in self.named_parameters() if n.endswith("theta")}
                seen.append((self.alphas["layer.scale"].detach().clone(), thetas))

    strategy = PMPL(eta=0.1)
    strategy.module_class = Spy
    module = search(strategy, Two(), squared_error(numbers([TRAIN] * 20), numbers([META] * 20), 0.05, epochs=2))
    assert len(seen) == 36
    assert all(torch.equal(seen[0][0], alpha) for alpha, _ in seen)
    chosen = module.fixed["layer.scale"]
    for name in seen[0][1]:
        moved = seen[0][1][name] != seen[-1][1][name]
        assert moved == (f".{chosen}." in name)


def test_the_architecture_gradient_reads_the_virtual_weights_under_autocast() -> None:
    """Autocast may keep low-precision copies of θ (Lightning tells it not to); one would hide the virtual step."""

    class Linear(nni.nas.nn.pytorch.ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.inner = nn.Linear(4, 4)
            self.layer = nni.nas.nn.pytorch.LayerChoice(
                {"a": nn.Linear(4, 1), "b": nn.Linear(4, 1)}, label="layer.linear"
            )

        def forward(self, x: Any) -> Any:
            return self.layer(self.inner(x[:, None].expand(-1, 4))).squeeze(1)

    def gradient(rate: float) -> Any:
        strategy = PMPL()
        found: list[Any] = []

        class Spy(ProgressiveModule):
            def architecture_gradient(self, train: Any, meta: Any, alphas: Any) -> Any:
                found.append(super().architecture_gradient(train, meta, alphas))
                return found[-1]

        strategy.module_class = Spy
        pairs = DataLoader(torch.utils.data.TensorDataset(torch.ones(4), torch.full((4,), 3.0)), batch_size=4)
        search(strategy, Linear(), squared_error(pairs, pairs, rate, precision="bf16-mixed"))
        return found[0][0]

    assert not torch.allclose(gradient(0.1), gradient(1e-12), rtol=0.05)


# From gradients of α to h


def test_a_gradient_of_alpha_divided_by_pi_is_the_derivative_by_the_weights_of_the_mixture() -> None:
    """Up to a constant of the layer: against autograd by π itself, in a network of two mixtures."""
    generator = torch.Generator().manual_seed(0)
    values: dict[str, list[Any]] = {"one": ["a", "b", "c"], "two": [1, 2]}
    evidence, races = Evidence(values, delta=0.5), Races([3, 2], delta=0.5)
    thetas = {k: torch.randn(len(v), 4, generator=generator).double() for k, v in values.items()}
    alphas = {k: torch.randn(len(v), generator=generator).double().requires_grad_() for k, v in values.items()}

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        hidden = x
        for label, theta in thetas.items():
            hidden = torch.tanh(weights[label] @ theta * hidden)
        return ((hidden - 1) ** 2).mean()

    gone = []
    for step in range(150):
        x = 1 + torch.randn(4, generator=generator).double()
        alpha_gradients = torch.autograd.grad(
            loss({k: a.softmax(0) for k, a in alphas.items()}, x), list(alphas.values())
        )
        mixture = {k: a.detach().softmax(0).requires_grad_() for k, a in alphas.items()}
        h = torch.autograd.grad(loss(mixture, x), list(mixture.values()))
        rows = np.full((2, 3), np.nan)
        for row, values_of_layer in enumerate(h):
            rows[row, : len(values_of_layer)] = values_of_layer.numpy()
        expected = races.update(rows)
        found = evidence.observe(dict(zip(alphas, alpha_gradients, strict=True)), alphas, False, None, step)
        names = [(list(values)[x.layer], x.candidate, x.by) for x in expected]
        why = [evidence.excluded[label][str(candidate)] for label, candidate in found]
        places = [(label, values[label].index(candidate)) for label, candidate in found]
        by = [list(map(str, values[label])).index(x["by"]) for (label, _), x in zip(found, why, strict=True)]
        assert [(*place, better) for place, better in zip(places, by, strict=True)] == names
        assert all(x["step"] == step for x in why)
        assert [x["odds"] for x in why] == pytest.approx([x.odds for x in expected], rel=1e-6)
        gone += found
    assert gone


# η


def adam(gradients: Iterator[torch.Tensor], candidates: int, eta: float, steps: int) -> torch.Tensor:
    """α after these steps, from zeros."""
    alpha = torch.zeros(candidates, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], eta, betas=(0.5, 0.999))
    for gradient in itertools.islice(gradients, steps):
        alpha.grad = gradient
        optimizer.step()
    return alpha.detach()


def margin(alpha: torch.Tensor) -> float:
    """The lead of the best in π."""
    first, second = alpha.softmax(0).topk(2).values.tolist()
    return float(first - second)


@pytest.mark.parametrize("candidates", [3, 8, 13])
def test_the_fitting_eta_leads_by_rho_after_a_quarter_of_the_search(candidates: int) -> None:
    steps, rho = 400, 0.2
    eta = fitting_eta(steps, rho, candidates)
    winning = torch.where(torch.arange(candidates) == 1, -1.0, 1.0).double()
    gradients = (winning * (1 + i % 3) for i in itertools.count())  # of constant sign
    assert margin(adam(gradients, candidates, eta, steps // 4)) == pytest.approx(rho, rel=0.15)
    assert margin(adam(itertools.repeat(winning), candidates, eta, steps // 4 - 1)) < rho
    assert margin(adam(itertools.repeat(winning), candidates, eta, steps // 4 + 1)) >= rho


@pytest.mark.parametrize("candidates", [3, 8, 13])
def test_noise_hardly_ever_leads_by_rho(candidates: int) -> None:
    steps, rho, searches = 400, 0.2, 200
    generator = torch.Generator().manual_seed(0)
    alpha = torch.zeros(searches, candidates, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], fitting_eta(steps, rho, candidates), betas=(0.5, 0.999))
    ever = torch.zeros(searches, dtype=torch.bool)
    for _ in range(steps):
        alpha.grad = torch.randn(alpha.shape, generator=generator).double()
        optimizer.step()
        first, second = alpha.detach().softmax(1).topk(2).values.T
        ever |= first - second >= rho
    assert ever.double().mean() < 0.02


def test_gdas_draws_candidates_by_their_probability_and_takes_the_gradient_of_the_relaxation() -> None:
    torch.manual_seed(0)
    space = build_space(resolve_config({"space": "metapool_bench", "space_options": {"width": 0.1}}), 10, 8)
    layer = next(m for m in GDAS().mutate_model(space).modules() if isinstance(m, SampledLayer))
    alpha = layer._arch_alpha
    with torch.no_grad():
        alpha.copy_(torch.tensor([0.5, -0.3, 0.1]))
    drawn = torch.stack([layer.weights() for _ in range(4_000)])
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    shares, wanted = drawn.mean(0), alpha.softmax(0)
    assert ((shares - wanted).abs() < 4 * (wanted * (1 - wanted) / 4_000).sqrt()).all()
    direction = torch.tensor([1.0, 2.0, -1.0])
    layer.temperature = 0.7
    torch.manual_seed(1)
    (found,) = torch.autograd.grad(layer.weights() @ direction, alpha)
    torch.manual_seed(1)
    noise = -torch.empty(3).exponential_().log()
    relaxed = ((alpha + noise) / 0.7).softmax(0)
    (expected,) = torch.autograd.grad(relaxed @ direction, alpha)
    torch.testing.assert_close(found, expected)
    features = torch.randn(2, 8, 8, 8)
    torch.manual_seed(2)
    chosen = layer.names[int(layer.weights().argmax())]
    torch.manual_seed(2)
    torch.testing.assert_close(layer(features), layer[chosen](features))


def test_gdas_lowers_its_temperature_linearly() -> None:
    strategy = GDAS(eta=0.1, temperature=8.0, last_temperature=2.0)
    seen = []

    class Spy(strategy.module_class):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append({m.temperature for m in self.supernet_modules() if isinstance(m, SampledLayer)})
            return super().training_step(batch, batch_idx)

    strategy.module_class = Spy
    config = resolve_config({"space": "metapool_bench", "space_options": {"width": 0.05}, "train_images": 40})
    config = config.model_copy(update={"batch_size": 32, "epochs": 3})
    space = build_space(config, 10, 8)
    search(strategy, space, build_evaluator(config, "search"))
    assert [next(iter(s)) for s in seen] == [8.0, 5.0, 2.0]
    with pytest.raises(OptionError, match="fixing"):
        GDAS(fixing="evidence")
