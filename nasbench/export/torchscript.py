"""TorchScript, for LibTorch in C++ and on phones. The card's entries are extra files."""

from pathlib import Path

import torch
from torch import Tensor

from nasbench.export.card import Card
from nasbench.export.format import Deployed, Runnable

SUFFIX = ".torchscript"
PACKAGES = ()
RUNS_CODE = True  # a program, with operators that write files


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    traced = torch.jit.trace(network, (example,), check_trace=False)
    torch.jit.save(traced, path, _extra_files=card.texts())


def read(path: Path) -> Runnable:
    """See `Format`."""
    texts = dict.fromkeys(Card.model_fields, "")
    loaded = torch.jit.load(path, map_location="cpu", _extra_files=texts)
    return Runnable(Card.read(texts, path), loaded)
