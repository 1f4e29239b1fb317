"""An evaluator: here the one of nasbench with another loss."""

from __future__ import annotations

from typing import Any

import nni
import torch
from torch import Tensor
from torch.nn import functional as F

from nasbench.errors import check_range
from nasbench.evaluators.classification import Classification, ClassificationModule


class MixupModule(ClassificationModule):
    """Trains on blends of two images and of their labels (Zhang et al., ICLR 2018)."""

    alpha = 0.2

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        logits = self(share * images + (1 - share) * images.flip(0))
        loss = share * F.cross_entropy(logits, labels) + (1 - share) * F.cross_entropy(logits, labels.flip(0))
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(labels))
        return loss


@nni.trace  # NNI sends evaluators to other processes by their arguments
class Mixup(Classification):
    """Image classification on blended images."""

    def __init__(self, alpha: float = 0.2, **options: Any) -> None:
        check_range("alpha", alpha, gt=0)
        self.alpha = alpha
        super().__init__(**options)  # the options of Classification stay options of this class

    def _module(self, data: Any) -> MixupModule:
        module = MixupModule(data.num_classes, **self._optimisation)
        module.alpha = self.alpha
        return module
