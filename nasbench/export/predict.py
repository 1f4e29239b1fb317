"""Which classes a network sees in picture files."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from nasbench.data.pictures import EXTENSIONS, BrokenPicture, is_image, read_picture, reason_of
from nasbench.errors import OptionError
from nasbench.export.format import Runnable

BATCH = 32  # pictures at a time


@dataclass(frozen=True)
class Prediction:
    """What was seen in a file."""

    path: Path  # of the file
    classes: tuple[tuple[str, float], ...] = ()  # names and probabilities, the likeliest first; empty for a broken file
    error: str = ""  # what is wrong with the file, or nothing


def pictures(paths: Iterable[Path]) -> list[Path]:
    """Files as they were named, and the pictures in folders at any depth, in alphabetical order.

    Raises OptionError: a path does not exist, or a folder holds no picture.
    """
    found = []
    for path in paths:
        if not path.exists():
            raise OptionError(f"{path} does not exist")
        inside = [Path(root) / name for root, _, names in os.walk(path) for name in names if is_image(name)]
        if path.is_dir() and not inside:
            raise OptionError(f"{path} holds no file named {', '.join(EXTENSIONS)}")
        found += sorted(inside) if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def logits(network: Runnable, paths: Iterable[Path]) -> Iterator[tuple[Path, Tensor | BrokenPicture]]:
    """Logits (classes,) of every file, or what is wrong with it."""
    rest = iter(paths)
    while batch := list(islice(rest, BATCH)):
        seen: dict[Path, Tensor | BrokenPicture] = {}
        for path in batch:
            try:
                seen[path] = network.card.image(read_picture(str(path)))
            except BrokenPicture as e:
                seen[path] = e
        images = [image for image in seen.values() if isinstance(image, Tensor)]
        with torch.inference_mode():
            rows = iter(network.logits(torch.stack(images)) if images else ())
        yield from ((path, next(rows) if isinstance(image, Tensor) else image) for path, image in seen.items())


def predict(network: Runnable, paths: Iterable[Path], top: int) -> Iterator[Prediction]:
    """The likeliest classes of every file, `top` of them or all where there are not as many; see `pictures`."""
    names = network.card.class_names
    for path, found in logits(network, paths):
        if isinstance(found, BrokenPicture):
            yield Prediction(path, error=f"{path} cannot be read: {reason_of(found.__cause__ or found)}")
            continue
        values, places = found.float().softmax(0).topk(min(top, len(names)))
        pairs = zip(places.tolist(), values.tolist(), strict=True)
        yield Prediction(path, tuple((names[place], value) for place, value in pairs))
