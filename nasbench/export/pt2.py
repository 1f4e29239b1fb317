"""The archive of `torch.export`, for PyTorch itself and its compilers. The card's entries are extra files."""

from pathlib import Path

import torch
from torch import Tensor

from nasbench.export.card import Card
from nasbench.export.format import DYNAMIC, Deployed, Runnable

SUFFIX = ".pt2"
PACKAGES = ()
RUNS_CODE = True  # parts of it are pickled


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    program = torch.export.export(network, (example,), dynamic_shapes=DYNAMIC)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # with the folders of this machine
    torch.export.save(program, path, extra_files=card.texts())


def read(path: Path) -> Runnable:
    """See `Format`."""
    texts = dict.fromkeys(Card.model_fields, "")
    program = torch.export.load(path, extra_files=texts)
    return Runnable(Card.read(texts, path), program.module())
