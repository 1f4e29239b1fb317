"""The learning rate over a training."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
from pytorch_lightning import Callback
from torch import nn

from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.evaluators.distillation import OnlineDistillation
from nasbench.presets import resolve_config
from nasbench.rehearsal import rehearse

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
