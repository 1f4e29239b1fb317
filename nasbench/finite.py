"""Numbers that are not finite end a run: what comes after them means nothing."""

from typing import Any

import torch
from pytorch_lightning import Callback
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nasbench.errors import NonFiniteError

EVERY = 20  # steps between two looks at the loss; each waits for the device


def check_finite(stage: str, step: int, module: nn.Module, loss: Tensor | None = None) -> None:
    """Check a loss, and all parameters and batch statistics of a module; one transfer from the device.

    Raises NonFiniteError: names stage, step and the first tensor that has a NaN or an infinity, else the loss.
    """
    tensors: dict[str, Tensor] = dict(module.named_parameters())
    # Of the buffers only these: others may hold an infinity for good, as masks do.
    for prefix, part in module.named_modules():
        if isinstance(part, _NormBase):
            tensors |= dict(part.named_buffers(prefix, recurse=False))
    if loss is not None:
        tensors["the training loss"] = loss
    finite = torch.stack([t.detach().isfinite().all() for t in tensors.values()]).tolist() if tensors else []
    for name, fine in zip(tensors, finite, strict=True):
        if not fine:
            raise NonFiniteError(
                f"{stage} stopped at step {step}: {name} is not finite; try a lower learning rate (in a search also "
                "eta or zeta) or -e gradient_clip=1; the last good checkpoint is kept"
            )


class FiniteGuard(Callback):
    """Ends the training when a loss (every few steps) or anything (each epoch, before a test) is no longer finite."""

    def __init__(self, stage: str) -> None:
        self._stage, self._steps = stage, 0
        self._sum: Tensor | None = None  # on the device; what is not finite stays so in a sum

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Count anew for every network."""
        self._steps, self._sum = 0, None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Add the loss up; look at the sum now and then."""
        self._steps += 1
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._sum = loss.detach().float() + (0.0 if self._sum is None else self._sum)
        if self._steps % EVERY == 0 and self._sum is not None and not bool(self._sum.isfinite()):
            check_finite(self._stage, self._steps, pl_module, self._sum)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look at everything."""
        check_finite(self._stage, self._steps, pl_module, self._sum)
        self._sum = None

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at what is going to be tested."""
        check_finite("test", self._steps, pl_module)
