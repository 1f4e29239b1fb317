"""Folders of small pictures for tests, and the data set that reads them."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nasbench.data.folders import ImageFolder
from nasbench.errors import DataError


def fill(folder: Path, count: int = 3) -> Path:
    """A class folder with `count` small pictures in it, each like no other."""
    folder.mkdir(parents=True)
    for i in range(count):
        picture(str(folder / str(i))).save(folder / f"{i}.png")
    return folder


def picture(seed: str, side: int = 12) -> Image.Image:
    values = np.random.default_rng(zlib.crc32(seed.encode())).integers(0, 256, (side - 2, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def classes(folder: Path, count: int = 3, names: tuple[str, ...] = ("cat", "dog")) -> None:
    for name in names:
        fill(folder / name, count)


def opened(root: Path, kind: type[ImageFolder] = ImageFolder, **options: Any) -> ImageFolder:
    data = kind(data_root=root, image_size=8, batch_size=4, **options)
    data.setup()
    return data


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        opened(root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def photo(path: Path, seed: str, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, 64).save(path, **options)
