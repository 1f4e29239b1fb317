"""The one-shot strategies that sample or remove candidates, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import InputChoice
from nni.nas.space import RawFormatModelSpace
from scipy.special import polygamma
from torch import nn

from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.networks import build_space
from nasbench.pipeline import build_evaluator, run
from nasbench.presets import resolve_config
from nasbench.record import SEARCH
from nasbench.strategies import darts_pt
from nasbench.strategies.darts import DARTS
from nasbench.strategies.darts_pt import DartsPT
from nasbench.strategies.drnas import DirichletLayer, DrNAS, concentration
from nasbench.strategies.gdas import GDAS
from nasbench.strategies.held_out import held_out
from nasbench.strategies.proxyless import PathLayer, Proxyless
from nasbench.strategies.spos import Spos
from nasbench.watch import probabilities
from tests.toys import CentrePixel, TwoScales, numbers, squared_error

THETAS = (0.7, -0.4, 1.1, 0.2)
ALPHA = torch.tensor([0.5, -0.3, 0.1, -1.2], dtype=torch.float64)
BETA = np.where(ALPHA.numpy() > 0, ALPHA.numpy() + 1, np.exp(ALPHA.numpy()))  # elu(α) + 1
META = (-0.8, 1.7)
RATE = 0.1


def spied(strategy: Any, noted: list[Any]) -> Any:
    """The one-shot module of a search of one step, which notes α, the gradient and α afterwards."""

    class Spy(strategy.module_class):  # type: ignore[misc, name-defined]
        def on_train_start(self) -> None:
            with torch.no_grad():
                self.all_alphas[0].copy_(ALPHA)

        def architecture_gradient(self, train: Any, meta: Any, alphas: Any) -> Any:
            found = super().architecture_gradient(train, meta, alphas)
            noted.append((found[0].clone(), getattr(self, "_compared", None)))
            return found

    strategy.module_class = Spy
    evaluator = squared_error(numbers([(1.3, 0.9)]), numbers([META]), RATE)
    strategy(RawFormatModelSpace.from_model(TwoScales(THETAS), evaluator), SequentialExecutionEngine())
    return strategy.oneshot_module


def layer_of(strategy: Any, kind: type) -> Any:
    network = strategy.mutate_model(TwoScales(THETAS))
    layer = next(m for m in network.modules() if isinstance(m, kind))
    with torch.no_grad():
        layer._arch_alpha.copy_(ALPHA)
    return layer


# DrNAS


def test_mixtures_of_drnas_have_the_dirichlet_distribution_of_beta() -> None:
    torch.manual_seed(0)
    layer = layer_of(DrNAS(), DirichletLayer)
    np.testing.assert_allclose(concentration(layer._arch_alpha).detach(), BETA, rtol=1e-6)
    drawn = torch.stack([layer.weights().detach() for _ in range(20_000)]).double()
    torch.testing.assert_close(drawn.sum(1), torch.ones(20_000, dtype=torch.float64), rtol=0, atol=1e-6)
    total = BETA.sum()
    np.testing.assert_allclose(drawn.mean(0), BETA / total, atol=0.01)
    variance = BETA * (total - BETA) / (total**2 * (total + 1))
    np.testing.assert_allclose(drawn.var(0), variance, rtol=0.05)


def test_the_gradient_of_drnas_is_that_of_the_mean_over_mixtures() -> None:
    """E[π] = β / Σβ: a linear function's gradient, by its mean over many draws."""
    torch.manual_seed(1)
    layer = layer_of(DrNAS(), DirichletLayer)
    direction = torch.tensor([1.0, 2.0, -1.0, 0.5])
    drawn = torch.stack([layer.weights() for _ in range(20_000)]).mean(0)
    (found,) = torch.autograd.grad(drawn @ direction, layer._arch_alpha)
    alpha = ALPHA.clone().requires_grad_()
    mean = concentration(alpha) / concentration(alpha).sum()
    (expected,) = torch.autograd.grad(mean @ direction.double(), alpha)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_drnas_holds_beta_near_one_as_strongly_as_it_is_told() -> None:
    gradients = {}
    for anchor in (1e-9, 0.5):
        torch.manual_seed(3)
        noted: list[Any] = []
        spied(DrNAS(anchor=anchor), noted)
        gradients[anchor] = noted[0][0].numpy()
    # By β of ln Γ(Σβ) − Σ ln Γ(β) − ln Γ(K) + Σ (β − 1)(ψ(β) − ψ(Σβ)), the divergence; the terms with ψ cancel.
    slope = (BETA - 1) * polygamma(1, BETA) - (BETA - 1).sum() * polygamma(1, BETA.sum())
    expected = 0.5 * slope * np.where(ALPHA.numpy() > 0, 1, BETA)
    np.testing.assert_allclose(gradients[0.5] - gradients[1e-9], expected, rtol=1e-5)


def test_what_drnas_shows_as_probabilities_is_the_mean_mixture() -> None:
    module = spied(DrNAS(eta=1e-12), [])
    for shown in (module.probabilities(), probabilities(module)):
        np.testing.assert_allclose(list(shown["layer.scale"].values()), BETA / BETA.sum(), rtol=1e-5)


# ProxylessNAS


def test_proxyless_trains_alpha_by_two_gates() -> None:
    x, target = META
    seen = set()
    for seed in range(12):
        torch.manual_seed(seed)
        noted: list[Any] = []
        spied(Proxyless(eta=0.1), noted)
        gradient, ((_, (opened, other), before),) = noted[0]
        seen.add((opened, other))
        pair = ALPHA[[opened, other]].numpy()
        pi = np.exp(pair) / np.exp(pair).sum()
        residual = x * THETAS[opened] - target
        of_gates = np.array([residual * x * THETAS[opened], residual * x * THETAS[other]])
        expected = np.zeros(4)
        expected[[opened, other]] = pi * (of_gates - pi @ of_gates)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-12)
        np.testing.assert_allclose(before, np.logaddexp(*pair))
    assert len(seen) > 3


def test_candidates_that_proxyless_has_not_compared_keep_their_probability() -> None:
    torch.manual_seed(0)
    noted: list[Any] = []
    strategy = Proxyless(eta=0.3)
    module = spied(strategy, noted)
    ((_, pair, _),) = noted[0][1]
    after, before = strategy.alphas["layer.scale"].detach().softmax(0), ALPHA.softmax(0)
    others = [k for k in range(4) if k not in pair]
    np.testing.assert_allclose(after[others], before[others], rtol=1e-6)
    assert not np.allclose(after[pair], before[pair], rtol=1e-2)
    assert module._compared == []


def test_proxyless_draws_its_paths_by_their_probability_and_computes_no_other() -> None:
    torch.manual_seed(0)
    module = spied(Proxyless(eta=1e-12), [])
    layer = next(m for m in module.modules() if isinstance(m, PathLayer))
    drawn = torch.tensor([module._draw(1)[id(layer._arch_alpha)][0] for _ in range(4_000)])
    share, pi = torch.bincount(drawn, minlength=4) / 4_000, ALPHA.softmax(0)
    assert ((share - pi).abs() < 4 * (pi * (1 - pi) / 4_000).sqrt()).all()
    computed: list[str] = []
    for name in layer.names:
        layer[name].register_forward_hook(lambda *_, name=name: computed.append(name))
    for count in (1, 2):
        computed.clear()
        places = module._draw(count)[id(layer._arch_alpha)]
        layer(torch.ones(1, dtype=torch.float64))
        assert computed == [layer.names[k] for k in places]
        assert len(set(places)) == count


# DARTS-PT


def digits(strategy: Any, **options: Any) -> Any:
    """Search an enhancer on digits."""
    torch.manual_seed(0)
    data = {"data_root": None, "image_size": 9, "batch_size": 32, "train_images": 300}
    how = {"dataset": "digits", "data": {**data, **options}, "stage": "search", "epochs": 2, "device": "cpu"}
    evaluator = Classification(**how)
    strategy(RawFormatModelSpace.from_model(CentrePixel(10), evaluator), SequentialExecutionEngine())
    return strategy.oneshot_module


def test_darts_pt_keeps_the_candidate_whose_removal_hurts_most_whatever_its_probability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    strategy, seen, after = DartsPT(eta=0.1, selection=0.5), [], []
    names = [n for n, _ in CentrePixel().layer.named_children()]

    class Scripted(strategy.module_class):  # type: ignore[misc, name-defined]
        def on_train_start(self) -> None:
            super().on_train_start()
            self.model.layer.start_as_identity()  # as in a pretrained network

        def _select(self, label: str) -> None:
            super()._select(label)
            after.append(self.probabilities()[label])

    def scripted(module: Any, network: Any, data: Any) -> tuple[float, float]:
        gone = [name for name, share in module.probabilities()["layer.enhancer"].items() if share == 0]
        assert (network.layer.weights() == 0).tolist() == [name in gone for name in names]
        seen.append((module._searched, *gone))
        # Without max5 and without avg5 equally many are right, but without avg5 the loss is larger.
        return {"max5": (0.5, -0.9), "avg5": (0.5, -1.3)}.get(gone[0], (0.8, -0.5))

    strategy.module_class = Scripted
    monkeypatch.setattr(darts_pt, "held_out", scripted)
    module = digits(strategy)
    assert [gone for _, *gone in seen] == [[name] for name in names]
    assert {step for step, *_ in seen} == {module._total // 2 + 1}
    assert module.export() == {"layer.enhancer": "avg5"}
    decision = module.decisions["layer.enhancer"]
    assert decision["by"] == "removal"
    assert max(decision["pi"], key=decision["pi"].get) != "avg5"
    assert min(decision["pi"].values()) > 0  # all were there again when the last had been tried
    assert after == [{name: float(name == "avg5") for name in names}]


def test_darts_pt_decides_evenly_over_the_last_part(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(darts_pt, "held_out", lambda module, network, data: (0.5, -1.0))
    settings: dict[str, Any] = {
        **{"space_options": {"width": 0.05}, "dataset": "digits", "device": "cpu", "train_images": 200},
        **{"strategy": "darts_pt", "strategy_options": {"selection": 0.4, "warmup_epochs": 0}},
        **{"batch_size": 16, "epochs": 4, "retrain_epochs": 1},
    }
    record = run(resolve_config(settings), tmp_path)
    steps = int(record.curves(SEARCH)[-1]["step"])
    found = sorted(decision.step for decision in record.decisions().values())
    begun = 0.6 * steps
    due = [math.ceil(17 * (step - begun) / (steps - begun)) for step in range(1, steps + 1)]
    assert [sum(step <= at for step in found) for at in range(1, steps + 1)] == [max(0, count) for count in due]


def test_the_whole_held_out_part_is_measured_as_a_trained_network_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def spy(module: Any, network: Any, data: Any) -> tuple[float, float]:
        images = data.normalise(data._images["train"][torch.from_numpy(data.splits()[1])])
        labels = torch.from_numpy(data.train_labels[data.splits()[1]])
        with torch.no_grad():
            logits = network.eval()(images)
        right = (logits.argmax(1) == labels).double().mean()
        loss = nn.functional.cross_entropy(logits, labels)
        kept = {k: v.clone() for k, v in network.state_dict().items()}
        found.append((held_out(module, network, data), (right.item(), -loss.item())))
        assert network.training
        assert all(torch.equal(v, kept[k]) for k, v in network.state_dict().items())
        return found[-1][0]

    monkeypatch.setattr(darts_pt, "held_out", spy)
    digits(DartsPT(eta=0.1))
    assert len(found) == 8
    for measured, expected in found:
        assert measured == pytest.approx(expected, rel=1e-5)


# SPOS


def test_spos_trains_all_paths_alike_and_no_alpha() -> None:
    drawn: list[int] = []
    strategy = Spos(networks=3)

    class Spy(strategy.module_class):  # type: ignore[misc, name-defined]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outcome = super().training_step(batch, batch_idx)
            drawn.extend(places[0] for _ in range(200) for places in self._draw(1).values())
            assert all(not alpha.any() for alpha in self.all_alphas)
            return outcome

    strategy.module_class = Spy
    digits(strategy)
    share = torch.bincount(torch.tensor(drawn), minlength=8) / len(drawn)
    assert ((share - 1 / 8).abs() < 4 * (7 / 64 / len(drawn)) ** 0.5).all()


def test_spos_measures_a_network_as_if_it_had_been_derived_with_batch_statistics_of_its_own() -> None:
    """Beside the network alone, whose statistics are the mean over batches of what its own maps have."""
    strategy, compared = Spos(networks=4, recalibration=3), []

    class Spy(strategy.module_class):  # type: ignore[misc, name-defined]
        def measure(self, architecture: Any) -> float:
            found = super().measure(architecture)
            data, space = self.strategy.data, build_space(CONFIG, 10, 8)
            network = space.freeze(architecture)
            weights = {k: v for k, v in self.model.state_dict().items() if not k.endswith("_arch_alpha")}
            own = network.state_dict()
            places = {k: k if k in weights else next(w for w in weights if matches(w, k, architecture)) for k in own}
            network.load_state_dict({k: weights[place] for k, place in places.items()})
            for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.reset_running_stats()
                norm.momentum = None
            order = np.random.default_rng(0).permutation(data.splits()[0])[: 3 * 32]
            images = data.normalise(data._images["train"])
            with torch.no_grad():
                for batch in np.array_split(order, 3):
                    network.train()(images[torch.from_numpy(batch)])
                logits = network.eval()(images[torch.from_numpy(data.splits()[1])])
            labels = torch.from_numpy(data.train_labels[data.splits()[1]])
            accuracy = (logits.argmax(1) == labels).double().mean().item()
            gain = -nn.functional.cross_entropy(logits, labels).item()
            compared.append((found, accuracy + 1e-6 * gain / (1 - gain)))
            return found

    strategy.module_class = Spy
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 32})
    evaluator = build_evaluator(config, "search")
    strategy(RawFormatModelSpace.from_model(build_space(config, 10, 8), evaluator), SequentialExecutionEngine())
    assert len(compared) == 4
    assert len({round(found, 9) for found, _ in compared}) > 1
    for found, expected in compared:
        assert found == pytest.approx(expected, abs=1e-6)


CONFIG = resolve_config(
    {"space": "metapool_bench", "space_options": {"width": 0.1}, "train_images": 300, "image_size": 8, "device": "cpu"}
)


def matches(name: str, derived: str, architecture: Any) -> bool:
    """Whether a weight of the supernet is the one that a derived network has without the candidate's name."""
    return any(name.replace(f".{candidate}.", ".", 1) == derived for candidate in set(architecture.values()))


def test_spos_takes_the_best_that_evolution_meets_and_only_what_is_allowed() -> None:
    strategy, seen = Spos(networks=60), []

    class Scripted(strategy.module_class):  # type: ignore[misc, name-defined]
        def measure(self, architecture: Any) -> float:
            if not self.strategy.allows(architecture):
                return super().measure(architecture)
            seen.append(tuple(architecture.values()))
            return float(sum(value == "global" for value in architecture.values()))

    strategy.module_class = Scripted
    strategy.allows = lambda architecture: architecture["stage1.enhancer"] != "global"
    config = CONFIG.model_copy(update={"epochs": 1})
    evaluator = build_evaluator(config, "search")
    strategy(RawFormatModelSpace.from_model(build_space(config, 10, 8), evaluator), SequentialExecutionEngine())
    module = strategy.oneshot_module
    best = max(seen, key=lambda names: names.count("global"))
    assert best.count("global") >= 3
    assert tuple(module.export().values()).count("global") == best.count("global")
    assert module.export()["stage1.enhancer"] != "global"
    assert {(d["by"], len(d["pi"])) for d in module.decisions.values()} == {(Spos.decided_by, 0)}
    assert probabilities(module) == {}


def test_spos_says_that_it_needs_layers() -> None:
    class Joined(TwoScales):
        def __init__(self) -> None:
            super().__init__()
            self.join = InputChoice(2, label="join")

        def forward(self, x: Any) -> Any:
            return self.join([x, self.layer(x)])

    with pytest.raises(OptionError, match="spos draws paths of layers, and choice 'join'"):
        Spos().mutate_model(Joined())


@pytest.mark.parametrize(
    ("kind", "rule"),
    [*((kind, "evidence") for kind in (GDAS, DrNAS, Proxyless, DartsPT)), (DARTS, "lead")],
)
def test_a_rule_that_would_fix_nothing_is_refused(kind: Any, rule: str) -> None:
    with pytest.raises(OptionError, match=f"fixes nothing by {rule}: fixing must be none"):
        kind(fixing=rule)


@pytest.mark.parametrize("kind", [DartsPT, Spos])
def test_it_is_said_when_no_held_out_images_are_at_hand(kind: Any) -> None:
    evaluator = squared_error(numbers([(1.3, 0.9)]), numbers([META]), RATE)
    with pytest.raises(OptionError, match="held-out images in order"):
        kind()(RawFormatModelSpace.from_model(TwoScales(THETAS), evaluator), SequentialExecutionEngine())
