import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from nasbench import machine
from nasbench.data.base import SPLIT_NOTE, TEST_SHARE, ImageData, Indices, stratified
from nasbench.data.pictures import (
    EXTENSIONS,
    Photo,
    examined,
    is_image,
    kept_pictures,
    read_area,
    read_photo,
    read_picture,
)
from nasbench.data.preparation import cropped
from nasbench.errors import DataError, listed
from nasbench.memory import free_bytes
from nasbench.options import Range, Share, checked

KEPT_SHARE = 0.25  # of the free memory, for decoded training pictures
FEW = 1000  # pictures: starting workers takes longer than reading these
MOST_WORKERS = 8
SHARED_MEMORY = Path("/dev/shm")
MOST_CHECKED = 100_000  # files; of more, each is checked when it is first used
TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
LAYOUTS = (
    "understood are train/CLASS/* with test/CLASS/* (or testing, val, valid, validation), train/CLASS/* alone, and "
    "CLASS/* without folders of these names"
)


class RandomCrop:
    """A random crop of a photo, mirrored half of the times, in changed colours: (size, size, 3) uint8.

    What is drawn, and in which order, is torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter. PyTorch
    resizes several times as fast as Pillow; some two values in a hundred differ, nearly all by 1 of 255.
    """

    def __init__(self, size: int, scale: float, jitter: float) -> None:
        self.size, self.crop = size, v2.RandomResizedCrop(size, (scale, 1.0))
        self.jitter = v2.ColorJitter(jitter, jitter, jitter) if jitter else None
        # Of a photo's shorter side, for the smallest crop to have twice as many pixels a side as are asked for.
        self.least = math.ceil(2 * size / math.sqrt(scale * min(self.crop.ratio)))

    def __call__(self, photo: Photo) -> NDArray[np.uint8]:
        """Draw one; its borders are rounded where the photo was scaled down while it was read."""
        drawn = self.crop.make_params([torch.empty(1).expand(3, *photo.size)])
        down, across = (read / full for read, full in zip(photo.pixels.shape[:2], photo.size, strict=True))
        rows = slice(round(drawn["top"] * down), round((drawn["top"] + drawn["height"]) * down))
        columns = slice(round(drawn["left"] * across), round((drawn["left"] + drawn["width"]) * across))
        crop = np.ascontiguousarray(photo.pixels[rows, columns])  # PyTorch would share this out among its threads
        images = torch.from_numpy(crop).permute(2, 0, 1)[None]
        resized = interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
        pixels = resized.numpy()[:, :: -1 if torch.rand(1) < 0.5 else 1]
        return pixels if self.jitter is None else np.array(self.jitter(Image.fromarray(pixels)))


def _centre(path: str, size: int) -> NDArray[np.uint8]:
    return cropped(read_picture(path), size)


@dataclass(eq=False)
class PictureBatches(Dataset[Any]):
    """Pictures and their classes, a batch at a time: read now, or `kept` since they were, then made ready."""

    paths: Sequence[str]
    labels: Tensor
    read: Callable[[str], Any]
    prepare: Callable[[Any], NDArray[np.uint8]]  # of what was read
    kept: Mapping[str, Any]
    seed: int

    def __getitem__(self, indices: Any) -> Any:
        paths = [self.paths[i] for i in indices]
        with torch.random.fork_rng(devices=()):
            # What is drawn depends on the batch alone: not on which process reads it, nor on what that has read before.
            torch.manual_seed(crc32(np.asarray(indices).tobytes(), self.seed % 2**32))
            read = (self.kept[path] if path in self.kept else self.read(path) for path in paths)
            pictures = [self.prepare(picture) for picture in read]
        return torch.from_numpy(np.stack(pictures)), self.labels[indices]

    def __len__(self) -> int:
        return len(self.paths)


class ImageFolder(ImageData):
    """Your own pictures: `ROOT/train/CLASS/*.jpg` and `ROOT/test/CLASS/*.jpg` (or `val`), or `ROOT/CLASS/*`.

    The test set is `test` or `testing`, where there is none of these `val`, `valid` or `validation`, all in any case;
    where there is neither, a fixed stratified fifth of the pictures. Files and folders whose names begin with a dot
    are not looked at. Training pictures are cropped at random (RandomResizedCrop) and mirrored, test pictures centrally
    cropped. Copies of a picture stay on one side: training pictures that are in a given test set, too, are left out,
    and where we split, all copies go to the same part. JPEGs to be trained on are decoded scaled down where the least
    crop keeps twice `image_size`; what a network is measured on is decoded in full. Training pictures stay
    decoded in memory, where they all take at most a quarter of what is free.
    """

    name = "imagefolder"
    native_size = 224
    unit = "photos"
    fit = "crop"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    presets: ClassVar = {"finetune": {"dataset_options": {"crop_scale": 0.5, "jitter": 0.1}}}

    @checked
    def __init__(
        self, *, crop_scale: Annotated[float, Range(gt=0, le=1)] = 0.08, jitter: Share = 0.0, **options: Any
    ) -> None:
        """A crop keeps at least the share `crop_scale` of a picture; colours change by the share `jitter` at most."""
        super().__init__(**options)
        self.crop_scale, self.jitter = crop_scale, jitter

    @classmethod
    def count_images(cls, data_root: Path) -> int:
        """About how many training images a folder has: files with a picture's name, none where there is no folder."""
        _, folders, _ = next(os.walk(data_root), ("", [], []))
        train = [data_root / name for name in folders if name.lower() in TRAIN]
        names = (name for _, _, files in os.walk((train or [data_root])[0]) for name in files)
        return round(sum(map(is_image, names)) * (1 if train else 1 - TEST_SHARE))

    def load(self) -> None:
        """Index the folders and check the files; see `ImageData.load`."""
        self.mean, self.std = type(self).mean, type(self).std
        self._kept: tuple[dict[str, Any], dict[str, Any]] = ({}, {})  # to be seen in full, to be cropped at random
        root, self._others = self._folder(), Counter[str]()
        self._counts = dict.fromkeys(("broken_files_left_out", "copies_left_out", "copies_kept_together"), 0)
        try:
            train, test = self._parts(root)
            classes = self._index(train)
            tested = None if test is None else self._index(test)
        except OSError as e:
            raise DataError(f"{self.name}: {listed([e.filename])} cannot be read: {e.strerror}") from e
        if test is not None and tested is not None and tested.keys() != classes.keys():
            only = [train / c for c in classes.keys() - tested] + [test / c for c in tested.keys() - classes]
            raise DataError(
                f"{self.name}: {train} and {test} have different classes: {listed(sorted(only))} has no counterpart"
            )
        copies = self._check(root, [classes] if tested is None else [classes, tested])
        self.class_names = [listed([name]) for name in classes]
        paths, labels = _flat(classes)
        groups = _groups(paths, copies)
        if tested is None:
            kept, given = stratified(labels, TEST_SHARE, groups=groups)
            self.test_files, self.test_labels = [paths[i] for i in given], labels[given]
            self.notes.append(SPLIT_NOTE)
        else:
            self.test_files, self.test_labels = _flat(tested)
            known = {copies[path] for path in self.test_files if path in copies}
            kept = np.flatnonzero([copies.get(path) not in known for path in paths])
            if left_out := len(paths) - len(kept):
                self._counts["copies_left_out"] = left_out
                self.notes.append(f"training photos left out that are test photos, too: {left_out:,}")
        together = groups if tested is None else groups[kept]
        if more := len(together) - len(np.unique(together)):
            self._counts["copies_kept_together"] = more
            self.notes.append(f"copies of other photos, each in the same part as these: {more:,}")
        self._train_paths, self.train_labels = [paths[i] for i in kept], labels[kept]
        self.train_groups = groups[kept]
        if self._others:
            kinds = listed(f"{kind or 'no suffix'} {count:,}" for kind, count in self._others.most_common())
            self.notes.append(f"files of other kinds left out: {kinds}")

    def _folder(self) -> Path:
        if self.data_root is None or not self.data_root.is_dir():
            raise DataError(
                f"{self.name}: the folder {self.data_root} does not exist; give one with --data-root "
                "(train/CLASS/* and test/CLASS/* inside)"
            )
        return self.data_root

    def _parts(self, root: Path) -> tuple[Path, Path | None]:
        """The folders of the training and of the test classes."""
        folders = _folders(root)
        train, test, validation = (
            [f for f in folders if f.name.lower() in names] for names in (TRAIN, TEST, VALIDATION)
        )
        if not train and not test and not validation and folders:
            return root, None
        if len(train) != 1 or max(len(test), len(validation)) > 1 or len(train + test + validation) < len(folders):
            found = f"holds the folders {listed(f.name for f in folders)}" if folders else "has no class folder"
            raise DataError(f"{self.name}: {root} {found}; {LAYOUTS}")
        if test and validation:
            self.notes.append(f"tested on {test[0].name}/; {validation[0].name}/ is not used")
        return train[0], next(iter(test + validation), None)

    def _index(self, folder: Path) -> dict[str, list[str]]:
        """The pictures of every class, in alphabetical order of both."""
        found: dict[str, list[str]] = {}
        for group in _folders(folder):
            if not any(is_image(p.name) and not p.is_dir() for p in group.iterdir()):
                inner = listed(f.name for f in _folders(group))
                what = f"only the folders {inner}" if inner else f"no file named {listed(EXTENSIONS)}"
                raise DataError(f"{self.name}: the class folder {group} holds {what}; {LAYOUTS}")
            found[group.name] = self._walk(group)
        if not found:
            raise DataError(f"{self.name}: {folder} has no class folder; {LAYOUTS}")
        return found

    def _walk(self, group: Path) -> list[str]:
        paths, seen = [], set()
        for where, inner, files in os.walk(group, onerror=_fail, followlinks=True):
            seen.add(os.path.realpath(where))
            inner[:] = [n for n in inner if n[0] != "." and os.path.realpath(f"{where}/{n}") not in seen]
            paths += [f"{where}/{name}" for name in files if is_image(name)]
            self._others.update(Path(n).suffix.lower() for n in files if not is_image(n) and n[0] != ".")
        return sorted(paths)

    def _check(self, root: Path, parts: list[dict[str, list[str]]]) -> dict[str, bytes]:
        """See what can be read; of that, the digests of pictures that several files show."""
        paths = [path for classes in parts for group in classes.values() for path in group]
        if len(paths) > MOST_CHECKED and not self.skip_broken:
            self.notes.append("files are checked when they are first used, and copies not looked for")
            return {}
        broken, copies = examined(paths)
        if broken and not self.skip_broken:
            named = listed(f"{os.path.relpath(path, root)} ({reason})" for path, reason in broken.items())
            raise DataError(
                f"{self.name}: {len(broken):,} of {len(paths):,} files in {root} cannot be read: {named}; repair or "
                "remove them, or leave them out with --skip-broken"
            )
        if broken:
            self._counts["broken_files_left_out"] = len(broken)
            self.notes.append(f"{len(broken):,} broken file{'s' if len(broken) > 1 else ''} left out")
            for classes in parts:
                classes.update({name: [p for p in group if p not in broken] for name, group in classes.items()})
        return copies

    def description(self) -> dict[str, Any]:
        """See `ImageData.description`; with how many broken files and copies there are."""
        return {**super().description(), **self._counts}

    def training_loader(self, indices: Indices, shuffle: bool) -> DataLoader[Any]:
        """See `ImageData.training_loader`."""
        size, chosen, kept = self.image_size, [self._train_paths[i] for i in indices], self._kept[shuffle]
        crop = RandomCrop(size, self.crop_scale, self.jitter)
        drawn: Any = partial(read_photo, least=crop.least), crop, partial(read_area, least=crop.least)
        missing = [path for path in chosen if path not in kept]
        whole: Any = partial(_centre, size=size), np.asarray, lambda _: size**2  # the same every epoch
        read, prepare, area = drawn if shuffle else whole
        kept |= kept_pictures(missing, read, area, int(KEPT_SHARE * free_bytes() / self._processes()))
        return self._loader(chosen, self.train_labels[indices], read, prepare, kept, shuffle)

    def test_dataloader(self) -> DataLoader[Any]:
        """See `ImageData.test_dataloader`."""
        self.setup()
        read = partial(_centre, size=self.image_size)
        return self._loader(self.test_files, self.test_labels, read, np.asarray, {}, False)

    def _usual_workers(self, pictures: int) -> int:
        if pictures < FEW:
            return 0
        workers = min(machine.cpus() // self._processes() - 1, MOST_WORKERS)  # one CPU is left to the training
        if SHARED_MEMORY.is_dir():  # in which batches come, two of each worker, to two loaders; a container's is small
            batches = 4 * self.batch_size * self.image_size**2 * 3
            workers = min(workers, shutil.disk_usage(SHARED_MEMORY).free // batches // self._processes())
        return max(0, workers)

    def _processes(self) -> int:
        return 1 if self.trainer is None else self.trainer.world_size

    def _loader(
        self, paths: Sequence[str], labels: Indices, read: Any, prepare: Any, kept: dict[str, Any], shuffle: bool
    ) -> DataLoader[Any]:
        workers = self._usual_workers(len(paths)) if self.workers is None else self.workers
        return DataLoader(
            PictureBatches(paths, torch.from_numpy(labels), read, prepare, kept, self.seed),
            batch_size=None,
            sampler=self.batches(len(paths), shuffle),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.seed),
        )


class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012) as `ROOT/imagenet/train/WNID/*` and `val/WNID/*`, or the same directly in ROOT."""

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

    def _parts(self, root: Path) -> tuple[Path, Path | None]:
        return root / "train", root / "val"


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _fail(error: OSError) -> None:
    raise error  # os.walk would go on without the folder


def _flat(classes: dict[str, list[str]]) -> tuple[list[str], Indices]:
    labels = np.repeat(np.arange(len(classes)), [len(group) for group in classes.values()])
    return [path for group in classes.values() for path in group], labels


def _groups(paths: list[str], copies: Mapping[str, bytes]) -> Indices:
    """(N,) numbers that paths of one picture share."""
    numbers: dict[str | bytes, int] = {}
    return np.array([numbers.setdefault(copies.get(path, path), len(numbers)) for path in paths], dtype=np.int64)
