"""What the gradients of α say of the candidates, and which of several is taken when they do not tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from nasbench.facts import Doubt, Exclusion
from nasbench.strategies.evidence import Races
from nasbench.strategies.mixed import MixedLayer

Undecided = Literal["cheapest", "largest_pi"]


@dataclass(frozen=True)
class Excluded:
    """A candidate that evidence has thrown out of its layer."""

    label: str
    candidate: Any
    by: Any
    odds: float


class Evidence:
    """The races between the candidates of every label (`values`), at δ = `delta` for the whole network; see `Races`.

    `excluded` is label → candidate → why it is out, in the form of records.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]], delta: float) -> None:
        """Start the races.

        Args:
            values: label → its candidates.
            delta: δ of the whole network.
        """
        self._values = {label: list(found) for label, found in values.items()}
        self._races = Races([len(found) for found in self._values.values()], delta)
        self._rows = {label: row for row, label in enumerate(self._values)}
        self.excluded: dict[str, dict[str, dict[str, Any]]] = {label: {} for label in self._values}

    def observe(
        self, gradients: Mapping[str, Tensor], alphas: Mapping[str, Tensor], second_half: bool, looks: float
    ) -> list[Excluded]:
        """Take in the gradients ∂L/∂α (K,) of a step, taken at α (K,), by label; returns who is out if the caller acts.

        With π = softmax(α), ∂L/∂α_k = π_k (h_k − Σ π_j h_j): a gradient divided by π is h up to a constant. `looks` is
        how often an image was seen so far, on average.
        """
        if not gradients:
            return []
        ratios = [gradients[label].double() / alphas[label].detach().double().softmax(0) for label in gradients]
        flat = torch.cat(ratios).cpu().numpy()
        h = np.full(self._races.alive.shape, np.nan)
        for label in gradients:
            size = len(self._values[label])
            h[self._rows[label], :size], flat = flat[:size], flat[size:]
        labels = list(self._values)
        losers = self._races.update(h, second_half, looks)
        named = [(labels[x.layer], x) for x in losers]
        return [Excluded(k, self._values[k][x.candidate], self._values[k][x.by], x.odds) for k, x in named]

    def note(self, out: Excluded, step: int) -> None:
        """Keep why a candidate is out."""
        why = Exclusion(step=step, by=str(out.by), odds=out.odds)
        self.excluded[out.label][str(out.candidate)] = why.model_dump()

    def survivors(self, label: str) -> list[Any]:
        """The candidates of a label that are not out."""
        return [v for v, alive in zip(self._values[label], self._races.alive[self._rows[label]], strict=False) if alive]

    def can_decide(self, steps: int, batches: int) -> bool:
        """See `Races.can_decide`."""
        return self._races.can_decide(steps, batches)

    def facts(self, label: str) -> dict[str, Any]:
        """`doubt` and `halves` of a label as far as they are known, in the form of records."""
        values, found = self._values[label], dict[str, Any]()
        best = self._races.comparison(self._rows[label])
        if best is not None:
            found["doubt"] = Doubt(
                best=str(values[best.best]),
                rival=str(values[best.rival]),
                mean=best.mean,
                deviation=best.deviation,
                steps=best.steps,
                needed=best.needed,
            ).model_dump()
        halves = self._races.preferred(self._rows[label])
        return found if halves is None else {**found, "halves": [str(values[k]) for k in halves]}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"excluded": self.excluded, "races": {k: torch.from_numpy(v) for k, v in self._races.state().items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's `state`."""
        self.excluded = state["excluded"]
        self._races.load({k: v.numpy() for k, v in state["races"].items()})


def pick(rule: Undecided, label: str, survivors: Sequence[Any], pi: Mapping[Any, float], network: nn.Module) -> Any:
    """The candidate that is taken of a label's survivors, by their π or, in the supernet, by their cost.

    `cheapest` has the fewest parameters, then the smallest window of a pooling, then the first place in the space.
    """
    if rule == "largest_pi":
        return max(survivors, key=lambda candidate: pi[candidate])
    layers = [m for m in network.modules() if isinstance(m, MixedLayer) and m.label == label]
    return min(survivors, key=lambda candidate: [layer.cost(candidate) for layer in layers])
