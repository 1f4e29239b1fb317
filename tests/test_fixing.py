"""Fixing by evidence in the supernet: candidates that leave, decisions and their records, several supernets, η."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nni
import pytest
import torch
from nni.nas.evaluator.pytorch import DataLoader
from nni.nas.nn.pytorch import InputChoice, LayerChoice, ModelSpace, Repeat
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.facts import Decision
from nasbench.pipeline import prepare
from nasbench.presets import resolve_config
from nasbench.spaces.operations.choices import OnFirst
from nasbench.spaces.operations.enhancers import enhancer
from nasbench.strategies.darts import DARTS
from nasbench.strategies.deciding import Evidence, pick
from nasbench.strategies.pmpl import PMPL
from nasbench.strategies.supernet import DifferentiableModule
from tests.test_supernet import search
from tests.toys import CentrePixel, Scale, TwoScales, numbers, squared_error

LABEL = "layer.enhancer"


class _Holder(nn.Module):
    """Just enough of an evaluator's module to hold a model."""

    def set_model(self, model: nn.Module) -> None:
        self.model = model


def supernet(space: Any, strategy: Any) -> Any:
    """The search part of a strategy around a space, not trained."""
    module = strategy.configure_oneshot_module(_Holder())
    module.set_model(strategy.mutate_model(space))
    return module


def pairs(steps: int) -> Any:
    """Numbers x and their targets 50 x: whoever multiplies by more is better."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + torch.rand(steps, generator=generator)
    return numbers(list(zip(x.tolist(), (50 * x).tolist(), strict=True)))


THETAS = (0.1, 0.2, 0.3, 0.4)
NAMES = ["first", "second", "third", "fourth"]


class Wavy(Scale):
    """θ x and a wave so short that it is noise."""

    def __init__(self, theta: float, number: int) -> None:
        super().__init__(theta)
        self.number = number

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x + 2 * torch.sin(1000 * self.number * x)


class Waves(ModelSpace):
    """Four of them; d's deviation is 2."""

    def __init__(self, thetas: tuple[float, ...]) -> None:
        super().__init__()
        waves = {name: Wavy(t, i) for i, (name, t) in enumerate(zip(NAMES, thetas, strict=True), 1)}
        self.layer = LayerChoice(waves, label="layer.scale")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def scaled(strategy: Any, steps: int = 200, space: Any = None) -> Any:
    """Search for the largest of four scales."""
    return search(strategy, space or TwoScales(THETAS), squared_error(pairs(steps), pairs(steps), 1e-6))


# A candidate that is out


class _Terms(TorchDispatchMode):
    """Notes how many terms every fused mixture adds up."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "pooling_mixture" in str(func) and "backward" not in str(func):
            self.counts.append(len(args[1]))
        return func(*args, **(kwargs or {}))


FULL = ("none", "avg3", "avg5", "avg7", "max3", "max5", "max7", "global")


@pytest.mark.parametrize(
    ("candidates", "out", "fused"),
    [
        (FULL, ["max3"], [6]),
        (FULL, ["global", "none"], [6]),
        (FULL, ["avg3", "avg5", "avg7", "max3", "max5"], [2]),
        (FULL, ["avg3", "avg5", "avg7", "max3", "max5", "max7"], []),
        (("none", "se", "global", "max5"), ["se"], [2]),
        (("none", "se", "global", "max5"), ["max5", "global"], []),
    ],
)
def test_the_mixture_is_that_of_the_candidates_that_are_left(candidates: Any, out: list[str], fused: list[int]) -> None:
    torch.manual_seed(0)
    module = supernet(CentrePixel(candidates=",".join(candidates)), PMPL())
    layer, left = module.model.layer, [i for i, name in enumerate(candidates) if name not in out]
    with torch.no_grad():
        layer._arch_alpha.normal_()
    pi = layer._arch_alpha.detach()[left].softmax(0)  # of the rest, by itself
    x = torch.randn(3, 8, 9, 7)
    expected = sum(p * layer[candidates[i]].train()(x) for p, i in zip(pi, left, strict=True))
    for name in out:
        module.exclude(LABEL, name)
        for parameter in layer[name].parameters():
            parameter.data.fill_(torch.nan)  # whoever computes it, notices
    assert [module.probabilities()[LABEL][name] for name in out] == [0.0] * len(out)
    calls: list[int] = []
    for name in out:
        layer[name].register_forward_hook(lambda *_: calls.append(1))
    with _Terms() as terms:
        found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (terms.counts, calls) == (fused, [])
    found.sum().backward()
    assert layer._arch_alpha.grad.isfinite().all()
    assert all(p.grad is None for name in out for p in layer[name].parameters())


class _Sum(nn.Module):
    """Of both tensors."""

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        return inputs[0] + inputs[1]


def test_candidates_of_several_tensors_leave_too() -> None:
    class Space(CentrePixel):
        def __init__(self) -> None:
            super().__init__()
            of_one = {name: OnFirst(enhancer(name, 8)) for name in ("none", "avg3", "max3", "global")}
            self.layer = LayerChoice({**of_one, "sum": _Sum()}, label=LABEL)

    module = supernet(Space(), PMPL())
    layer, both = module.model.layer, (torch.randn(2, 8, 5, 5), torch.randn(2, 8, 5, 5))
    for gone in ("avg3", "global", "none"):
        module.exclude(LABEL, gone)
        left = [name for name in layer.names if name not in layer.excluded]
        expected = torch.stack([layer[name](both) for name in left])
        pi = layer._arch_alpha.detach()[[name in left for name in layer.names]].softmax(0)
        torch.testing.assert_close(layer(both), torch.einsum("k,k...->...", pi, expected))


@pytest.mark.parametrize("strategy", [PMPL(eta=0.1), DARTS(eta=0.1)], ids=["pmpl", "darts with weight decay"])
def test_an_excluded_candidate_stands_still_and_never_comes_back(strategy: Any) -> None:
    seen: list[dict[str, Tensor]] = []

    class Spy(strategy.module_class):  # type: ignore[misc, name-defined]
        def after_step(self) -> None:
            if self.steps == 6:  # late enough for momentum
                self.exclude(LABEL, "global")
                self.exclude(LABEL, "avg3")

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            assert all(p.isfinite().all() for p in self.parameters())
            if self.steps >= 6:
                assert [self.probabilities()[LABEL][name] for name in ("avg3", "global")] == [0.0, 0.0]
                state = self.model.layer.state_dict()
                seen.append({n: v.detach().clone() for n, v in state.items()})

    strategy.module_class = Spy
    data = {"batch_size": 2, "train_images": 120, "meta_fraction": 0.5}
    evaluator = Classification(dataset="tests.toys:Distant", data=data, stage="search", epochs=6, device="cpu")
    module = search(strategy, CentrePixel(candidates="none,avg3,se,global"), evaluator)
    assert len(seen) == 6 * 30 - 5
    moved = {n for n in seen[0] if not torch.equal(seen[0][n], seen[-1][n])}
    assert not [n for n in moved if "global" in n]
    assert [n for n in moved if n.startswith("se.")]
    assert module.alphas[LABEL][[1, 3]].max() < -9000
    assert module.alphas[LABEL][[0, 2]].abs().max() < 100
    assert module.export()[LABEL] in {"none", "se"}


class Nested(ModelSpace):
    """A choice inside one of the candidates of another."""

    def __init__(self) -> None:
        super().__init__()
        inner = LayerChoice({"a": Scale(1.0), "b": Scale(2.0)}, label="inner")
        self.outer = LayerChoice({"one": inner, "two": Scale(3.0), "three": Scale(4.0)}, label="outer")

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(x)


def test_choices_inside_a_candidate_leave_with_it() -> None:
    module = supernet(Nested(), PMPL())
    assert len(module.open_alphas()) == 2
    module.exclude("outer", "one")
    assert [id(a) for a in module.open_alphas()] == [id(module.alphas["outer"])]
    learning = {n.rsplit(".", 2)[1] for n, p in module.named_parameters() if n.endswith("theta") and p.requires_grad}
    assert learning == {"two", "three"}


class Mixed(ModelSpace):
    """Choices of every kind that NNI mixes, and one with a single candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = LayerChoice({n: Scale(t) for n, t in zip("abc", (0.1, 0.2, 0.3), strict=True)}, label="layer")
        self.only = LayerChoice({"only": Scale(1.0)}, label="only")
        self.one, self.other = Scale(0.5), Scale(0.4)
        self.inputs = InputChoice(2, n_chosen=1, label="inputs")
        self.depth = Repeat(lambda _: Scale(1.1), nni.choice("depth", [1, 2, 3]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.only(self.layer(x))
        return self.depth(self.inputs([self.one(x), self.other(x)]))


BEST = {"layer": "c", "only": "only", "inputs": [0], "depth": 3}


def test_inputs_and_depths_are_decided_by_evidence_too() -> None:
    strategy = PMPL(fixing="evidence")
    module = scaled(strategy, space=Mixed())
    assert module.export() == next(strategy.list_models()).sample == BEST
    assert module.steps < 200  # a layer with one candidate keeps nothing open
    assert {label: d["by"] for label, d in module.decisions.items() if label != "only"} == dict.fromkeys(
        ("layer", "inputs", "depth"), "evidence"
    )
    assert module.probabilities()["inputs"] == {0: 1.0, 1: 0.0}
    assert module.decisions["depth"]["excluded"].keys() == {"1", "2"}
    out = module.decisions["layer"]["excluded"]
    assert out["a"]["step"] == out["b"]["step"]  # and π is of what is left afterwards
    assert module.decisions["layer"]["pi"] == {"a": 0.0, "b": 0.0, "c": 1.0}


@pytest.mark.parametrize(("rule", "inputs"), [("cheapest", [0]), ("largest_pi", [1])])
def test_undecided_inputs_are_a_list_as_nni_has_it(rule: Any, inputs: list[int]) -> None:
    class Prefers(DifferentiableModule):
        def architecture_gradient(self, train: Any, meta: Any, alphas: Any) -> list[Tensor]:
            return [-torch.arange(len(a)).to(a) for a in alphas]

    strategy = PMPL(fixing="evidence", undecided=rule)
    strategy.module_class = Prefers  # type: ignore[assignment]
    module = scaled(strategy, steps=10, space=Mixed())
    assert {d["by"] for label, d in module.decisions.items() if label != "only"} == {"undecided"}
    assert next(strategy.list_models()).sample["inputs"] == module.export()["inputs"] == inputs


@pytest.mark.parametrize("fixing", ["lead", "evidence"])
def test_a_choice_of_several_inputs_is_refused_where_one_is_left(fixing: Any) -> None:
    class Pairs(Mixed):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = InputChoice(3, n_chosen=2, label="inputs")

    with pytest.raises(OptionError, match="'inputs' takes several of its candidates"):
        scaled(PMPL(fixing=fixing), space=Pairs())


# Whole searches


@pytest.mark.parametrize("kind", [PMPL, DARTS])
def test_evidence_finds_the_planted_receptive_field(kind: Any) -> None:
    torch.manual_seed(0)
    data = {"batch_size": 2, "meta_fraction": 0.5}
    how: dict[str, Any] = {"stage": "search", "epochs": 2, "learning_rate": 0.005, "device": "cpu"}
    recipe = Classification(dataset="tests.toys:Checkerboard", data=data, **how)
    strategy = kind(fixing="evidence", eta=0.01)
    module = search(strategy, CentrePixel(candidates="none,avg3,avg5"), recipe)
    told = Decision(**module.decisions[LABEL])
    assert (told.by, told.survivors) == ("evidence", ["none"])
    assert module.export() == {LABEL: "none"}
    assert module.steps == told.step < 2 * 128  # all is decided: the search is over
    assert told.excluded.keys() == {"avg3", "avg5"}
    assert max(out.step for out in told.excluded.values()) == told.step
    assert all(out.by not in told.excluded or told.excluded[out.by].step >= out.step for out in told.excluded.values())
    assert all(out.odds >= 1 / 0.05 for out in told.excluded.values())
    assert told.pi == pytest.approx({"none": 1.0, "avg3": 0.0, "avg5": 0.0})
    assert strategy.numbers == {"decided_by_evidence": 1, "excluded_by_evidence": 2}


def test_what_stays_open_says_who_is_left_and_what_it_would_take() -> None:
    strategy = PMPL(fixing="evidence", undecided="largest_pi", eta=0.01)
    module = scaled(strategy, space=Waves(thetas=(0.0, 3.0, 3.05, 3.1)))
    told = Decision(**module.decisions["layer.scale"])
    assert (told.by, told.step, module.steps) == ("undecided", 200, 200)
    assert set(told.survivors) | told.excluded.keys() == set(NAMES)
    assert told.excluded.keys() == {"first"}
    assert len(told.halves) == 2
    assert told.doubt is not None
    assert {told.doubt.best, told.doubt.rival} < set(told.survivors)
    assert told.doubt.steps == 180
    assert told.pi is not None
    assert module.export() == {"layer.scale": max(told.pi, key=told.pi.__getitem__)}
    assert strategy.numbers == {"decided_by_evidence": 0, "excluded_by_evidence": 1}


def test_what_is_taken_of_undecided_candidates_is_the_cheapest_or_the_likeliest() -> None:
    module = supernet(CentrePixel(), PMPL())
    pi = {name: float(i) for i, name in enumerate(FULL)}
    order = ["none", "avg3", "max3", "avg5", "max5", "avg7", "max7", "global"]
    for at in range(len(order)):
        left = sorted(order[at:], key=FULL.index)
        assert pick("cheapest", LABEL, left[::-1], pi, module.model) in {order[at], order[at].replace("avg", "max")}
        assert pick("cheapest", LABEL, left, pi, module.model) == order[at]
        assert pick("largest_pi", LABEL, left, pi, module.model) == "global"


def test_few_images_decide_nothing_however_often_they_are_seen() -> None:
    evaluator = squared_error(pairs(10), pairs(10), 1e-6, epochs=15)
    module = search(PMPL(fixing="evidence", eta=0.01), TwoScales(THETAS), evaluator)
    told = module.decisions["layer.scale"]
    assert (told["by"], told["step"], told["survivors"]) == ("undecided", 150, NAMES)


def test_meta_batches_that_are_shuffled_anew_are_no_evidence() -> None:
    """Nobody could tell which images a batch has again."""

    def shuffled() -> Any:
        ordered = pairs(20)
        return DataLoader(ordered.dataset, batch_size=1, shuffle=True)

    with pytest.raises(OptionError, match="the same meta batches in every pass"):
        search(PMPL(fixing="evidence"), TwoScales(THETAS), squared_error(pairs(20), shuffled(), 1e-6))
    module = search(DARTS(eta=0.05), TwoScales(THETAS), squared_error(pairs(20), shuffled(), 1e-6))
    assert module.decisions["layer.scale"]["by"] == "limit"


def test_the_number_of_a_meta_batch_stands_for_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[int, set[tuple[int, ...]]] = {}
    labels: list[tuple[int, ...]] = []
    gradient, observe = PMPL.module_class.architecture_gradient, Evidence.observe

    def watched(self: Any, train: Any, meta: Any, alphas: Any) -> Any:
        labels.append(tuple(meta[1].tolist()))
        return gradient(self, train, meta, alphas)

    def told(self: Any, gradients: Any, alphas: Any, late: bool, batch: int, step: int) -> Any:
        seen.setdefault(batch, set()).add(labels[-1])
        return observe(self, gradients, alphas, late, batch, step)

    monkeypatch.setattr(PMPL.module_class, "architecture_gradient", watched)
    monkeypatch.setattr(Evidence, "observe", told)
    settings = {"preset": "quick", "dataset": "digits", "device": "cpu", "epochs": 3, "train_images": 400}
    options = {"fixing": "evidence", "warmup_epochs": 1}
    settings |= {"strategy": "pmpl", "strategy_options": options, "space_options": {"width": 0.1}, "batch_size": 16}
    prepare(resolve_config(settings)).strategy.run()
    assert len(seen) == 5  # of 80 meta images
    assert all(len(found) == 1 for found in seen.values())
    assert len(set.union(*seen.values())) == 5
    assert len(labels) == 2 * (320 // 16)


def test_without_evidence_nothing_of_it_happens() -> None:
    """DARTS keeps every candidate to the end, and PMPL fixes by its lead."""
    darts, lead = scaled(DARTS(eta=0.05)), scaled(PMPL(eta=0.05))
    told = darts.decisions["layer.scale"]
    assert (told["by"], told["step"], lead.decisions["layer.scale"]["by"]) == ("limit", 200, "threshold")
    for decision in (told, lead.decisions["layer.scale"]):
        assert not decision.keys() & {"survivors", "excluded"}
    assert not darts.fixed
    assert min(darts.probabilities()["layer.scale"].values()) > 0


def test_a_search_that_is_interrupted_decides_as_if_it_had_not_been(tmp_path: Path) -> None:
    def searched(folder: Path, **fit: Any) -> Any:
        saving = ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)
        how: dict[str, Any] = {"epochs": 5, "callbacks": [saving], "enable_checkpointing": True}
        evaluator = squared_error(pairs(320), pairs(320), 1e-6, limit_train_batches=60, **how)
        evaluator.fit_kwargs = fit
        torch.manual_seed(0)
        return search(PMPL(fixing="evidence", eta=0.01), Waves(thetas=(0.0, 2.0, 3.6, 4.7)), evaluator)

    whole = searched(tmp_path / "whole")
    out = whole.decisions["layer.scale"]["excluded"]
    assert out["first"]["step"] < 60 < out["second"]["step"]
    checkpoint = tmp_path / "whole" / "epoch=0.ckpt"
    again = searched(tmp_path / "again", ckpt_path=str(checkpoint), weights_only=True)
    (one,), (other,) = whole.decisions.values(), again.decisions.values()
    assert one["pi"] == pytest.approx(other["pi"], rel=1e-4)
    assert again.model.layer.excluded == whole.model.layer.excluded == {"first", "second"}
    for told in (
        one,
        other,
    ):  # a search in float64 is loaded in float32, and its odds are not the same to the last digit
        told["excluded"] = {k: {**out, "odds": round(out["odds"], 2)} for k, out in told["excluded"].items()}
        told["doubt"] = {k: round(v, 4) if isinstance(v, float) else v for k, v in told["doubt"].items()}
    assert {**one, "pi": None, "train_loss": None} == {**other, "pi": None, "train_loss": None}


def test_a_search_that_can_decide_nothing_says_so_beforehand() -> None:
    for kind in (PMPL, DARTS):
        strategy = kind(fixing="evidence")
        module = supernet(CentrePixel(), strategy)
        strategy.meta_batches = 10
        assert "no layer can be decided, not even if a candidate wins all 500 steps on 10" in module.outlook(500)
        strategy.meta_batches = 300
        assert module.outlook(500) is None
        assert "wins all 30 steps" in module.outlook(30)
        strategy.fixing = "none"
        assert DifferentiableModule.outlook(module, 30) is None
