"""What a pass of a search changes only for a while; afterwards everything is what it was, bit for bit."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def preserved(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Undo every change to tensors."""
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)


@contextmanager
def moved(parameters: Sequence[Tensor], directions: Sequence[Tensor], scale: float) -> Iterator[None]:
    """Put θ + scale · direction in the place of θ, with one direction for each parameter."""
    with preserved(parameters):
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=scale)
        yield


@contextmanager
def without_gradient(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Spare the gradients of parameters that a pass does not train."""
    asked = [p for p in parameters if p.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
