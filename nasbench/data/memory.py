import hashlib
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from nasbench.data.base import ImageData, Indices, Parts
from nasbench.data.preparation import resized
from nasbench.errors import DataError


def repeated(train: NDArray[np.uint8], test: NDArray[np.uint8]) -> int:
    """How many of the `train` images (N, …) are, pixel by pixel, among the `test` images (M, …)."""
    if train.shape[1:] != test.shape[1:]:
        return 0
    known, images = ([hashlib.blake2b(i.tobytes(), digest_size=16).digest() for i in part] for part in (test, train))
    return sum(map(set(known).__contains__, images))


class InMemoryData(ImageData):
    """Base of small sets: all images stay in memory as one uint8 tensor."""

    @abstractmethod
    def read(self) -> Parts:
        """Read training images (N, H, W[, C]) uint8, their labels, the same for the test, and names; or DataError."""

    def load(self) -> None:
        """Read, check, resize and normalise; see `ImageData.load`."""
        train, train_labels, test, test_labels, names = self.read()
        self._images = {"train": self._prepare(train, "training"), "test": self._prepare(test, "test")}
        self._repeated = repeated(train, test)
        if self._repeated:
            self.notes.append(f"training images that are test images, too: {self._repeated:,}")
        channels = [images.shape[-1] for images in self._images.values()]
        if len(set(channels)) > 1:
            raise DataError(f"{self.name}: training images have {channels[0]} channel(s), test images {channels[1]}")
        # Every class has a training image: no label reaches their number, and nothing larger is ever made of one.
        bound = len(train) if names is None else len(names)
        self.train_labels = self._check_labels(train_labels, len(train), bound, "training")
        self.test_labels = self._check_labels(test_labels, len(test), bound, "test")
        numbers = range(int(max(self.train_labels.max(), self.test_labels.max())) + 1)
        self.class_names = [str(c) for c in (numbers if names is None else names)]
        pixels = self._images["train"].numpy()
        # Sums in whole numbers: exact, and no float copy of the whole set.
        counts = [np.bincount(pixels[..., c].reshape(-1), minlength=256) for c in range(pixels.shape[-1])]
        levels = np.arange(256) / 255
        self.mean = tuple(float((n * levels).sum() / n.sum()) for n in counts)
        variances = [(n * (levels - m) ** 2).sum() / n.sum() for n, m in zip(counts, self.mean, strict=True)]
        self.std = tuple(max(float(np.sqrt(v)), 1 / 255) for v in variances)

    def description(self) -> dict[str, Any]:
        """See `ImageData.description`; with the number of training images that are test images, too."""
        return {**super().description(), "training_images_in_test": self._repeated}

    def training_loader(self, indices: Indices, shuffle: bool) -> DataLoader[Any]:
        """See `ImageData.training_loader`."""
        return self._loader(self._images["train"][torch.from_numpy(indices)], self.train_labels[indices], shuffle)

    def test_dataloader(self) -> DataLoader[Any]:
        """See `ImageData.test_dataloader`."""
        self.setup()
        return self._loader(self._images["test"], self.test_labels, False)

    def _loader(self, images: Tensor, labels: Indices, shuffle: bool) -> DataLoader[Any]:
        dataset = TensorDataset(images, torch.from_numpy(labels))
        return DataLoader(dataset, sampler=self.batches(len(images), shuffle), batch_size=None)

    def _prepare(self, images: NDArray[Any], what: str) -> Tensor:
        if images.ndim == 3:
            images = images[..., None]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
            raise DataError(
                f"{self.name}: {what} images must be uint8 of shape (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
                f"not {images.dtype} of shape {images.shape}"
            )
        if not images.size:
            raise DataError(f"{self.name}: there are no {what} images: their shape is {images.shape}")
        height, width = images.shape[1:3]
        if height != width:
            self.notes.append(f"{what} images {width}×{height}, resized to {self.image_size}×{self.image_size}")
        return resized(torch.from_numpy(np.ascontiguousarray(images)), self.image_size)

    def _check_labels(self, labels: NDArray[Any], images: int, classes: int, what: str) -> Indices:
        flat = np.asarray(labels).reshape(-1)
        if len(flat) != images:
            raise DataError(f"{self.name}: {images} {what} images, but {len(flat)} labels")
        whole = np.issubdtype(flat.dtype, np.integer)
        if not whole or flat.min() < 0 or flat.max() >= classes:
            found = f"{flat.min()} to {flat.max()}" if whole else "text" if flat.dtype.kind in "US" else str(flat.dtype)
            raise DataError(
                f"{self.name}: {what} labels must be whole numbers from 0 to {classes - 1} of an integer type, "
                f"not {found}"
            )
        return flat.astype(np.int64)
