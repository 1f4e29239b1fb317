"""A space whose right answers are known."""

import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nasbench.options import Count, checked
from nasbench.spaces.operations.choices import enhancer_choice, uniform_architectures

GRID = 3  # tiles in a row, and rows of tiles
LABELS = tuple(f"tile{number}.enhancer" for number in range(1, GRID * GRID + 1))
CANDIDATES = ("none", "avg3", "avg5", "avg7")
# What data set `planted` needs in the first layers; to the others all candidates are alike.
NEEDED = dict(zip(LABELS, CANDIDATES, strict=False))


class Planted(ModelSpace):
    """Nine layers whose right receptive field on data set `planted` is known, or known not to exist.

    The image is cut into 3×3 tiles. Each has a choice of its own, of windows of 1, 3, 5 and 7 pixels, labelled
    `tile1.enhancer` … `tile9.enhancer`, and is read out at its centre: nothing else widens the receptive field, no
    layer can do the work of another, and the network of an architecture is as good as the number of its right choices.
    (N, 3, S, S) → (N, num_classes); made for S = 21.
    """

    profile_defaults = (32, 21)

    @checked
    def __init__(self, num_classes: Count = 32) -> None:
        super().__init__()
        self.enhancers = nn.ModuleList(enhancer_choice(label, CANDIDATES, 1, {}) for label in LABELS)
        self.head = nn.Linear(len(LABELS), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images `x` (N, 3, S, S), of whose colours the mean is seen."""
        side = x.shape[2] // GRID
        grey = x[..., : GRID * side, : GRID * side].mean(1)
        tiles = grey.unflatten(2, (GRID, side)).unflatten(1, (GRID, side)).permute(1, 3, 0, 2, 4)
        features = [
            enhancer(tile)[:, 0, side // 2, side // 2]
            for enhancer, tile in zip(self.enhancers, tiles.flatten(0, 1).unsqueeze(2), strict=True)
        ]
        return self.head(torch.stack(features, 1))

    @staticmethod
    def truth() -> dict[str, frozenset[str]]:
        """Label → its right candidates on data set `planted`: those than which no other is better.

        Where that is all of them nothing matters, and whoever prefers one is wrong: on tile 5 all candidates compute
        the same number, which carries a bit of the label; on tiles 6–8 they read independent noise of one distribution,
        and on tile 9 a constant. Elsewhere the others read nothing but noise.
        """
        return {label: frozenset([NEEDED[label]] if label in NEEDED else CANDIDATES) for label in LABELS}

    def architectures(self) -> dict[str, dict[str, str]]:
        """`right`, which has the right candidate in every layer, `none`, and `local` (avg3) everywhere."""
        right = {label: NEEDED.get(label, CANDIDATES[0]) for label in LABELS}
        return {"right": right, **uniform_architectures(LABELS, CANDIDATES)}
