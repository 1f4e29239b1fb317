"""How good a supernet is on its held-out images, as it stands."""

from collections.abc import Iterator
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.contracts import main_logits
from nasbench.distributed import mean_over_processes
from nasbench.errors import OptionError
from nasbench.registry import declared


def ordered(evaluator: Any, strategy: str) -> Any:
    """An evaluator's data set. Raises OptionError: it cannot give its held-out images in order."""
    if declared(evaluator.datamodule, "training_loader", None) is None:
        raise OptionError(f"{strategy} needs held-out images in order: a data set that derives from ImageData")
    return evaluator.datamodule


def batches(module: LightningModule, data: Any, indices: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Some training images by their indices, in this order and not augmented, ready for the module's network."""
    for batch in data.training_loader(indices, False):
        images, labels = (part.to(module.device) for part in batch)  # not by Lightning, which would augment them
        yield module.trainer.precision_plugin.convert_input(data.normalise(images)), labels


@torch.no_grad()
def held_out(module: LightningModule, network: nn.Module, data: Any) -> tuple[float, float]:
    """Accuracy on the held-out images, and minus the loss, which tells equal accuracies apart."""
    total = torch.zeros(3, device=module.device)
    network.eval()
    with module.trainer.precision_plugin.forward_context():
        for images, labels in batches(module, data, data.splits()[1]):
            logits = main_logits(network(images))
            right = (logits.argmax(1) == labels).sum()
            loss = F.cross_entropy(logits.float(), labels, reduction="sum")
            total += torch.stack([right, -loss, total.new_tensor(len(labels))])
    network.train()
    correct, gain, count = mean_over_processes([total])[0].tolist()
    return correct / count, gain / count
