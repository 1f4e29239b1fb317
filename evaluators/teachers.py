"""Teachers that are trained together with their students, and where in a network they look.

Source: "Training convolutional neural networks with cheap convolutions and online distillation", arXiv 1909.13063.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from nasbench.architecture import Architecture, named
from nasbench.errors import OptionError

# Names that spaces have for the architecture with standard convolutions and nothing else.
STANDARD = ("standard", "none")


class FusionTeacher(nn.Module):
    """A classifier on the students' last maps: concatenation → BN → ReLU → global average pooling → linear.

    Shape: maps (N, C_i, H, W) → (N, num_classes).
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        """Build the classifier for `channels` = Σ C_i."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_classes) of the students' maps."""
        return self.linear(self.relu(self.norm(torch.cat(list(maps), 1))).mean((2, 3)))


def last_map(network: nn.Module, image_size: int) -> tuple[str, int]:
    """Find the module whose output is a network's last feature map.

    That is the module `features`, where the network has one that returns a map (N, C, H, W). Otherwise it is, of all
    modules that return a tensor of four dimensions, the last one whose H·W is over 1 (what comes after it has been
    pooled already), or simply the last one where no map is larger.

    Args:
        network: classifier of images; tried out once in evaluation mode.
        image_size: side of the images in pixels.

    Returns:
        The module's name within the network, and C.

    Raises:
        OptionError: no module returns a map.
    """
    found: dict[str, Tensor] = {}
    names = {module: name for name, module in network.named_modules() if name}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            found.pop(names[module], None)  # of several calls the last one counts
            found[names[module]] = output

    hooks = [module.register_forward_hook(note) for module in names]
    training, first = network.training, next(network.parameters(), None)
    images = torch.zeros(1, 3, image_size, image_size, device=None if first is None else first.device)
    try:
        with isolate_rng(), torch.no_grad():
            network.eval()(images)
    finally:
        network.train(training)
        for hook in hooks:
            hook.remove()
    if not found:
        raise OptionError(
            f"teacher 'fusion' finds no feature maps in {type(network).__name__}: none of its modules returns a tensor "
            "(N, C, H, W); use teacher=standard"
        )
    wide = [name for name, output in found.items() if output.shape[2] * output.shape[3] > 1]
    chosen = "features" if "features" in found else (wide or list(found))[-1]
    return chosen, found[chosen].shape[1]


def standard_architecture(space: Any) -> Architecture:
    """The architecture of a space that stands for its standard convolutions.

    Args:
        space: the model space, or one of its networks.

    Raises:
        OptionError: the space names neither an architecture `standard` nor one `none`.
    """
    names = named(space)
    for name in STANDARD:
        if name in names:
            return names[name]
    raise OptionError(
        f"teacher 'standard' needs a space that names an architecture {' or '.join(map(repr, STANDARD))}; "
        f"{type(space).__name__} names {', '.join(names) or 'none at all'}: use teacher=fusion"
    )
