"""A data set: training and test images in memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from nasbench.data.base import Augmentation
from nasbench.data.memory import InMemoryData


class Stripes(InMemoryData):
    """Stripes along or across, made up on the spot."""

    name = "stripes"
    native_size = 16
    augmentation = Augmentation(padding=2)

    def read(self) -> Any:
        rng = np.random.default_rng(0)  # the same images whatever the run's seed
        labels = rng.integers(0, 2, 600)
        waves = 128 + 60 * np.sin(np.arange(16) * 2 * np.pi / 4 + rng.uniform(0, 6, (600, 1)))
        across = np.repeat(waves[:, None, :], 16, axis=1)
        images = np.where(labels[:, None, None] == 0, across, across.transpose(0, 2, 1))
        images = (images + rng.normal(0, 30, images.shape)).clip(0, 255).astype(np.uint8)
        return images[:500], labels[:500], images[500:], labels[500:], ["across", "along"]
