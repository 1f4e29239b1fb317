"""Images made by code, whose label can be read by known receptive fields only."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from nasbench.data.base import Augmentation, Parts
from nasbench.data.memory import InMemoryData
from nasbench.errors import check_range

GRID = 3  # tiles in a row, and rows of tiles
WINDOWS = (1, 3, 5, 7)
TILE = WINDOWS[-1]  # side of a tile
# The windows whose mean tells a tile's bit, tile by tile. Where there is none the tile says nothing; where it is all of
# them the tile is uniform. Nothing at all is written into the last tile.
CARRIERS: tuple[tuple[int, ...], ...] = ((1,), (3,), (5,), (7,), WINDOWS, (), (), ())
BITS = sum(map(bool, CARRIERS))
GREY, UNIT = 128, 24  # grey levels of nothing, and of a mean of 1; with this unit every ring is a whole number
TRAINING, TEST = 25_600, 4_000


class Planted(InMemoryData):
    """Tiles (21×21 grey, 32 classes) whose bits of the label one size of window can read: made for space `planted`.

    An image is 3×3 tiles of 7×7 pixels. A tile consists of rings around its centre, whose grey levels are such that the
    means of the windows 1×1, 3×3, 5×5 and 7×7 at the centre are any four numbers that one likes. All are random signs,
    independent of each other, but the means that carry the tile's bit of the label. So a window of another size reads
    noise that looks just like the signal, and no other tile tells the same bit.

    Tiles 1–4 carry a bit each in the mean of one window, of 1, 3, 5 and 7 pixels in this order. Tile 5 carries one in
    all four, tiles 6–8 in none, and tile 9 is plain grey.
    """

    name = "planted"
    native_size = GRID * TILE
    augmentation = Augmentation()
    default_preset = "quick"
    presets: ClassVar = {
        "quick": {"train_images": None}
    }  # many images cost nothing here, and none has to be seen often

    def __init__(self, *, noise: float = 0.0, draw: int = 0, meta_fraction: float = 0.5, **options: Any) -> None:
        """Describe what to make; see `ImageData` for the other options. Raises OptionError: a value is out of range.

        `noise` is the share of the bits that are drawn by lot in place of the label's; at 1 images tell nothing.
        Another `draw`, the seed of the images, gives another data set with the same truth. Both halves learn from
        equally many images by default.
        """
        super().__init__(meta_fraction=meta_fraction, **options)
        check_range("noise", noise, ge=0, le=1)
        check_range("draw", draw, ge=0)
        self.noise, self.draw = noise, draw

    def read(self) -> Parts:
        """Make the images; see `InMemoryData.read`."""
        rng = np.random.default_rng(self.draw)
        number = TRAINING + TEST
        bits = rng.integers(0, 2, (number, BITS))
        means = rng.choice((-1, 1), (number, len(CARRIERS), len(WINDOWS)))
        bit = iter(bits.T)
        for tile, windows in enumerate(CARRIERS):
            if windows:
                by_lot = rng.random(number) < self.noise
                told = np.where(by_lot, rng.choice((-1, 1), number), 2 * next(bit) - 1)
                means[:, tile, [WINDOWS.index(window) for window in windows]] = told[:, None]
        images = _drawn(means)
        labels = bits @ (1 << np.arange(BITS))
        names = [f"{label:0{BITS}b}"[::-1] for label in range(1 << BITS)]
        return images[:TRAINING], labels[:TRAINING], images[TRAINING:], labels[TRAINING:], names


def _drawn(means: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Images (N, 21, 21) uint8 whose windows at the centres of their tiles have these means (N, tiles, windows)."""
    areas = np.square(WINDOWS)
    rings = np.diff(means * areas * UNIT, prepend=0) // np.diff(areas, prepend=0)  # exact, see UNIT
    distance = np.abs(np.arange(TILE) - TILE // 2)
    ring = np.maximum.outer(distance, distance)
    images = np.full((len(means), GRID, TILE, GRID, TILE), GREY, np.uint8)
    for tile in range(means.shape[1]):
        images[:, tile // GRID, :, tile % GRID] = GREY + rings[:, tile][:, ring]
    return images.reshape(len(means), GRID * TILE, GRID * TILE)
