"""Teachers that are trained together with their students, and where they look. Source: arXiv 1909.13063."""

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from nasbench.architecture import Architecture, named
from nasbench.errors import OptionError
from nasbench.profile import last_map

# Names that spaces have for the architecture with standard convolutions and nothing else.
STANDARD = ("standard", "none")


class FusionTeacher(nn.Module):
    """Concatenation of maps (N, C_i, H, W) → BN → ReLU → global average pooling → linear: logits (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        """Build the classifier for `channels` = Σ C_i."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_classes) of the students' maps."""
        return self.linear(self.relu(self.norm(torch.cat(list(maps), 1))).mean((2, 3)))


def fusion_map(network: nn.Module, image_size: int) -> tuple[str, int]:
    """The name of the module whose map the fusion teacher reads, `nasbench.profile.last_map`, and the map's channels.

    The network computes one black image of this side in evaluation mode. Raises OptionError: no module returns a map.
    """
    training, first = network.training, next(network.parameters(), None)
    images = torch.zeros(1, 3, image_size, image_size, device=None if first is None else first.device)
    try:
        with isolate_rng(), torch.no_grad():
            name, found = last_map(network.eval(), images)
    except OptionError as e:
        raise OptionError(f"teacher 'fusion': {e}; use teacher=standard") from e
    finally:
        network.train(training)
    return name, found.shape[1]


def standard_architecture(space: Any) -> Architecture:
    """The architecture `standard` of a space, or of its network, else `none`. Raises OptionError: it names neither."""
    names = named(space)
    for name in STANDARD:
        if name in names:
            return names[name]
    raise OptionError(
        f"teacher 'standard' needs a space that names an architecture {' or '.join(map(repr, STANDARD))}; "
        f"{type(space).__name__} names {', '.join(names) or 'none at all'}: use teacher=fusion"
    )
