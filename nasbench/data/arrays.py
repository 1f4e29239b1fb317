from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from nasbench.data.base import SPLIT_NOTE, TEST_SHARE, Augmentation, Parts, stratified
from nasbench.data.memory import InMemoryData
from nasbench.errors import DataError, listed
from nasbench.registry import describe_exception


class Digits(InMemoryData):
    """Handwritten digits of scikit-learn (8×8 grey, 10 classes): embedded, nothing to download.

    1,797 images of the UCI test set "Optical Recognition of Handwritten Digits" (Alpaydin & Kaynak, 1998); a fixed
    stratified fifth is the test set. Resized to 16×16 unless another size is asked for.
    """

    name = "digits"
    native_size = 16
    augmentation = Augmentation(padding=1)
    default_preset = "quick"
    presets: ClassVar = {"quick": {"train_images": None}}  # its subset is meant for larger sets

    def read(self) -> Parts:
        """See `InMemoryData.read`."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        train, test = stratified(bunch.target, TEST_SHARE)
        self.notes.append(SPLIT_NOTE)
        names = [str(n) for n in bunch.target_names]
        return images[train], bunch.target[train], images[test], bunch.target[test], names


class FashionMNIST(InMemoryData):
    """Fashion-MNIST (28×28 grey, 10 kinds of clothing), in torchvision's layout."""

    name = "fashion_mnist"
    native_size = 28
    augmentation = Augmentation(padding=2, flip=True)

    def read(self) -> Parts:
        """See `InMemoryData.read`."""
        import torchvision

        train, test = _torchvision(self, torchvision.datasets.FashionMNIST, "FashionMNIST/raw/*-ubyte[.gz]")
        return train.data.numpy(), train.targets.numpy(), test.data.numpy(), test.targets.numpy(), train.classes


class CIFAR10(InMemoryData):
    """CIFAR-10 (32×32, 10 classes): torchvision's download, or `cifar10.npz` in Keras's convention."""

    name = "cifar10"
    native_size = 32
    augmentation = Augmentation(padding=4, flip=True)
    folder = "cifar-10-batches-py"

    def read(self) -> Parts:
        """See `InMemoryData.read`."""
        import torchvision

        archive = _root(self) / f"{self.name}.npz"
        if archive.is_file():
            return _read_npz(self.name, archive)
        source = getattr(torchvision.datasets, self.name.upper())
        train, test = _torchvision(self, source, f"{self.folder}/ or {archive.name}")
        return train.data, np.array(train.targets), test.data, np.array(test.targets), train.classes


class CIFAR100(CIFAR10):
    """CIFAR-100 (32×32, 100 fine classes): torchvision's download, or `cifar100.npz` in Keras's convention."""

    name = "cifar100"
    folder = "cifar-100-python"


class Arrays(InMemoryData):
    """Your own images in one `.npz`: `x_train y_train x_test y_test`, uint8, and optionally `class_names`.

    `--data-root` is the file itself, or a folder that holds exactly one. Images are square or get resized to
    `image_size`; without that option the side of the first image is kept.
    """

    name = "arrays"
    augmentation = Augmentation(padding=2, flip=True)

    def __init__(self, *, image_size: int | None = None, **options: Any) -> None:
        super().__init__(image_size=image_size, **options)
        self._keep_size = image_size is None

    def read(self) -> Parts:
        """See `InMemoryData.read`."""
        path = _root(self)
        files = [path] if path.is_file() else sorted(p for p in path.glob("*.npz") if p.is_file())
        if len(files) != 1:
            raise DataError(
                f"arrays: {path} holds {len(files)} .npz files; give the one to use as --data-root FILE.npz"
            )
        parts = _read_npz(self.name, files[0])
        if self._keep_size and parts[0].ndim >= 3:
            self.image_size = int(parts[0].shape[1])
            if not 4 <= self.image_size <= 4096:
                raise DataError(f"arrays: images of {self.image_size} pixels a side: give an image_size from 4 to 4096")
        return parts


def _root(data: InMemoryData) -> Path:
    if data.data_root is None or not data.data_root.exists():
        raise DataError(
            f"{data.name}: the data root {data.data_root} does not exist; give one with --data-root or NASBENCH_DATA"
        )
    return data.data_root


def _torchvision(data: InMemoryData, source: Any, expected: str) -> list[Any]:
    """The training and the test part of one of torchvision's sets."""
    if data.download and data.data_root is not None:
        data.data_root.mkdir(parents=True, exist_ok=True)
    root = _root(data)
    try:
        return [source(str(root), train=train, download=data.download) for train in (True, False)]
    except Exception as e:  # absent files are RuntimeErrors, damaged ones anything
        hint = "; fetch it with --download, or give another folder with --data-root or NASBENCH_DATA"
        reason = f"{'' if data.download else hint} ({' '.join(str(e).split())})"
        raise DataError(f"{data.name}: not found as {root}/{expected}{reason}") from e


def _read_npz(name: str, path: Path) -> Parts:
    wanted = ("x_train", "y_train", "x_test", "y_test")
    try:
        # allow_pickle stays off: opening a stranger's file runs none of their code.
        with np.load(path, allow_pickle=False) as archive:
            found, parts = list(archive), {k: archive[k] for k in wanted if k in archive}
            names = np.ravel(archive["class_names"]).astype(str).tolist() if "class_names" in archive else None
    except Exception as e:  # what a damaged archive raises is anything from EOFError to MemoryError
        raise DataError(f"{name}: {path} cannot be read as .npz: {describe_exception(e)}") from e
    if missing := [k for k in wanted if k not in parts]:
        raise DataError(f"{name}: {path} has no array {', '.join(missing)} (found: {listed(found)})")
    return parts["x_train"], parts["y_train"], parts["x_test"], parts["y_test"], names
