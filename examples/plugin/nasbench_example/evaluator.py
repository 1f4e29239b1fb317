"""An evaluator: here the one of nasbench with another loss."""

from __future__ import annotations

from typing import Any

import nni
import torch
from torch import Tensor
from torch.nn import functional as F

from nasbench.evaluators.classification import Classification, ClassificationModule
from nasbench.options import Positive, checked


class MixupModule(ClassificationModule):
    """Trains on blends of two images and of their labels (Zhang et al., ICLR 2018)."""

    def __init__(self, num_classes: int, alpha: float, **options: Any) -> None:
        super().__init__(num_classes, **options)
        self.alpha = alpha

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        logits = self(share * images + (1 - share) * images.flip(0))
        loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels.flip(0))
        return loss, {}  # what else is to be logged; the accuracy on blends says little


@nni.trace  # NNI sends evaluators to other processes by their arguments
class Mixup(Classification):
    """Image classification on blended images."""

    module_class = MixupModule

    @checked
    def __init__(self, alpha: Positive = 0.2, **options: Any) -> None:
        self.alpha = alpha
        super().__init__(**options)  # the options of Classification stay options of this class

    def module_options(self, data: Any) -> dict[str, Any]:
        return {"alpha": self.alpha}
