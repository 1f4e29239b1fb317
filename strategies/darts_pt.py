"""DARTS with perturbation-based selection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from nasbench.distributed import copy_from_first
from nasbench.options import Fraction, checked
from nasbench.strategies.darts import DARTS, DartsModule
from nasbench.strategies.held_out import held_out, ordered
from nasbench.strategies.mixed import layers_of
from nasbench.strategies.restored import preserved
from nasbench.strategies.supernet import ABSENT


class PerturbationModule(DartsModule):
    """DARTS's search, in whose last part layers are decided one by one, in random order, while all others train on."""

    strategy: DartsPT

    def after_step(self) -> None:
        """Decide as many layers as are due, evenly over the last part of the search."""
        last = max(1.0, self.strategy.selection * self._total)  # steps
        done = 1 - (self._total - self._searched) / last
        while waiting := [k for k, a in self.alphas.items() if any(a is o for o in self.open_alphas())]:
            if len(self.decisions) >= math.ceil(done * (len(self.decisions) + len(waiting))):
                break
            number = torch.randint(len(waiting), (1,), device=self.device)
            copy_from_first([number])
            self._select(waiting[int(number)])
        self.stop_when_decided()

    def _select(self, label: str) -> None:
        """Fix the candidate without which the network is worst (Wang et al., ICLR 2021, algorithm 1)."""
        pi, without = self.probabilities()[label], {}
        for candidate in pi:
            with self._removed(label, candidate):
                without[candidate] = held_out(self, self.model, self.strategy.data)
        kept = min(without, key=lambda candidate: without[candidate])
        self.decide(label, "removal", pi)
        for candidate in pi:
            if candidate != kept:
                self.exclude(label, candidate)  # its π may be larger
        self.fix(label, kept)

    @contextmanager
    def _removed(self, label: str, candidate: Any) -> Iterator[None]:
        """Within, the network is without a candidate, as if it had been excluded."""
        layers = layers_of(self, label)
        with preserved([self.alphas[label]]):
            with torch.no_grad():
                self.alphas[label][self._index(label, candidate)] = ABSENT
            for layer in layers:
                layer.excluded.add(candidate)
            try:
                yield
            finally:
                for layer in layers:
                    layer.excluded.remove(candidate)


class DartsPT(DARTS):
    """DARTS that keeps in every layer the candidate whose removal hurts held-out accuracy most, whatever its π.

    The paper decides after the search, and trains between two decisions; here the decisions fall into the last part of
    the search, so that it costs what the others cost beside the passes on held-out images. Source: Wang et al.,
    "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021.
    """

    module_class = PerturbationModule
    rules = ("none",)
    presets: ClassVar = DARTS.presets

    @checked
    def __init__(self, *, selection: Fraction = 0.5, **options: Any) -> None:
        """Set the share of the search, after its warm-up, in which layers are decided, and the options of `DARTS`."""
        super().__init__(**options)
        self.selection = selection
        self.data: Any = None

    def mutate_evaluator(self, evaluator: Any) -> Any:
        """See `Differentiable`; the evaluator's data set must give its held-out images in order."""
        self.data = ordered(evaluator, "darts_pt")
        return super().mutate_evaluator(evaluator)
