"""Small spaces, data sets and evaluators whose right answers are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from nni.nas.evaluator.pytorch import DataLoader, Lightning, LightningModule, Trainer
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nasbench.data.base import Augmentation
from nasbench.data.memory import InMemoryData
from nasbench.spaces.operations.enhancers import candidate_names, enhancer


class Scale(nn.Module):
    """θ · x."""

    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta))

    def forward(self, x: Tensor) -> Tensor:
        return self.theta * x


class TwoScales(ModelSpace):
    """Σ_k π_k θ_k x with two candidates."""

    def __init__(self, thetas: tuple[float, ...] = (0.7, -0.4)) -> None:
        super().__init__()
        names = ["first", "second", "third", "fourth"][: len(thetas)]
        self.layer = LayerChoice({n: Scale(t) for n, t in zip(names, thetas, strict=True)}, label="layer.scale")

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class SquaredError(LightningModule):
    """½ (output − target)² of single numbers, plain SGD."""

    def __init__(self, learning_rate: float, momentum: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, target = batch
        return 0.5 * (self.model(x) - target).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            self.model.parameters(), self.hparams["learning_rate"], momentum=self.hparams["momentum"]
        )


def numbers(pairs: list[tuple[float, float]]) -> Any:
    """A loader of one (x, target) pair a batch, in float64."""
    x, target = (torch.tensor(column, dtype=torch.float64) for column in zip(*pairs, strict=True))
    return DataLoader(torch.utils.data.TensorDataset(x, target), batch_size=1)


def squared_error(train: Any, meta: Any, learning_rate: float, epochs: int = 1, **trainer: Any) -> Lightning:
    """An evaluator of `SquaredError` in float64."""
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "precision": "64-true"}
    return Lightning(
        SquaredError(learning_rate),
        Trainer(max_epochs=epochs, accelerator="cpu", **{**options, "enable_checkpointing": False, **trainer}),
        train_dataloaders=train,
        val_dataloaders=meta,
    )


class CentrePixel(ModelSpace):
    """1×1 conv → one Meta-Pooling choice → the centre pixel → linear: nothing else widens the receptive field."""

    def __init__(self, num_classes: int = 2, candidates: str = "full") -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.layer = LayerChoice(
            {name: enhancer(name, 8) for name in candidate_names(candidates)}, label="layer.enhancer"
        )
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer(self.stem(x))
        return self.head(features[:, :, features.shape[2] // 2, features.shape[3] // 2])


class _Planted(InMemoryData):
    name = "planted"
    native_size = 9
    augmentation = Augmentation()
    images = 640

    def draw(self, rng: np.random.Generator, labels: Any) -> Any:
        raise NotImplementedError

    def read(self) -> Any:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, self.images)
        images = self.draw(rng, labels).clip(0, 255).astype(np.uint8)
        half = self.images - 128
        return images[:half], labels[:half], images[half:], labels[half:], ["a", "b"]


class Distant(_Planted):
    """The label is carried by pixels three away from the centre, in its row and column."""

    def draw(self, rng: np.random.Generator, labels: Any) -> Any:
        images = rng.normal(60, 6, (self.images, 9, 9, 3))
        for dy, dx in ((0, 3), (0, -3), (3, 0), (-3, 0)):
            images[np.arange(self.images), 4 + dy, 4 + dx, labels] += 150
        return images


class Checkerboard(_Planted):
    """The label is the sign of a pixel-wide checkerboard: averaging wipes it out."""

    def draw(self, rng: np.random.Generator, labels: Any) -> Any:
        board = 1.0 - 2.0 * (np.add.outer(np.arange(9), np.arange(9)) % 2)
        sign = 1.0 - 2.0 * labels
        return 128 + 40 * (sign[:, None, None] * board)[..., None] + rng.normal(0, 20, (self.images, 9, 9, 3))


class Broken(ModelSpace):
    """A space whose constructor fails."""

    def __init__(self) -> None:
        super().__init__()
        raise RuntimeError("no such weights")
