"""The supernet in training: what a step may touch, saving and loading, speed-up by fixing, planted answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nni.nas.strategy  # noqa: F401  (before nni.nas.oneshot)
import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice
from nni.nas.space import RawFormatModelSpace
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.pipeline import prepare
from nasbench.presets import resolve_config
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.spaces.operations.enhancers import META_POOLING, enhancer
from nasbench.spaces.operations.fused import GatedEnhancer
from nasbench.strategies.darts import DARTS, DartsModule
from nasbench.strategies.darts_pt import DartsPT
from nasbench.strategies.drnas import DrNAS
from nasbench.strategies.enas import Enas
from nasbench.strategies.gdas import GDAS
from nasbench.strategies.mixed import pooling_name
from nasbench.strategies.pmpl import PMPL, ProgressiveModule
from nasbench.strategies.proxyless import Proxyless
from nasbench.strategies.random import Random
from nasbench.strategies.spos import Spos
from tests.toys import CentrePixel

DIGITS = {"image_size": 8, "train_images": 64, "batch_size": 16}


def search(strategy: Any, space: Any, evaluator: Any) -> Any:
    """Run a strategy by NNI's sequential engine; returns its one-shot module."""
    strategy(RawFormatModelSpace.from_model(space, evaluator), SequentialExecutionEngine())
    return strategy.oneshot_module


def small(**options: Any) -> MobileNetV2MetaPooling:
    """The real space, as small as it gets."""
    return MobileNetV2MetaPooling(**{"width": 0.05, "image_size": 8, "num_classes": 10, **options})


def evaluator(epochs: int = 1, **data: Any) -> Any:
    """The real evaluator on a few digits."""
    return Classification(stage="search", epochs=epochs, device="cpu", data={**DIGITS, **data})


@pytest.mark.parametrize(
    ("strategy", "module"),
    [(PMPL(eta=0.1), ProgressiveModule), (DARTS(order=2), DartsModule)],
    ids=["pmpl", "darts2"],
)
def test_the_architecture_step_leaves_everything_else_bit_for_bit(strategy: Any, module: type) -> None:
    compared: list[int] = []

    class Spy(module):  # type: ignore[misc]
        def state(self) -> dict[str, torch.Tensor]:
            alphas = {id(a) for a in self.all_alphas}
            tensors = {n: p for n, p in self.named_parameters() if id(p) not in alphas}
            tensors |= dict(self.named_buffers())
            moments = self._weight_optimizer().state
            tensors |= {f"momentum{i}": s["momentum_buffer"] for i, s in enumerate(moments.values())}
            return {n: t.detach().clone() for n, t in tensors.items()}

        def _train_alphas(self, train: Any, meta: Any) -> None:
            before, alphas = self.state(), [a.detach().clone() for a in self.all_alphas]
            super()._train_alphas(train, meta)
            after = self.state()
            assert before.keys() == after.keys()
            assert all(torch.equal(before[n], after[n]) for n in before)
            assert not any(torch.equal(a, b) for a, b in zip(alphas, self.all_alphas, strict=True))
            compared.append(sum(n.startswith("momentum") for n in before))

    strategy.module_class = Spy
    search(strategy, small(candidates="none,avg3,global"), evaluator())
    assert len(compared) == 3  # batches of 16 out of 51 training images
    assert compared[-1] > 100  # momentum exists, and was compared


def test_only_the_weight_step_moves_batch_statistics() -> None:
    module = search(PMPL(eta=3e-4), small(candidates="none,avg3"), evaluator())
    counts = {int(b) for n, b in module.named_buffers() if n.endswith("num_batches_tracked")}
    assert counts == {3}


def test_dropout_is_off_in_the_search() -> None:
    space = small(dropout=0.5)
    search(PMPL(), space, evaluator())
    assert all(m.p == 0.0 for m in space.modules() if isinstance(m, nn.Dropout))


def test_fixed_layers_leave_the_forward_pass() -> None:
    strategy = PMPL()
    space = strategy.mutate_model(small())
    module: Any = strategy.configure_oneshot_module(_Holder())
    module.set_model(space)
    image = torch.zeros(2, 3, 8, 8)

    def computed() -> tuple[int, int]:
        """How many mixtures, and how many candidates on their own."""
        calls = []
        hooks = [c.register_forward_hook(lambda *a: calls.append(1)) for c in _candidates(module)]
        with _Operators() as operators, torch.no_grad():
            space.train()(image)
        for hook in hooks:
            hook.remove()
        return sum("pooling_mixture" in name for name in operators.names), len(calls)

    assert computed() == (17, 0)
    for count, label in enumerate(list(module.alphas), 1):
        module.fix(label, "global")
        assert computed() == (17 - count, count)


class _Operators(TorchDispatchMode):
    """Notes every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def _candidates(module: Any) -> list[nn.Module]:
    return [candidate for layer in module.supernet_modules() for candidate in layer]


class _Holder(nn.Module):
    """Just enough of an evaluator's module to hold a model."""

    def set_model(self, model: nn.Module) -> None:
        self.model = model


def test_what_is_fixed_survives_saving_and_loading(tmp_path: Path) -> None:
    class Fixing(ProgressiveModule):
        def after_step(self) -> None:
            if self.steps == 2:
                self.decide("block03.enhancer", "threshold", self.probabilities()["block03.enhancer"])
                self.fix("block03.enhancer", "avg5")

    def strategy() -> Any:
        made = PMPL(eta=0.05)
        made.module_class = Fixing
        return made

    first = evaluator(epochs=1)
    one = search(strategy(), small(), first)
    first.trainer.save_checkpoint(tmp_path / "half.ckpt")
    saved = {label: a.detach().clone() for label, a in one.alphas.items()}
    torch.load(tmp_path / "half.ckpt", weights_only=True)  # opening it runs no code

    class Looking(Fixing):
        def on_train_start(self) -> None:
            assert self.fixed["block03.enhancer"] == "avg5"
            assert self.steps == 3
            assert all(torch.equal(saved[label], a) for label, a in self.alphas.items())
            assert not self.alphas["block03.enhancer"].requires_grad
            adam = next(o for o in self.trainer.optimizers if getattr(o, "is_arch_optimizer", False))
            moments = {label: adam.state[a]["exp_avg"].clone() for label, a in self.alphas.items() if a in adam.state}
            assert moments.keys() == self.alphas.keys()
            seen.append(moments)

    seen: list[Any] = []
    adam = next(o for o in first.trainer.optimizers if getattr(o, "is_arch_optimizer", False))
    moments = {label: adam.state[a]["exp_avg"] for label, a in one.alphas.items()}
    resumed = strategy()
    resumed.module_class = Looking
    second = evaluator(epochs=2)
    second.fit_kwargs = {"ckpt_path": str(tmp_path / "half.ckpt"), "weights_only": True}
    two = search(resumed, small(), second)
    # Adam's moments landed on their own α, whatever the order of a set of parameters is in this process.
    assert all(torch.equal(moments[label], seen[0][label]) for label in moments)
    assert two.steps == 6
    assert two.decisions["block03.enhancer"]["step"] == 2
    assert torch.equal(two.alphas["block03.enhancer"], saved["block03.enhancer"])
    assert not torch.equal(two.alphas["block04.enhancer"], saved["block04.enhancer"])


def test_the_warm_up_must_leave_epochs_for_the_search() -> None:
    with pytest.raises(OptionError, match="warmup_epochs is 3, but the search has only 2"):
        search(PMPL(warmup_epochs=3), small(), evaluator(epochs=2))


def test_options_of_the_strategy_reach_the_evaluator() -> None:
    wanted = {"epochs": 1, "meta_fraction": 0.5, "zeta": 0.123, "warmup_epochs": 0}
    settings = {"strategy_options": wanted, "epochs": 9, "space_options": {"candidates": "none,avg3", "width": 0.05}}
    ready = prepare(resolve_config({**DIGITS, **settings, "device": "cpu"}))
    ready.strategy.run()
    module = ready.strategy.oneshot_module
    assert module.steps == 2  # 32 training images, batches of 16
    assert module.training_module.hparams["learning_rate"] == 0.123


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"epochs": 2}, "epochs is 2, but the evaluator was built with 1: give it epochs=2"),
        ({"meta_fraction": 0.5}, "meta_fraction is 0.5, but the evaluator was built with 0.2"),
        ({"zeta": 0.3}, "zeta is 0.3, but the evaluator was built with 0.05: give it learning_rate=0.3"),
    ],
)
def test_an_evaluator_that_was_not_built_as_wished_is_refused(wish: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        search(PMPL(**wish), small(candidates="none,avg3"), evaluator())


class Unhurried(Classification):
    """Has no learning rate to set."""

    def __init__(self, dataset: str = "digits", data: Any = None, stage: Any = "search", epochs: int = 1) -> None:
        super().__init__(dataset=dataset, data=data, stage=stage, epochs=epochs, device="cpu")


def test_a_wish_that_nobody_can_grant_is_one_clear_line() -> None:
    settings = {"evaluator": f"{__name__}:Unhurried", "strategy_options": {"zeta": 0.1, "warmup_epochs": 0}}
    with pytest.raises(OptionError, match=r"strategy 'pmpl' sets learning_rate, which evaluator .*Unhurried' does not"):
        prepare(resolve_config({**DIGITS, **settings}))


# Planted answers: the strategies find what can be found, and chance does not.

SEEDS = range(5)
REACHING = {"avg7", "max7", "global"}
KEEPING_SIGN = {"none", "global"}


def planted(strategy: Any, dataset: str, seed: int) -> str:
    torch.manual_seed(seed)
    options = {"batch_size": 64, "seed": seed, "meta_fraction": 0.5}
    recipe = Classification(
        dataset=f"tests.toys:{dataset}", data=options, stage="search", epochs=16, learning_rate=0.05, device="cpu"
    )
    module = search(strategy, CentrePixel(), recipe)
    return str(module.export()["layer.enhancer"])


@pytest.mark.parametrize("name", ["pmpl", "darts1", "darts2", "darts_pt", "drnas", "gdas", "proxyless", "spos", "enas"])
@pytest.mark.parametrize(("dataset", "right"), [("Distant", REACHING), ("Checkerboard", KEEPING_SIGN)])
def test_the_search_finds_the_planted_receptive_field(name: str, dataset: str, right: set[str]) -> None:
    made = {
        "pmpl": lambda: PMPL(eta=0.05, rho=0.3, warmup_epochs=2),
        "darts1": lambda: DARTS(order=1, eta=0.05, warmup_epochs=2),
        "darts2": lambda: DARTS(order=2, eta=0.05, warmup_epochs=2),
        "darts_pt": lambda: DartsPT(eta=0.05, warmup_epochs=2),
        "drnas": lambda: DrNAS(eta=0.05, warmup_epochs=2),
        "gdas": lambda: GDAS(eta=0.05, warmup_epochs=2),
        "proxyless": lambda: Proxyless(eta=0.1, warmup_epochs=2),
        "spos": lambda: Spos(networks=8),
        "enas": lambda: Enas(eta=0.02),
    }
    found = [planted(made[name](), dataset, seed) for seed in SEEDS]
    # By chance (3/8 or 2/8 each) five of five happen in under 0.8 % of all cases.
    assert set(found) <= right, found


@pytest.mark.parametrize("right", [REACHING, KEEPING_SIGN])
def test_random_choice_does_not_find_it(right: set[str]) -> None:
    found = []
    for seed in range(40):
        strategy = Random(seed=seed)
        strategy(RawFormatModelSpace.from_model(CentrePixel(), None), SequentialExecutionEngine())
        found.append(next(strategy.list_models()).sample["layer.enhancer"])
    assert 0 < sum(f in right for f in found) < 30
    assert len(set(found)) == 8


# The fused mixture


@pytest.mark.parametrize("candidates", ["full", "ablation", "none,se,global,max5", "global,se"])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_fused_mixed_layer_is_the_sum_of_its_candidates(candidates: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    strategy = PMPL()
    layer: Any = strategy.mutate_model(CentrePixel(candidates=candidates)).layer
    with torch.no_grad():
        layer._arch_alpha.normal_()
    x = torch.nn.functional.relu6(torch.randn(3, 8, 9, 7) * 4).contiguous(memory_format=layout)
    g = torch.randn(3, 8, 9, 7)

    def both(compute: Any) -> list[torch.Tensor]:
        leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        y = compute(leaf)
        wanted = [leaf, layer._arch_alpha, *(p for c in layer for p in c.parameters())]
        return [y, *torch.autograd.grad(y, wanted, g)]

    def plain(leaf: torch.Tensor) -> torch.Tensor:
        pi = layer._arch_alpha.softmax(0)
        return sum(p * c.train()(leaf) for p, c in zip(pi, layer, strict=True))  # type: ignore[return-value]

    torch.testing.assert_close(both(layer), both(plain), rtol=1e-4, atol=1e-5)


def test_only_exact_pooling_modules_are_fused() -> None:
    assert [pooling_name(enhancer(n, 4)) for n in META_POOLING] == [*list(META_POOLING)[:-1], None]
    exact = [nn.Identity(), nn.AvgPool2d(5, 1, 2), nn.MaxPool2d(3, 1, 1)]
    assert [pooling_name(m) for m in exact] == ["none", "avg5", "max3"]
    others = [nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(5, 1, 1)]
    others += [nn.AvgPool2d(3, 1, 1, ceil_mode=True), nn.MaxPool2d(3, 1, 1, dilation=2), nn.AvgPool2d(9, 1, 4)]
    assert [pooling_name(m) for m in others] == [None] * 6  # type: ignore[arg-type]


class Residual(nn.Module):
    """Gates, and adds its input: not what a gated enhancer computes, whatever its method is called."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def gates(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.rows(x.mean(3, keepdim=True)).sigmoid(), self.columns(x.mean(2, keepdim=True)).sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = self.gates(x)
        return x + x * rows * columns


class LayerCalledGates(nn.Module):
    """Has a layer of that name."""

    def __init__(self) -> None:
        super().__init__()
        self.gates = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gates(x).sigmoid() * x


@pytest.mark.parametrize("stranger", [Residual, LayerCalledGates])
def test_a_candidate_is_computed_by_its_own_forward_unless_it_declares_otherwise(stranger: type[nn.Module]) -> None:
    torch.manual_seed(0)
    candidate = stranger()

    class Space(CentrePixel):
        def __init__(self) -> None:
            super().__init__()
            poolings = {name: enhancer(name, 8) for name in ("none", "avg3")}
            self.layer = LayerChoice({**poolings, "stranger": candidate}, label="layer.enhancer")

    layer: Any = PMPL().mutate_model(Space()).layer
    with torch.no_grad():
        layer._arch_alpha.copy_(torch.tensor([-torch.inf, -torch.inf, 0.0]))
    x = torch.randn(2, 8, 5, 5)
    torch.testing.assert_close(layer(x), candidate(x))


def test_a_gated_enhancer_has_no_forward_of_its_own() -> None:
    with pytest.raises(TypeError, match="Both: a GatedEnhancer is defined by gates"):
        type("Both", (GatedEnhancer,), {"forward": lambda self, x: x})


def test_fused_kernels_are_as_exact_as_plain_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through 17 layers rounding grows to per cents of the gradient: both are held against float64."""
    torch.manual_seed(1)
    images, labels = torch.randn(16, 3, 16, 16), torch.randint(0, 10, (16,))

    def gradient(kernels: str, dtype: torch.dtype) -> torch.Tensor:
        monkeypatch.setenv("NASBENCH_KERNELS", kernels)
        torch.manual_seed(0)
        network = PMPL().mutate_model(MobileNetV2MetaPooling(width=0.25, image_size=16, num_classes=10))
        network = network.to(dtype).to(memory_format=torch.channels_last).train()
        loss = nn.functional.cross_entropy(network(images.to(dtype)), labels)
        gradients = torch.autograd.grad(loss, list(network.parameters()))
        return torch.cat([g.flatten().double() for g in gradients])

    exact = gradient("reference", torch.float64)
    fused, plain = (((gradient(k, torch.float32) - exact).norm() / exact.norm()).item() for k in ("auto", "reference"))
    assert 0 < fused < 2 * plain + 1e-3
    assert plain < 0.2


def test_a_search_is_the_same_with_fused_and_plain_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """In double precision, and for a few steps: rounding grows tenfold every two or three steps, whoever computes."""

    def searched(kernels: str) -> tuple[torch.Tensor, dict[str, Any]]:
        monkeypatch.setenv("NASBENCH_KERNELS", kernels)
        torch.manual_seed(0)
        strategy = PMPL(eta=3e-3, warmup_epochs=1)
        training = Classification(stage="search", epochs=4, device="cpu", precision="64", data=DIGITS)
        module = search(strategy, small(), training)
        return torch.stack(list(module.alphas.values())).detach(), module.export()

    (fused, architecture), (plain, same) = searched("auto"), searched("reference")
    assert fused.dtype == torch.float64
    # α starts with a deviation of 1e-3; each of the nine steps moves it by up to η.
    assert fused.abs().max() > 5e-3
    assert (fused - plain).abs().max() < 1e-7
    assert architecture == same
