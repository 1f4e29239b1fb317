"""What the gradients of α say of the candidates, and which of several is taken when they do not tell."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler

from nasbench.facts import Doubt, Exclusion
from nasbench.registry import declared
from nasbench.strategies.evidence import Races
from nasbench.strategies.mixed import layers_of

Undecided = Literal["cheapest", "largest_pi"]


class Evidence:
    """The races between the candidates of every label (`values`), at δ = `delta` for the whole network; see `Races`.

    `excluded` is label → candidate → why it is out, in the form of records.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], delta: float) -> None:
        self._values = {label: list(found) for label, found in values.items()}
        self.races = Races([len(found) for found in self._values.values()], delta)
        self._rows = {label: row for row, label in enumerate(self._values)}
        self.excluded: dict[str, dict[str, dict[str, Any]]] = {label: {} for label in self._values}

    def observe(
        self,
        gradients: Mapping[str, Tensor],
        alphas: Mapping[str, Tensor],
        second_half: bool,
        batch: int | None,
        step: int,
    ) -> list[tuple[str, Any]]:
        """Take in the gradients ∂L/∂α (K,) of a step at α (K,), by label; returns label and candidate of who is out.

        With π = softmax(α), ∂L/∂α_k = π_k (h_k − Σ π_j h_j): a gradient divided by π is h up to a constant. `batch`
        is the number of the meta batch, which has the same images in every pass, `None` where none has.
        """
        if not gradients:
            return []
        ratios = [gradients[label].double() / alphas[label].detach().double().softmax(0) for label in gradients]
        flat = torch.cat(ratios).cpu().numpy()
        h = np.full(self.races.alive.shape, np.nan)
        for label in gradients:
            size = len(self._values[label])
            h[self._rows[label], :size], flat = flat[:size], flat[size:]
        labels = list(self._values)
        found = []
        for loser in self.races.update(h, second_half, batch):
            label = labels[loser.layer]
            candidate, by = self._values[label][loser.candidate], self._values[label][loser.by]
            self.excluded[label][str(candidate)] = Exclusion(step=step, by=str(by), odds=loser.odds).model_dump()
            found.append((label, candidate))
        return found

    def survivors(self, label: str) -> list[Any]:
        """The candidates of a label that are not out."""
        return [v for v, alive in zip(self._values[label], self.races.alive[self._rows[label]], strict=False) if alive]

    def facts(self, label: str) -> dict[str, Any]:
        """`doubt` and `halves` of a label as far as they are known, in the form of records."""
        values, found = self._values[label], dict[str, Any]()
        best = self.races.comparison(self._rows[label])
        if best is not None:
            names = {"best": str(values[best.best]), "rival": str(values[best.rival])}
            found["doubt"] = Doubt(**{**asdict(best), **names}).model_dump()
        halves = self.races.preferred(self._rows[label])
        return found if halves is None else {**found, "halves": [str(values[k]) for k in halves]}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"excluded": self.excluded, "races": {k: torch.from_numpy(v) for k, v in self.races.state().items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's `state`."""
        self.excluded = state["excluded"]
        self.races.load({k: v.numpy() for k, v in state["races"].items()})


def repeated(loader: Any) -> bool:
    """Whether every batch of a `DataLoader` has the same images in every pass, if need be by its sampler's `repeat`."""
    repeat = declared(loader.sampler, "repeat", None)
    if repeat is not None:
        repeat()
    return repeat is not None or isinstance(loader.sampler, SequentialSampler)


def pick(rule: Undecided, label: str, survivors: Sequence[Any], pi: Mapping[Any, float], network: nn.Module) -> Any:
    """The candidate that is taken of a label's survivors, by their π or, in the supernet, by their cost.

    `cheapest` has the fewest parameters, then the smallest window of a pooling, then the first place in the space.
    """
    if rule == "largest_pi":
        return max(survivors, key=lambda candidate: pi[candidate])
    return min(survivors, key=lambda candidate: [layer.cost(candidate) for layer in layers_of(network, label)])
