"""Image sets of one folder a class, read from disk as they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from nasbench.data.base import ImageData, Indices, stratified
from nasbench.errors import DataError

RESIZE_RATIO = 256 / 224  # ImageNet's usual evaluation: shorter side to 256, then the central 224


class _Batches(Dataset[Any]):
    """Pictures, read a batch at a time."""

    def __init__(self, pictures: Any) -> None:
        self.pictures = pictures

    def __getitem__(self, indices: Any) -> Any:
        return default_collate([self.pictures[i] for i in indices])

    def __len__(self) -> int:
        return len(self.pictures)


class ImageFolder(ImageData):
    """Your own pictures: `ROOT/train/CLASS/*.jpg` and `ROOT/test/CLASS/*.jpg` (or `val`).

    Without these two folders, `ROOT/CLASS/*` is read and a fixed stratified fifth of it is the test set. Training
    pictures are cropped at random (RandomResizedCrop, scale 0.08–1) and mirrored, test pictures centrally cropped.
    """

    name = "imagefolder"
    native_size = 224
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def load(self) -> None:
        """Index the folders; see `ImageData.load`."""
        from torchvision import transforms
        from torchvision.datasets import ImageFolder as Folder

        self.mean, self.std = type(self).mean, type(self).std
        size = self.image_size
        augmented = transforms.Compose(
            [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), _to_tensor]
        )
        plain = transforms.Compose(
            [transforms.Resize(round(size * RESIZE_RATIO)), transforms.CenterCrop(size), _to_tensor]
        )
        root = self._folder()
        test_root = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
        split = (root / "train").is_dir() and test_root is not None
        try:
            if split and test_root is not None:
                self._train, self._train_plain = (Folder(str(root / "train"), t) for t in (augmented, plain))
                self._test: Any = Folder(str(test_root), plain)
                if self._test.classes != self._train.classes:
                    raise DataError(f"{self.name}: {root / 'train'} and {test_root} have different classes")
                self._kept: Indices = np.arange(len(self._train.targets))
            else:
                self._train, self._train_plain = (Folder(str(root), t) for t in (augmented, plain))
                self._kept, test = stratified(np.array(self._train.targets), 0.2)
                self._test = Subset(self._train_plain, test.tolist())
        except FileNotFoundError as e:
            raise DataError(f"{self.name}: {root}: {e}") from e
        self.class_names = list(self._train.classes)

    def _folder(self) -> Path:
        if self.data_root is None or not self.data_root.is_dir():
            raise DataError(
                f"{self.name}: the folder {self.data_root} does not exist; give one with --data-root "
                "(train/CLASS/* and test/CLASS/* inside)"
            )
        return self.data_root

    @property
    def train_labels(self) -> NDArray[np.int64]:
        """(N,) classes of all training images."""
        return np.array(self._train.targets)[self._kept]

    def training_loader(self, indices: Indices, shuffle: bool) -> DataLoader[Any]:
        """See `ImageData.training_loader`."""
        chosen = self._kept[indices].tolist()
        return self._loader(Subset(self._train if shuffle else self._train_plain, chosen), shuffle)

    def test_dataloader(self) -> DataLoader[Any]:
        """See `ImageData.test_dataloader`."""
        self.setup()
        return self._loader(self._test, False)

    def _loader(self, dataset: Any, shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            _Batches(dataset),
            batch_size=None,
            sampler=self.batches(len(dataset), shuffle),
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )


class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012) as `ROOT/imagenet/train/WNID/*` and `val/WNID/*`, or the same directly in ROOT.

    It cannot be downloaded without an account: see torchvision's `ImageNet` for how to unpack the archives.
    """

    name = "imagenet"
    default_preset = "paper"

    def _folder(self) -> Path:
        root = self.data_root
        for folder in [] if root is None else [root / "imagenet", root]:
            if (folder / "train").is_dir() and (folder / "val").is_dir():
                return folder
        raise DataError(
            f"imagenet: neither {root}/imagenet nor {root} has the folders train/ and val/; get the ILSVRC 2012 "
            "archives from image-net.org, unpack them to one folder a class, and give --data-root or NASBENCH_DATA"
        )


def _to_tensor(picture: Any) -> Tensor:
    """A PIL picture as uint8 (H, W, 3); normalisation happens on the device."""
    return torch.from_numpy(np.array(picture.convert("RGB")))
