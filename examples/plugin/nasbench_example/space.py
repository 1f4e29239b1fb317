"""A search space: an NNI ModelSpace, one of whose candidates is a gate of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nasbench.options import Count, checked
from nasbench.spaces.operations.fused import GatedEnhancer, PoolingTerm


class EdgeGate(GatedEnhancer):
    """Gates every row and column of a channel by its mean: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.rows = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)
        self.columns = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.rows(x.mean(3)).sigmoid().unsqueeze(3), self.columns(x.mean(2)).sigmoid().unsqueeze(2)


class KernelSizes(ModelSpace):
    """A small convolutional network whose layers choose their kernels, and its end an enhancer."""

    # Optional: what `--preset quick` means for this space.
    presets: ClassVar = {"quick": {"channels": 8}}

    @checked
    def __init__(self, layers: Count = 3, channels: Count = 16, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = layers
        self.stem = nn.Conv2d(3, channels, 3, 2, 1)
        self.body = nn.Sequential(
            *(
                LayerChoice(
                    {f"conv{k}": self._layer(channels, k) for k in (1, 3, 5)},
                    label=f"layer{i}.kernel",  # every label is given; dots are fine, slashes are not
                )
                for i in range(layers)
            )
        )
        # A supernet computes pools and gates that say what they are in one pass.
        pools = {name: PoolingTerm(name) for name in ("none", "max3")}
        self.enhancer = LayerChoice({**pools, "edges": EdgeGate(channels)}, label="enhancer")
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.enhancer(self.body(self.stem(x))).mean((2, 3)))

    def architectures(self) -> dict[str, dict[str, str]]:
        # Optional: names for --choice and --architecture. The first one is what `fixed` trains without a choice.
        kernels = {name: {f"layer{i}.kernel": name for i in range(self.layers)} for name in ("conv1", "conv5")}
        return {
            "small": {**kernels["conv1"], "enhancer": "none"},
            "large": {**kernels["conv5"], "enhancer": "none"},
            "gated": {**kernels["conv1"], "enhancer": "edges"},
        }

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        # Optional: what the label of a run says of an option, here `×8` in the place of `channels 8`.
        return {"channels": "" if options["channels"] == 16 else f"×{options['channels']}"}

    @staticmethod
    def _layer(channels: int, kernel: int) -> nn.Module:
        convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
