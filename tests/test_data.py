"""Data sets: splits, augmentation, readers, and what they say when something is missing."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pytorch_lightning import Trainer

from nasbench.data.arrays import CIFAR10, CIFAR100, Arrays, Digits, FashionMNIST
from nasbench.data.base import Augmentation, ImageData, stratified
from nasbench.data.folders import ImageFolder, ImageNet
from nasbench.data.memory import InMemoryData
from nasbench.errors import DataError


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200), st.floats(0.01, 0.99))
@settings(max_examples=200)
def test_stratified_split(labels: list[int], fraction: float) -> None:
    classes = np.array(labels)
    first, second = stratified(classes, fraction)
    assert sorted([*first, *second]) == list(range(len(labels)))
    assert abs(len(second) - fraction * len(labels)) < 1
    for c in set(labels):
        assert abs((classes[second] == c).sum() - fraction * (classes == c).sum()) <= 1 + 1e-6


def test_search_uses_all_training_images_and_retraining_holds_a_tenth_out() -> None:
    train, meta = Digits(stage="search").splits()
    assert not set(train) & set(meta)
    assert (len(train), len(meta)) == (1151, 287)
    retrain, held_out = Digits(stage="retrain").splits()
    assert not set(retrain) & set(held_out)
    assert {*retrain, *held_out} == {*train, *meta}
    assert len(held_out) == 143


def test_the_splits_do_not_depend_on_the_seed() -> None:
    for a, b in zip(Digits(seed=0).splits(), Digits(seed=5).splits(), strict=True):
        assert np.array_equal(a, b)


def test_no_test_image_of_digits_is_among_the_training_images() -> None:
    data = Digits(image_size=8)
    data.setup()
    images, test = data._images["train"], data._images["test"]
    assert len(images) + len(test) == 1797
    assert len({i.numpy().tobytes() for i in images} & {i.numpy().tobytes() for i in test}) == 0


def test_the_order_of_batches_follows_the_seed() -> None:
    def labels(seed: int) -> list[Any]:
        return [y.tolist() for _, y in Digits(seed=seed, batch_size=100).train_dataloader()]

    assert labels(1) == labels(1)
    assert labels(1) != labels(2)


def test_a_subset_is_stratified_and_checked() -> None:
    data = Digits(train_images=100)
    train, meta = data.splits()
    assert len(train) + len(meta) == 100
    assert set(np.bincount(data.train_labels[np.concatenate([train, meta])])) <= {9, 10, 11}
    with pytest.raises(DataError, match="no training images of class"):
        Digits(train_images=9).setup()
    many = Digits(train_images=5000)  # at most: a preset's subset is no reason to refuse a small set
    assert sum(map(len, many.splits())) == len(many.train_labels) == 1438


def test_normalised_images_have_zero_mean_and_unit_variance() -> None:
    data = Digits()
    data.setup()
    images = data.normalise(data._images["train"])
    assert images.shape == (1438, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert abs(float(images.mean())) < 1e-4
    assert abs(float(images.std()) - 1) < 1e-3


def test_augmentation_shifts_and_flips_without_inventing_pixels() -> None:
    torch.manual_seed(0)
    images = torch.randint(1, 255, (64, 6, 5, 3), dtype=torch.uint8)
    padding = 2
    changed = Augmentation(padding=padding, flip=True)(images)
    assert changed.shape == images.shape
    padded = torch.nn.functional.pad(images, (0, 0, padding, padding, padding, padding))
    seen = set()
    for before, after in zip(padded, changed, strict=True):
        matches = {
            (flip, dy, dx)
            for dy in range(2 * padding + 1)
            for dx in range(2 * padding + 1)
            for flip in (False, True)
            for window in [before[dy : dy + 6, dx : dx + 5]]
            if torch.equal(after, window.flip(1) if flip else window)
        }
        assert matches
        seen |= matches
    assert len(seen) > 25
    assert torch.equal(Augmentation()(images), images)


def test_only_training_batches_are_augmented() -> None:
    class Shift(Digits):
        augmentation = Augmentation(padding=3)

    data = Shift(batch_size=32)
    data.setup()
    batch = next(iter(data.test_dataloader()))

    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert torch.equal(data.on_after_batch_transfer(batch, 0)[0], data.normalise(batch[0]))
    data.trainer.training = True
    assert not torch.equal(data.on_after_batch_transfer({"train": batch}, 0)["train"][0], data.normalise(batch[0]))


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_batches_come_in_the_run_s_precision(precision: Any, dtype: torch.dtype) -> None:
    data = Digits(batch_size=32)
    data.setup()
    data.trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    images, _ = data.on_after_batch_transfer(next(iter(data.test_dataloader())), 0)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)


# Readers


def write_npz(path: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 255, (40, 12, 12, 3), dtype=np.uint8),
        "y_train": np.arange(40) % 4,
        "x_test": rng.integers(0, 255, (8, 12, 12, 3), dtype=np.uint8),
        "y_test": np.arange(8) % 4,
    }
    np.savez(path, **{k: v for k, v in (arrays | changes).items() if v is not None})
    return path


def test_arrays_from_a_file_or_a_folder(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "mine.npz", class_names=np.array(["a", "b", "c", "d"]))
    for root in (path, tmp_path):
        data = Arrays(data_root=root)
        assert data.description()["class_names"] == ["a", "b", "c", "d"]
        assert data.image_size == 12
    assert Arrays(data_root=path, image_size=8).train_dataloader().dataset.tensors[0].shape[1:3] == (8, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "has no array y_test"),
        ({"x_train": np.zeros((40, 12, 12, 3), np.float32)}, "must be uint8"),
        ({"x_train": np.zeros((40, 12, 12, 2), np.uint8)}, "must be uint8 of shape"),
        ({"y_train": np.arange(39) % 4}, "40 training images, but 39 labels"),
        ({"y_train": np.arange(40) % 4 - 1}, "whole numbers from 0"),
        ({"x_train": np.array([{}], dtype=object)}, "cannot be read as .npz"),
        ({"y_train": np.full(40, 2**40)}, "from 0 to 39 of an integer type, not 1099511627776 to 1099511627776"),
        ({"y_test": np.full(8, 2**64 - 1, np.uint64)}, "test labels must be whole numbers from 0 to 39"),
        ({"y_train": np.array(["cat"] * 40)}, "training labels must be whole numbers .* not text"),
        ({"y_train": np.full(40, np.nan)}, "training labels must be whole numbers .* not float64"),
        ({"y_train": np.zeros(40, bool)}, "not bool"),
        ({"y_train": np.zeros(40, int), "y_test": np.zeros(8, int)}, "at least two classes are needed, not only 0"),
        ({"y_train": np.arange(40) % 4 * 2, "y_test": np.zeros(8, int)}, "no training images of class 1, 3, 5"),
        ({"y_test": np.arange(8)}, "no training images of class 4, 5, 6, 7"),
        ({"class_names": np.array(["a", "b", "c"])}, "labels must be whole numbers from 0 to 2 of"),
        ({"class_names": np.array(list("abcde"))}, "no training images of class e"),
        ({"x_test": np.zeros((8, 12, 12), np.uint8)}, r"training images have 3 channel\(s\), test images 1"),
        ({"x_train": np.zeros((40, 12, 12), np.uint8)}, r"training images have 1 channel\(s\), test images 3"),
        ({"x_train": np.zeros((40, 0, 0, 3), np.uint8)}, "0 pixels a side"),
        ({"x_train": np.zeros((40, 12, 0, 3), np.uint8)}, "no training images: their shape"),
        ({"x_test": np.zeros((0, 12, 12, 3), np.uint8), "y_test": np.zeros(0, int)}, "there are no test images"),
    ],
)
def test_damaged_arrays_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Arrays(data_root=write_npz(tmp_path / "mine.npz", **changes)).setup()


def test_what_is_not_an_npz_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as"):
        Arrays(data_root=tmp_path / "mine.npz").setup()
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "empty" / "pipe.npz")
    with pytest.raises(DataError, match="holds 0"):
        Arrays(data_root=tmp_path / "empty").setup()


@pytest.mark.parametrize("kept", [0, 30, 400, -300, -1])
def test_a_cut_off_archive_is_named(kept: int, tmp_path: Path) -> None:
    path = write_npz(tmp_path / "mine.npz")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read as"):
        Arrays(data_root=path).setup()


def test_an_array_larger_than_the_memory_is_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "mine.npz")
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**60,)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("class_names.npy", header.getvalue())
    with pytest.raises(DataError, match="cannot be read as"):
        Arrays(data_root=path).setup()


def test_damaged_files_of_a_known_set_are_named(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for what in ("images-idx3", "labels-idx1"):
            (raw / f"{part}-{what}-ubyte").write_bytes(b"\0\0\x08\x03\0")
    with pytest.raises(DataError, match="fashion_mnist: "):
        FashionMNIST(data_root=tmp_path).setup()


def test_what_was_decided_is_said_and_kept(tmp_path: Path) -> None:
    assert Digits().summary() == ("10 classes, 1,438 training, 359 test images (split by us, 1 in 5, stratified)")
    path = write_npz(tmp_path / "mine.npz", x_train=np.zeros((40, 12, 20, 3), np.uint8))
    data = Arrays(data_root=path)
    assert data.description()["summary"] == (
        "4 classes, 40 training, 8 test images (training images 20×12, resized to 12×12)"
    )


def test_training_images_that_are_test_images_are_counted_and_stay(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8) for n in (20, 6))
    train[3] = train[4] = test[5]
    train[7] = test[0]
    train[8], train[8, 0, 0, 0] = test[1], test[1, 0, 0, 0] ^ 1
    np.savez(tmp_path / "a.npz", x_train=train, x_test=test, y_train=np.arange(20) % 2, y_test=np.arange(6) % 2)
    data = Arrays(data_root=tmp_path)
    assert data.summary() == ("2 classes, 20 training, 6 test images (training images that are test images, too: 3)")
    assert data.description()["training_images_in_test"] == 3


def test_the_ten_pairs_of_cifar100_are_known(real_data: Path) -> None:
    assert CIFAR100(data_root=real_data).description()["training_images_in_test"] == 10


@pytest.mark.parametrize("base", [ImageData, InMemoryData])
def test_a_base_class_is_no_data_set(base: Any) -> None:
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_a_data_set_with_one_class_is_refused() -> None:
    class One(Digits):
        def read(self) -> Any:
            train, labels, test, other, _ = super().read()
            return train, labels * 0, test, other * 0, ["all"]

    with pytest.raises(DataError, match="at least two classes are needed, not only all"):
        One().setup()


@pytest.mark.parametrize("kind", [FashionMNIST, CIFAR10, CIFAR100, ImageNet, ImageFolder, Arrays])
def test_a_missing_set_says_where_it_was_looked_for_and_what_to_do(kind: Any, tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError) as error:
            kind(data_root=root).setup()
        text = str(error.value)
        assert str(root) in text
        assert "\n" not in text
        assert "--data-root" in text or "class folder" in text


def pictures(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> None:
    rng = np.random.default_rng(1)
    for c in classes:
        (folder / c).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(folder / c / f"{i}.png")


def test_own_pictures_with_and_without_given_split(tmp_path: Path) -> None:
    pictures(tmp_path / "split" / "train")
    pictures(tmp_path / "split" / "val", count=3)
    data = ImageFolder(data_root=tmp_path / "split", image_size=16, batch_size=4)
    assert data.description()["class_names"] == ["cat", "dog"]
    assert sum(len(y) for _, y in data.test_dataloader()) == 6
    images, _labels = next(iter(data.train_dataloader()))
    assert images.shape == (4, 16, 16, 3)
    assert images.dtype == torch.uint8
    assert data.normalise(images).shape == (4, 3, 16, 16)

    pictures(tmp_path / "flat")
    whole = ImageFolder(data_root=tmp_path / "flat", image_size=16)
    train, meta = whole.splits()
    assert (len(train) + len(meta), sum(len(y) for _, y in whole.test_dataloader())) == (16, 4)
    assert not set(whole._train_paths) & set(whole.test_files)

    pictures(tmp_path / "imagenet" / "train")
    pictures(tmp_path / "imagenet" / "val", count=2)
    assert ImageNet(data_root=tmp_path, image_size=16).description()["dataset"] == "imagenet"


def test_different_classes_in_train_and_test_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "train")
    pictures(tmp_path / "test", classes=("cat", "cow"))
    with pytest.raises(DataError, match="different classes"):
        ImageFolder(data_root=tmp_path).setup()


# The real sets


@pytest.mark.parametrize(
    ("kind", "sizes", "classes", "mean"),
    [
        (FashionMNIST, (60000, 10000), "T-shirt/top", (0.2860,)),
        (CIFAR10, (50000, 10000), "airplane", (0.4914, 0.4822, 0.4465)),
        (CIFAR100, (50000, 10000), "apple", (0.5071, 0.4865, 0.4409)),
    ],
)
def test_real_sets(real_data: Path, kind: Any, sizes: tuple[int, int], classes: str, mean: tuple[float, ...]) -> None:
    data = kind(data_root=real_data)
    train, meta = data.splits()
    assert len(train) + len(meta) == sizes[0]
    assert sum(len(y) for _, y in data.test_dataloader()) == sizes[1]
    assert data.class_names[0] == classes
    assert data.mean == pytest.approx(mean, abs=2e-4)
    assert len(data.class_names) == (100 if kind is CIFAR100 else 10)
