"""SPOS: a supernet of uniformly drawn paths, and evolution among its networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from nasbench.answered import Answers, Lookup
from nasbench.architecture import Architecture
from nasbench.contracts import Drawing
from nasbench.errors import OptionError
from nasbench.options import Count, Fraction, Rate, Seed, checked
from nasbench.strategies.differentiable import Differentiable
from nasbench.strategies.evolution import Evolution
from nasbench.strategies.held_out import batches, held_out, ordered
from nasbench.strategies.mixed import layers_of
from nasbench.strategies.proxyless import PathLayer, ProxylessModule

NORMALISATIONS = nn.modules.batchnorm._BatchNorm
FORBIDDEN = -1.0  # below every measure
TIE = 1e-6  # less than one image in a million


class UniformLayer(PathLayer):
    """A layer that computes one candidate, all equally likely."""

    def export_probs(self, memo: dict[str, Any]) -> dict[str, dict[Any, float]]:
        """Nothing: no probability is learnt."""
        return {}


class UniformModule(ProxylessModule):
    """SPOS's search: every step trains one path, all equally likely; then networks of the trained supernet compete."""

    strategy: Spos

    def set_model(self, model: nn.Module) -> None:
        """See `DifferentiableModule`; α stays at 0."""
        super().set_model(model)
        with torch.no_grad():
            for alpha in self.all_alphas:
                alpha.zero_()

    def open_alphas(self) -> list[nn.Parameter]:
        """None: no α is trained."""
        return []

    def on_train_end(self) -> None:
        """Let networks compete by their accuracy with the supernet's weights, and take the best."""
        rivals = self.strategy.rivals
        self.strategy.measures = measures = [self.measure(each) for each in rivals]
        self._taken = dict(rivals[measures.index(max(measures))]) if rivals else self.compete()
        pi = self.probabilities() if self.open_alphas() else {}
        for label in self._taken:
            self.decide(label, self.strategy.decided_by, pi.get(label, {}))
        super().on_train_end()

    def compete(self) -> Architecture:
        """The best that evolution meets."""
        space = Answers.of({label: list(mutable.values) for label, mutable in self.strategy.mutables.items()})
        evolution = Evolution(seed=self.strategy.seed)
        evolution(space, Lookup(self.measure, self.strategy.networks))
        best: Any = next(iter(evolution.list_models(limit=1)))
        return dict(best.sample)

    def measure(self, architecture: Architecture) -> float:
        """Accuracy on the meta images of a network with the supernet's weights; of equal ones the smaller loss is more.

        Its batch statistics are those of its own maps (Guo et al., section 3.4): of `recalibration` training batches.
        """
        if not self.strategy.allows(architecture):
            return FORBIDDEN
        for label, candidate in architecture.items():
            for layer in layers_of(self, label):
                layer.drawn = [list(layer.names).index(candidate)]
        norms = [m for m in self.model.modules() if isinstance(m, NORMALISATIONS)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        data = self.strategy.data
        images = np.random.default_rng(0).permutation(data.splits()[0])
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for batch, _ in batches(self, data, images[: self.strategy.recalibration * data.batch_size]):
                self.model(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        accuracy, gain = held_out(self, self.model, data)
        return accuracy + TIE * gain / (1 - gain)


class Spos(Drawing, Differentiable):
    """Single path one-shot: uniform paths train a supernet, in which evolution then finds the best network.

    Source: Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling", ECCV 2020.
    """

    module_class = UniformModule
    layer_class = UniformLayer
    rules = ("none",)
    decided_by = "the best that evolution met in the supernet"
    rivals: Sequence[Architecture] = ()  # that compete in place of those that are proposed; see `Strategy`
    measures: Sequence[float] = ()

    @checked
    def __init__(
        self,
        *,
        networks: Count = 100,  # that are measured in the supernet
        recalibration: Count = 5,  # training batches that give each of them its batch statistics
        zeta: Rate | None = None,  # learning rate ζ of θ at its start; the evaluator's where `None`
        epochs: Count | None = None,  # limit of the search, the evaluator's where `None`
        meta_fraction: Fraction | None = None,  # share of the training images that measure; the data set's where `None`
        seed: Seed = 0,
    ) -> None:
        """Set the options."""
        super().__init__(zeta=zeta, epochs=epochs, meta_fraction=meta_fraction)
        self.networks, self.recalibration, self.seed = networks, recalibration, seed
        self.data: Any = None

    def mutate_model(self, model: Any) -> Any:
        """See `Differentiable`. Raises OptionError: something else than a layer is to be chosen."""
        model = super().mutate_model(model)
        layers = {str(m.label) for m in model.modules() if isinstance(m, PathLayer)}
        if others := [label for label in self.mutables if label not in layers]:
            raise OptionError(
                f"{type(self).__name__.lower()} draws paths of layers, and choice {others[0]!r} is of another kind"
            )
        return model

    def mutate_evaluator(self, evaluator: Any) -> Any:
        """See `Differentiable`; the evaluator's data set must give its held-out images in order."""
        self.data = ordered(evaluator, type(self).__name__.lower())
        return super().mutate_evaluator(evaluator)
