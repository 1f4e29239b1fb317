from typing import Annotated, Any, ClassVar

import numpy as np

from nasbench.data.base import Parts
from nasbench.data.memory import InMemoryData
from nasbench.options import Range, Whole, checked

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

    An image is 3×3 tiles of 7×7 pixels: rings around a centre, whose grey levels are such that the means of the windows
    1×1, 3×3, 5×5 and 7×7 there are any four numbers. All are random signs, but those that carry the tile's bit of the
    label: tiles 1–4 in one window each, of 1, 3, 5 and 7 pixels, tile 5 in all four, tiles 6–8 in none; tile 9 is grey.
    """

    name = "planted"
    native_size = GRID * TILE
    default_preset = "quick"
    # Many images cost nothing here, and none has to be seen often.
    presets: ClassVar = {"quick": {"train_images": None}}

    @checked
    def __init__(
        self,
        *,
        noise: Annotated[float, Range(ge=0, le=1)] = 0.0,  # share of the bits drawn by lot in place of the label's
        draw: Whole = 0,  # the images' seed
        meta_fraction: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(meta_fraction=meta_fraction, **options)
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
        areas = np.square(WINDOWS)
        rings = np.diff(means * areas * UNIT, prepend=0) // np.diff(areas, prepend=0)  # exact, see UNIT
        distance = np.abs(np.arange(TILE) - TILE // 2)
        ring = np.maximum.outer(distance, distance)
        tiles = np.full((number, GRID, TILE, GRID, TILE), GREY, np.uint8)
        for tile in range(len(CARRIERS)):
            tiles[:, tile // GRID, :, tile % GRID] = GREY + rings[:, tile][:, ring]
        images = tiles.reshape(number, GRID * TILE, GRID * TILE)
        labels = bits @ (1 << np.arange(BITS))
        names = [f"{label:0{BITS}b}"[::-1] for label in range(1 << BITS)]
        return images[:TRAINING], labels[:TRAINING], images[TRAINING:], labels[TRAINING:], names
