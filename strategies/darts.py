"""DARTS of first and second order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from nasbench.distributed import mean_over_processes
from nasbench.options import checked
from nasbench.strategies.differentiable import Differentiable
from nasbench.strategies.restored import moved
from nasbench.strategies.supernet import DifferentiableModule

HESSIAN_STEP = 0.01  # ε · ‖∇θ'‖, as in the paper


class DartsModule(DifferentiableModule):
    """DARTS's search."""

    strategy: DARTS

    def architecture_gradient(self, train: Any, meta: Any, alphas: Sequence[nn.Parameter]) -> list[Tensor]:
        """∇_α L_meta(θ, α), or with order 2 the gradient through the unrolled step θ′ = θ − ξ ∇_θ L_train(θ, α).

        Order 2: ∇_α L_meta(θ′, α) − ξ (∇_α L_train(θ⁺, α) − ∇_α L_train(θ⁻, α)) / 2ε, where θ± = θ ± ε v,
        v = ∇_θ′ L_meta(θ′, α) and ε = 0.01 / ‖v‖ (Liu et al., ICLR 2019, eq. 7 and 8).
        """
        if self.strategy.order == 1:
            return self.gradient(meta, alphas)
        weights, rate = self.weights(), self.learning_rate()
        with moved(weights, self.virtual_gradient(train, weights), -rate):
            both = self.gradient(meta, [*alphas, *weights])
        first, direction = both[: len(alphas)], mean_over_processes(both[len(alphas) :])
        norm = float(torch.stack([d.float().norm() for d in direction]).norm())
        if norm == 0.0:
            return first
        epsilon = HESSIAN_STEP / norm
        with moved(weights, direction, epsilon):
            above = self.gradient(train, alphas)
        with moved(weights, direction, -epsilon):
            below = self.gradient(train, alphas)
        return [g - rate * (a - b) / (2 * epsilon) for g, a, b in zip(first, above, below, strict=True)]


class DARTS(Differentiable):
    """DARTS, of first or second order. Source: Liu et al., ICLR 2019. NNI's own has the first order only."""

    module_class = DartsModule
    alpha_decay = 1e-3  # as published
    presets: ClassVar = {
        "quick": {"eta": 0.1, "warmup_epochs": 3},
        "cifar": {"eta": 3e-3, "warmup_epochs": 5},
        "finetune": {"warmup_epochs": 1},
        "paper": {"eta": 3e-4, "meta_fraction": 0.5},
    }

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        return {"order": f"order {options['order']}"}

    @checked
    def __init__(self, *, order: Literal[1, 2] = 1, **options: Any) -> None:
        """Set the order, 1 or 2 (unrolled; about three times the passes), and the options of `Differentiable`."""
        super().__init__(**options)
        self.order = order
