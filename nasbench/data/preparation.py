"""From a picture of any size to what a network sees in evaluation: cut or stretched to its size, then normalised."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

RESIZE_RATIO = 256 / 224  # ImageNet's usual evaluation: shorter side to 256, then the central 224
# Of a picture's longer side the middle, so many times the shorter one, is resized: in whole it might take gigabytes.
LONGEST = 16


def cropped(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """The central square of a picture whose shorter side is resized to 256/224 of `size`: (size, size, C) uint8."""
    longest = LONGEST * min(picture.size)
    width, height = (min(side, longest) for side in picture.size)
    picture = transforms.resize(transforms.center_crop(picture, [height, width]), round(size * RESIZE_RATIO))
    return _array(transforms.center_crop(picture, [size, size]))


def stretched(picture: Image.Image, size: int) -> NDArray[np.uint8]:
    """The whole picture, each side resized to `size`; shapes as in `cropped`."""
    return resized(torch.from_numpy(_array(picture)[None]), size)[0].numpy()


class Fit(NamedTuple):
    """A way to make a square of a picture."""

    make: Callable[[Image.Image, int], NDArray[np.uint8]]  # of a picture and a side
    words: str  # that say it to somebody who has to do the same


# How a data set makes squares of its test pictures, by the name that it declares as `fit`.
FITS = {
    "crop": Fit(cropped, "the centre of a picture whose shorter side was resized to 256/224 of that"),
    "stretch": Fit(stretched, "to which the whole picture was resized"),
}


def resized(images: Tensor, size: int) -> Tensor:
    """Resize uint8 `images` (N, H, W, C) to (N, size, size, C): bilinear, antialiased, rounded."""
    if images.shape[1:3] == (size, size):
        return images
    chunks = (transforms.resize(c.permute(0, 3, 1, 2), [size, size], antialias=True) for c in images.split(4096))
    return torch.cat([chunk.permute(0, 2, 3, 1) for chunk in chunks]).contiguous()


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn uint8 `images` (N, H, W, C) into floats (N, 3, H, W), channels_last, of about zero mean and unit variance.

    Grey images (C = 1) are repeated, as networks read three channels. Mean and deviation are of pixels in 0–1, of each
    channel or one for all.
    """
    # Not in place: where this is traced, they are constants, which every call would change again.
    shift = torch.tensor(mean, device=images.device) * 255
    scale = (torch.tensor(std, device=images.device) * 255).reciprocal()
    if len(mean) > images.shape[-1]:
        images = images.expand(-1, -1, -1, len(mean))
    floats = images.to(torch.float32).sub_(shift).mul_(scale)
    floats = floats.expand(-1, -1, -1, 3) if floats.shape[-1] == 1 else floats
    return floats.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _array(picture: Any) -> NDArray[np.uint8]:
    pixels = np.array(picture)
    return pixels if pixels.ndim == 3 else pixels[..., None]
