"""The general evaluator: losses of one's own."""

from __future__ import annotations

from typing import Any

import nni
import pytest
import torch
from torch import Tensor, nn

from nasbench import registry
from nasbench.evaluators.classification import Classification, ClassificationModule, accuracies
from nasbench.evaluators.distillation import OnlineDistillation
from nasbench.spaces.operations.liftdown import LiftDownPool

DATA = {"image_size": 8, "train_images": 64, "batch_size": 16}


class ScaledModule(ClassificationModule):
    """A loss of somebody else's."""

    def __init__(self, num_classes: int, scale: float, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.scale = scale

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self(images)
        return self.scale * logits.square().mean(), {"largest": logits.detach().max()}


@nni.trace
class Scaled(Classification):
    """Its evaluator."""

    module_class = ScaledModule

    def __init__(self, scale: float = 1.0, **options: Any) -> None:
        self.scale = scale
        super().__init__(**options)

    def module_options(self, data: Any) -> dict[str, Any]:
        return {"scale": self.scale}


def test_a_loss_of_one_s_own_is_trained_and_its_numbers_are_logged() -> None:
    made = Scaled(scale=2.0, data=DATA, epochs=1, device="cpu")
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    made.evaluate(network)
    assert made.module.scale == 2.0
    assert {"train_loss", "train_largest", "val_top1"} <= made.trainer.callback_metrics.keys()
    assert "train_top1" not in made.trainer.callback_metrics


def test_the_losses_of_modules_are_added_to_any_loss() -> None:
    module = Scaled(scale=0.0, data=DATA, device="cpu").module
    module.log_training = lambda *args, **kwargs: None
    pool = LiftDownPool(3)
    module.set_model(nn.Sequential(pool, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 10)))
    images = torch.randn(4, 3, 8, 8)
    expected = 0.0
    low, high = pool.horizontal(images)
    for step, source in ((pool.horizontal, images), (pool.vertical_low, low), (pool.vertical_high, high)):
        update, predict = step.penalties(source, *step(source))
        expected += pool.update_weight * update.item() + pool.predict_weight * predict.item()
    loss = module.training_step((images, torch.arange(4)), 0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert expected > 0.01


def test_a_training_step_of_one_s_own_is_refused() -> None:
    with pytest.raises(TypeError, match="Own defines training_step: define loss"):
        type("Own", (ClassificationModule,), {"training_step": lambda self, batch, batch_idx: None})


def test_options_that_are_handed_on_are_known_by_name_and_type() -> None:
    inherited = registry.parameters(Classification)
    assert registry.parameters(OnlineDistillation).keys() - inherited.keys() == {
        *("students", "teacher", "temperature", "distillation_weight", "teacher_weight")
    }
    assert registry.parameters(OnlineDistillation).keys() > inherited.keys()


def test_top5_is_measured_from_ten_classes_on() -> None:
    assert list(accuracies(9)) == ["top1"]
    assert list(accuracies(10)) == ["top1", "top5"]
