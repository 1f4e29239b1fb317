"""A search space: an NNI ModelSpace."""

from __future__ import annotations

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nasbench.options import Count, checked


class KernelSizes(ModelSpace):
    """A small convolutional network whose every layer chooses its kernel."""

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
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))

    def architectures(self) -> dict[str, dict[str, str]]:
        # Optional: names for --choice and --architecture. The first one is what `fixed` trains without a choice.
        return {"smallest": {f"layer{i}.kernel": "conv1" for i in range(self.layers)}}

    @staticmethod
    def _layer(channels: int, kernel: int) -> nn.Module:
        convolution = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU())
