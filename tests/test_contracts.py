"""Parts written from `nasbench.contracts` alone, on none of our classes, go through a whole run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nni
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.strategy import Strategy
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nasbench.networks import load_model
from nasbench.pipeline import run
from nasbench.presets import resolve_config


class Bright(LightningDataModule):
    """Is the image bright?"""

    num_classes, image_size, batch_size = 2, 4, 8

    def _loader(self, seed: int) -> Any:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (32,), generator=generator)
        images = torch.randn(32, 3, 4, 4, generator=generator) + 4.0 * labels.view(-1, 1, 1, 1)
        return DataLoader(TensorDataset(images, labels), batch_size=self.batch_size)

    def train_dataloader(self) -> Any:
        return self._loader(0)

    def val_dataloader(self) -> Any:
        return self._loader(1)

    def test_dataloader(self) -> Any:
        return self._loader(2)

    def summary(self) -> str:
        return "2 classes, made up"

    def description(self) -> dict[str, Any]:
        return {"class_names": ["dark", "bright"], "image_size": 4, "mean": [0.0] * 3, "std": [1.0] * 3}


class Two(ModelSpace):
    """Average or maximum."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.pool = LayerChoice({"average": nn.AdaptiveAvgPool2d(1), "maximum": nn.AdaptiveMaxPool2d(1)}, label="pool")
        self.head = nn.Linear(3, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(x).flatten(1))


class PlainModule(LightningModule):
    """Cross-entropy by Adam."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_top1", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("top1", (self.model(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.model.parameters(), 0.1)

    def on_fit_end(self) -> None:
        if nni.get_current_parameter() is not None:
            nni.report_final_result(float(self.trainer.callback_metrics["val_top1"]))


@nni.trace
class Plain(Lightning):
    """The protocol, and nothing more."""

    def __init__(self, epochs: int = 1) -> None:
        self.epochs, self.callbacks = epochs, []
        super().__init__(PlainModule(), self._new_trainer(), datamodule=Bright())

    def _new_trainer(self) -> Any:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=self.epochs, callbacks=list(self.callbacks), enable_checkpointing=False, **quiet)

    def observe(self, callbacks: Any) -> None:
        self.callbacks.extend(callbacks)

    def evaluate(self, model: nn.Module) -> Any:
        self.module, self.trainer = PlainModule(), self._new_trainer()
        return super().evaluate(model)

    def test(self) -> dict[str, Any]:
        (values,) = self.trainer.test(self.module, datamodule=self.datamodule, verbose=False)
        return {"top1": values["top1"], "top5": None, "loss": 0.0}


class Both(Strategy):
    """Tries whatever comes, as long as there is budget."""

    def _run(self) -> None:
        for candidate in ("average", "maximum"):
            if self.engine.budget_available():
                self.engine.submit_models(self.model_space.freeze({"pool": candidate}))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


def test_a_run_of_parts_that_keep_the_contracts_and_derive_from_none_of_ours(tmp_path: Path) -> None:
    here = {
        part: f"{__name__}:{name}" for part, name in (("space", "Two"), ("strategy", "Both"), ("evaluator", "Plain"))
    }
    done = run(resolve_config({**here, "preset": "quick", "epochs": 2, "retrain_epochs": 6, "device": "cpu"}), tmp_path)
    assert done.status().state == "finished"
    assert done.result().top1 > 0.8
    assert load_model(done.path, trust=True)(torch.zeros(1, 3, 4, 4)).shape == (1, 2)
