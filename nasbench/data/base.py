from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler

from nasbench.data.preparation import normalised
from nasbench.errors import DataError, listed
from nasbench.options import Count, Fraction, Range, Whole, checked

Stage = Literal["search", "retrain"]
Side = Annotated[int, Range(ge=4, le=4096)]
Indices = NDArray[np.int64]
# Training images and labels, test images and labels, names of the classes.
Parts = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any], Sequence[str] | None]
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
SPLIT_SEED = 20230415  # splits do not depend on a run's seed: all runs learn from and are measured on the same images
HELD_OUT = 0.1
TEST_SHARE = 0.2  # of a set that comes without test images
SPLIT_NOTE = "split by us, 1 in 5, stratified"


def stratified(
    labels: NDArray[Any], fraction: float, seed: int = SPLIT_SEED, groups: Indices | None = None
) -> tuple[Indices, Indices]:
    """Split the indices of labels (N,) so that every class gives its share `fraction` to the second part.

    Images of the same number in `groups` (N,) go to the part of the first of them. Both parts are sorted.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    # Walking through the classes in turn, every step of 1/fraction images gives one to the second part.
    cuts = np.floor(np.arange(len(labels) + 1) * fraction + 1e-9).astype(np.int64)
    second = np.zeros(len(labels), bool)
    second[by_class[np.diff(cuts).astype(bool)]] = True
    if groups is not None:
        _, first_of_group, group = np.unique(groups, return_index=True, return_inverse=True)
        second = second[first_of_group][group]
    return np.flatnonzero(~second), np.flatnonzero(second)


@dataclass(frozen=True)
class Augmentation:
    """Random shifts and mirror images, drawn for a whole batch at once."""

    padding: int = 0  # zero pixels added on every side before a random crop of the original size
    flip: bool = False  # mirror half of the images from left to right

    def __call__(self, images: Tensor) -> Tensor:
        """Augment uint8 `images` (N, H, W, C); returns the same shape."""
        if not self.padding and not self.flip:
            return images
        n, height, width, _ = images.shape
        device = images.device
        rows = torch.arange(height, device=device).expand(n, -1)
        columns = torch.arange(width, device=device).expand(n, -1)
        if self.flip:
            mirrored = torch.rand(n, 1, device=device) < 0.5
            columns = torch.where(mirrored, width - 1 - columns, columns)
        if self.padding:
            offsets = torch.randint(0, 2 * self.padding + 1, (2, n, 1), device=device)
            rows, columns = rows + offsets[0], columns + offsets[1]
            images = torch.nn.functional.pad(images, (0, 0) + (self.padding,) * 4)
        picks = torch.arange(n, device=device)[:, None, None]
        return images[picks, rows[:, :, None], columns[:, None, :]]


class SharedBatches(DistributedSampler[Any]):
    """The part of every batch that falls to one of several processes: a `DataLoader`'s sampler of lists of indices.

    Together they are the batches that a single process would see, and no image is seen twice: shuffled images come in
    full batches in an order that is the same in all processes, ordered ones each exactly once. All processes have
    equally many batches. (Lightning leaves a `DistributedSampler` as it is.)
    """

    def __init__(self, images: int, batch_size: int, shuffle: bool, seed: int = 0, rank: int = 0, world: int = 1):
        everything = range(images)
        super().__init__(everything, world, rank, shuffle, seed)  # type: ignore[arg-type]
        if images < world:
            raise DataError(f"{images} image(s) cannot be shared out among {world} processes")
        self._part = max(1, min(batch_size, images) // world)
        self._repeats = False
        self.generator = torch.Generator().manual_seed(seed)
        self._order = RandomSampler(everything, generator=self.generator) if shuffle else everything

    def repeat(self) -> None:
        """Have the same images in the same batches in every pass, all equally large."""
        images, whole = len(self._order), self._part * self.num_replicas
        self._part = max(1, images // -(-images // whole) // self.num_replicas)
        self._repeats = True

    def __iter__(self) -> Iterator[list[int]]:
        """This process's part of one batch after the other."""
        if self._repeats:
            self.generator.manual_seed(self.seed)
        if self.shuffle:
            order, whole = iter(self._order), self._part * self.num_replicas
            while len(batch := list(islice(order, whole))) == whole:
                yield batch[self.rank * self._part :][: self._part]
        else:
            mine = np.array_split(np.array(self._order), self.num_replicas)[self.rank]
            yield from (part.tolist() for part in np.array_split(mine, len(self)))

    def __len__(self) -> int:
        """Number of batches; the same in every process."""
        images = len(self._order)
        if self.shuffle:  # a last training batch of one image would leave batch normalisation without a variance
            return images // (self._part * self.num_replicas)
        return min(-(-images // (self._part * self.num_replicas)), images // self.num_replicas)


class ImageData(LightningDataModule, ABC):
    """Base of all image classification data sets.

    In the stage `search` the training images are split into a part for the weights θ (`train_dataloader`) and a *meta*
    part for the architecture parameters α (`val_dataloader`). In the stage `retrain` both are used for training, less
    a fixed stratified tenth that is held out (`val_dataloader`). The test images are read by `test_dataloader` only.
    """

    name: str
    native_size: int = 32
    augmentation = Augmentation()
    default_preset = "cifar"
    unit = "images"  # what `summary` counts
    fit = "stretch"  # how test images of other sizes become squares, see `nasbench.data.preparation.FITS`
    train_labels: NDArray[np.int64]  # (N,) classes of all training images
    test_labels: NDArray[np.int64]  # (N,) classes of all test images
    singly = False  # whether networks are trained one by one, and the meta images measure each of them
    test_files: Sequence[str] = ()  # paths of all test images, in the order of `test_dataloader`, where they are files

    @checked
    def __init__(
        self,
        *,
        data_root: Path | None = None,  # folder of the data sets
        image_size: Side | None = None,  # side in pixels to which images are resized; the set's own where `None`
        batch_size: Count = 128,  # images a step, over all processes
        stage: Stage = "search",  # `search` or `retrain`, see the class
        meta_fraction: Fraction = 0.2,  # share of the training images on which α learns
        train_images: Count | None = None,  # stratified subset of at most so many training images, all where `None`
        workers: Whole | None = None,  # processes that load image files; as many as seem right where `None`
        download: bool = False,  # fetch a missing set through torchvision
        skip_broken: bool = False,  # leave out files that cannot be read, and count them, instead of refusing the set
        # Mean and deviation of pixels in 0–1, one a channel, in the place of the set's own.
        normalisation: Normalisation | None = None,
        seed: int = 0,  # of the order of the training images
    ) -> None:
        super().__init__()
        self.data_root = Path(data_root) if data_root is not None else None
        self.image_size = image_size or self.native_size
        self.batch_size, self.stage, self.meta_fraction = batch_size, stage, meta_fraction
        self.train_images, self.workers, self.download, self.seed = train_images, workers, download, seed
        self.skip_broken, self.normalisation = skip_broken, normalisation
        self.notes: list[str] = []
        self.class_names: list[str] = []
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()
        self.train_groups: Indices | None = None  # (N,) numbers that copies of one training image share
        self._ready = False
        self._orders: list[SharedBatches] = []
        self._saved_orders: list[Tensor] = []  # of those that are still to be made

    @abstractmethod
    def load(self) -> None:
        """Read the set (or only its index): fills class names, labels, normalisation and what the loaders need.

        What was decided for the user (a split, files left out) is appended to `notes`. A set that knows of copies among
        its training images sets `train_groups`. Raises DataError: the set is missing or damaged.
        """

    @abstractmethod
    def training_loader(self, indices: Indices, shuffle: bool) -> DataLoader[Any]:
        """Batches of some training images: augmented where shuffled. `batches` says which images each has."""

    @abstractmethod
    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of all test images, in order."""

    @property
    def num_classes(self) -> int:
        """How many classes there are (after `setup`)."""
        return len(self.class_names)

    def setup(self, stage: str | None = None) -> None:
        """Read the set once; `stage` is Lightning's and makes no difference here.

        DataError: the set cannot be read, has no two classes, no test images, or a class without training images.
        """
        if not self._ready:
            self.notes = []
            self.load()
            self.mean, self.std = self.normalisation or (self.mean, self.std)
            if self.num_classes < 2:
                raise DataError(f"{self.name}: at least two classes are needed, not only {listed(self.class_names)}")
            if not len(self.test_labels):
                raise DataError(f"{self.name}: there are no test {self.unit}")
            if self.train_images is not None and self.train_images >= len(self.train_labels):
                self.train_images = None  # at most so many
            self._ready = True
            self.splits()

    def splits(self) -> tuple[Indices, Indices]:
        """Indices into the training images: (train, meta) when searching, (train, held out) when retraining."""
        self.setup()
        labels = self.train_labels
        used: Indices = np.arange(len(labels))
        if self.train_images is not None:
            used = stratified(labels, self.train_images / len(labels))[1]
        share = self.meta_fraction if self.stage == "search" else HELD_OUT
        groups = None if self.train_groups is None else self.train_groups[used]
        first, second = stratified(labels[used], share, SPLIT_SEED + 1, groups)
        if not len(first) or not len(second):
            raise DataError(f"{self.name}: {len(used)} training images are too few to be split in two")
        missing = set(range(self.num_classes)) - set(labels[used[first]].tolist())
        if missing:
            names = listed(self.class_names[i] for i in sorted(missing))
            raise DataError(f"{self.name}: there are no training {self.unit} of class {names} (too few to be split)")
        return used[first], used[second]

    def train_counts(self) -> list[int]:
        """How many of the images that are trained on each class has."""
        return np.bincount(self.train_labels[self.splits()[0]], minlength=self.num_classes).tolist()

    def batches(self, images: int, shuffle: bool) -> SharedBatches:
        """Which of `images` images each batch of this process has, see `SharedBatches`."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        found = SharedBatches(images, self.batch_size, shuffle, self.seed, rank, world)
        if shuffle:
            self._orders.append(found)
            if self._saved_orders:
                found.generator.set_state(self._saved_orders.pop(0))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Where the shuffled orders stand, for a checkpoint at the end of an epoch."""
        return {"orders": [order.generator.get_state() for order in self._orders]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the orders of a checkpoint, also of loaders that are made later."""
        self._saved_orders = list(state_dict["orders"])
        for order in self._orders:
            order.generator.set_state(self._saved_orders.pop(0))

    def train_dataloader(self) -> Any:
        """Augmented batches for the weights θ, in a new order every epoch."""
        return self.training_loader(self.splits()[0], True)

    def val_dataloader(self) -> Any:
        """Search: augmented batches for α. Of a network that is trained alone: all of the second part, in order."""
        return self.training_loader(self.splits()[1], self.stage == "search" and not self.singly)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (while training) and normalise on the device; `dataloader_idx` is Lightning's and not used.

        A batch is images uint8 (N, H, W, C) and labels (N,), or a dict of such pairs as one-shot strategies use; its
        images become (N, 3, H, W) in the run's floating-point type, in channels_last layout.
        """
        if isinstance(batch, dict):
            return {key: self.on_after_batch_transfer(part, dataloader_idx) for key, part in batch.items()}
        images, labels = batch
        if self.trainer is None:
            return self.normalise(images), labels
        if self.trainer.training:
            images = self.augmentation(images)
        # Lightning converts a batch to the run's precision before this hook, when it holds whole numbers yet.
        return self.trainer.precision_plugin.convert_input(self.normalise(images)), labels

    def normalise(self, images: Tensor) -> Tensor:
        """Turn uint8 `images` (N, H, W, C) into floats (N, 3, H, W) of about zero mean and unit variance."""
        return normalised(images, self.mean, self.std)

    def summary(self) -> str:
        """One line: how many classes, training and test images there are, and what was decided about them."""
        self.setup()
        used = "" if self.train_images is None else f"{self.train_images:,} of "
        counts = f"{used}{len(self.train_labels):,} training, {len(self.test_labels):,} test {self.unit}"
        return f"{self.num_classes} classes, {counts}" + (f" ({'; '.join(self.notes)})" if self.notes else "")

    def description(self) -> dict[str, Any]:
        """What a record keeps of the data: name, classes, normalisation, the sizes of the parts and the `summary`."""
        train, other = self.splits()
        second = "meta" if self.stage == "search" else "held_out"
        return {
            "dataset": self.name,
            "class_names": self.class_names,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "train_images": len(train),
            f"{second}_images": len(other),
            "summary": self.summary(),
        }
