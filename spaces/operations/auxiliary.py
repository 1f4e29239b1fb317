"""Losses that modules add to training: declared by a base class, collected by the evaluator."""

from typing import Any

import torch
from torch import Tensor, nn


class AuxiliaryLoss(nn.Module):
    """Base of modules that add a loss of their own to the training of the network they are in."""

    # The loss of the last training forward, a scalar, which `forward` sets; `None` in evaluation and once
    # `auxiliary_loss` has collected it.
    auxiliary_loss: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary_loss = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loss out of copies: it belongs to one forward pass, and torch cannot copy it."""
        return {**self.__dict__, "auxiliary_loss": None}


def auxiliary_loss(model: nn.Module) -> Tensor | None:
    """The sum of the auxiliary losses of a network's last training forward, a scalar; `None` where there is none.

    Each loss is handed out once and forgotten by its module. So a module that a later step does not run (a candidate
    that was not sampled) adds nothing to that step, where its old graph could no longer be differentiated.
    """
    losses = []
    for module in model.modules():
        if isinstance(module, AuxiliaryLoss) and module.auxiliary_loss is not None:
            losses.append(module.auxiliary_loss)
            module.auxiliary_loss = None
    return torch.stack(losses).sum() if losses else None
