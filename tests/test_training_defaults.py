"""The learning rate over a training, and its end."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from torch import nn

from nasbench.architecture import instantiate, resolve
from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.evaluators.distillation import OnlineDistillation
from nasbench.presets import resolve_config
from nasbench.rehearsal import rehearse
from nasbench.spaces.cheap_resnet import CheapResNet

DATA = {"image_size": 8, "train_images": 64, "batch_size": 16}
TINY: dict[str, Any] = {**DATA, "space_options": {"width": 0.05}, "device": "cpu", "architecture": "none"}


class Rates(Callback):
    """The learning rate with which each step is taken."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: Any, *arguments: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


class WithoutPresets(Classification):
    """An evaluator whose learning rate is for whatever batch there is."""

    presets: ClassVar = {}

    def __init__(self, learning_rate: float = 0.03, **options: Any) -> None:
        super().__init__(learning_rate=learning_rate, **options)


class Epochs(Callback):
    """What was measured after each epoch, and with which weights."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.weights: list[torch.Tensor] = []

    def on_validation_batch_start(self, trainer: Any, module: Any, *arguments: Any) -> None:
        self._measured = next(module.model.parameters()).detach().clone()

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val_loss"]))
        self.accuracies.append(float(trainer.callback_metrics["val_top1"]))
        self.weights.append(self._measured)


PLAIN = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
# Steps that are far too long, and ever longer: the held-out loss goes up and down.
RESTLESS: dict[str, Any] = {"learning_rate": 5.0, "momentum": 0.0, "warmup_epochs": 6}


def build() -> CheapResNet:
    return CheapResNet(depth=8, width=0.25, image_size=8, num_classes=10)


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))


@pytest.mark.parametrize("warm", [0, 1, 4])
@pytest.mark.parametrize("milestones", [None, [0.5, 0.75]])
def test_every_step_has_the_learning_rate_of_the_definition(warm: int, milestones: list[float] | None) -> None:
    made = Classification(
        data=DATA, epochs=6, device="cpu", learning_rate=0.3, warmup_epochs=warm, milestones=milestones
    )
    rates = Rates()
    made.observe([rates])
    made.evaluate(network())
    steps = len(rates.seen)
    rising = warm * steps // 6
    assert steps % 6 == 0
    assert rising == warm * made.trainer.num_training_batches
    expected = [0.3 * step / rising for step in range(rising)]
    for step in range(steps - rising):
        share = step / (steps - rising)
        fallen = (1 + math.cos(math.pi * share)) / 2
        if milestones is not None:
            fallen = 0.1 ** sum(step >= round(m * (steps - rising)) for m in milestones)
        expected.append(0.3 * fallen)
    assert rates.seen == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_only_the_retraining_warms_up() -> None:
    made = Classification(data=DATA, epochs=1, device="cpu", stage="search", warmup_epochs=3)
    assert made.module.hparams["warmup_epochs"] == 0
    assert OnlineDistillation(data=DATA, epochs=4, device="cpu", warmup_epochs=3).module.hparams["warmup_epochs"] == 3
    with pytest.raises(OptionError, match="warmup_epochs 4 leave nothing of 4 epochs of retraining"):
        Classification(data=DATA, epochs=4, device="cpu", warmup_epochs=4)


def test_a_warm_up_can_be_tried_beforehand() -> None:
    options = {"evaluator_options": {"warmup_epochs": 5}}
    assert rehearse(resolve_config({**TINY, **options, "retrain_epochs": 9})).seconds["retrain"] > 0


@pytest.mark.parametrize(
    ("given", "rate", "said"),
    [
        ({}, 0.05, []),
        ({"batch_size": 64}, 0.05, []),
        ({"batch_size": 128}, 0.1, ["learning rate 0.05 scaled to 0.1 for batch 128"]),
        ({"batch_size": "16"}, 0.0125, ["learning rate 0.05 scaled to 0.0125 for batch 16"]),
        ({"batch_size": 128, "evaluator_options": {"learning_rate": 0.05}}, 0.05, []),
        ({"batch_size": 128, "evaluator_options": {"momentum": 0.8}}, 0.1, ["0.1 for batch 128"]),
        ({"batch_size": 32, "preset": "cifar"}, 0.025, ["0.1 scaled to 0.025"]),
        ({"batch_size": 32, "preset": "finetune"}, 0.01, []),
        ({"batch_size": 256, "preset": "paper", "evaluator": "online_distillation"}, 0.2, ["0.1 scaled to 0.2"]),
        ({"batch_size": 128, "strategy_options": {"zeta": 0.3}}, 0.1, ["0.1 for batch 128"]),
        ({"batch_size": 128, "evaluator": "tests.test_training_defaults:WithoutPresets"}, 0.03, []),
    ],
)
def test_the_learning_rate_of_a_preset_is_for_its_batch(given: dict[str, Any], rate: float, said: list[str]) -> None:
    lines: list[str] = []
    config = resolve_config({"preset": "quick", **given}, lines.append)
    assert config.evaluator_options["learning_rate"] == rate
    assert config.strategy_options["zeta"] == given.get("strategy_options", {}).get("zeta")
    assert len(lines) == len(said)
    assert all(expected in line for expected, line in zip(said, lines, strict=True))
    assert resolve_config(config.model_dump(mode="json"), lines.append) == config  # nothing is scaled twice
    assert len(lines) == len(said)


def expected_end(losses: list[float], patience: int) -> int:
    """The epoch, from 1, after which a training ends by definition."""
    for epoch in range(1, len(losses) + 1):
        if epoch - 1 - min(range(epoch), key=losses.__getitem__) >= patience:
            return epoch
    return len(losses)


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize("kind", [Classification, OnlineDistillation])
def test_a_training_ends_in_time_with_the_weights_of_its_best_epoch(kind: Any, ema: float | None) -> None:
    ends = set()
    for patience in (None, 1, 7):
        seed_everything(0, verbose=False)
        options = {"students": 2} if kind is OnlineDistillation else {}
        made = kind(data=DATA, epochs=7, device="cpu", early_stopping=patience, ema=ema, **RESTLESS, **options)
        seen = Epochs()
        made.observe([seen])
        net = instantiate(build, resolve(build(), "shift"))
        made.evaluate(net)
        final = next(net.parameters()).detach()
        if patience is None:
            losses = seen.losses
            assert final.equal(seen.weights[-1])
            assert made.numbers == {}
            continue
        end = expected_end(losses, patience)
        ends.add(end)
        assert seen.losses == losses[:end]
        best = min(range(end), key=losses.__getitem__)
        assert best != end - 1
        assert made.numbers == {"epochs": end, "best_epoch": best + 1}
        if kind is Classification:
            assert final.equal(seen.weights[best])
        else:
            held_out = {name: value for name, value in made._held_out.items() if name != "teacher"}
            assert held_out[made.module.names[0]] == max(held_out.values()) == seen.accuracies[best]
        (again,) = PLAIN.validate(made.module, datamodule=made.datamodule, verbose=False)
        assert again["val_loss"] == pytest.approx(losses[best], rel=1e-6)
    assert len(ends) > 1
