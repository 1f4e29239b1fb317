"""What a pass of a search changes only for a while; afterwards everything is what it was, bit for bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def moved(parameters: Sequence[Tensor], directions: Sequence[Tensor], scale: float) -> Iterator[None]:
    """Put θ + scale · direction in the place of θ, with one direction for each parameter."""
    saved = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=scale)
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, saved, strict=True):
                parameter.copy_(value)


@contextmanager
def preserved_buffers(module: nn.Module) -> Iterator[None]:
    """Undo every change to buffers, batch statistics above all."""
    buffers = list(module.buffers())
    saved = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, saved, strict=True):
                buffer.copy_(value)


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
