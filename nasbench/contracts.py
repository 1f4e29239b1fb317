"""What the parts of a run promise each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nni.nas.evaluator.pytorch import LightningModule


@dataclass(frozen=True)
class SearchWishes:
    """What a strategy asks of the evaluator that it is going to search with, `None` where it leaves that alone.

    Attributes:
        epochs: limit of the search.
        meta_fraction: share of the training images on which architecture parameters learn, 0–1.
        learning_rate: of the weights θ, at its start.
    """

    epochs: int | None = None
    meta_fraction: float | None = None
    learning_rate: float | None = None


class Wishing:
    """Base of the strategies that have wishes; they are asked before the evaluator is built."""

    def wishes(self) -> SearchWishes:
        """What the evaluator should be built with."""
        raise NotImplementedError


def wishes_of(strategy: Any) -> SearchWishes:
    """What a strategy asks for; nothing where it is not `Wishing`."""
    return strategy.wishes() if isinstance(strategy, Wishing) else SearchWishes()


class SearchModule(LightningModule):
    """Base of Lightning modules that tell a one-shot search how their weights are to be trained.

    NNI optimises by hand in a search and refuses Lightning's own clipping, so the strategy has to do it.

    Attributes:
        gradient_clip: largest norm of the gradient of the weights θ, none where `None`.
    """

    gradient_clip: float | None = None
