"""How far the gradient of a supernet can be trusted: fused against plain kernels, float32 against float64, and noise.

    python experiments/rounding.py

Prints the relative difference of the gradient of all weights (Euclidean norm) on the first batch of digits, at
initialisation.
"""

from __future__ import annotations

import os

import nni.nas.strategy  # noqa: F401  (before nni.nas.oneshot)
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from nasbench.data.arrays import Digits
from nasbench.kernels.operator import ENVIRONMENT
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.strategies.pmpl import PMPL

SIZE = 16
NOISE = (1e-12, 1e-10, 1e-8, 1e-7, 1e-6)


def gradient(kernels: str, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of every weight in one vector, computed in the images' type."""
    os.environ[ENVIRONMENT] = kernels
    torch.manual_seed(0)
    network = PMPL().mutate_model(MobileNetV2MetaPooling(width=0.25, image_size=SIZE, num_classes=10))
    network = network.to(images.dtype).to(memory_format=torch.channels_last).train()
    gradients = torch.autograd.grad(cross_entropy(network(images), labels), list(network.parameters()))
    return torch.cat([g.flatten().double() for g in gradients])


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    data = Digits(stage="search", image_size=SIZE, batch_size=64)
    data.setup()
    batch, labels = next(iter(data.train_dataloader()))
    images = data.normalise(batch).double()
    exact = gradient("reference", images, labels)

    def tell(what: str, other: Tensor) -> None:
        print(f"| {what} | {((other - exact).norm() / exact.norm()).item():.1e} |")

    print("| against plain kernels in float64 | difference of the gradient |\n|---|---|")
    tell("fused kernels, float64", gradient("auto", images, labels))
    tell("plain kernels, float32", gradient("reference", images.float(), labels))
    tell("fused kernels, float32", gradient("auto", images.float(), labels))
    noise = torch.randn_like(images)
    for size in NOISE:
        tell(
            f"plain kernels, float64, every pixel changed by about {size:.0e} of itself",
            gradient("reference", images * (1 + size * noise), labels),
        )


if __name__ == "__main__":
    main()
