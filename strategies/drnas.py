"""DrNAS: the weights of a layer's candidates are drawn from a Dirichlet distribution that is learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Dirichlet, kl_divergence
from torch.nn import functional as F

from nasbench.options import Rate, checked
from nasbench.strategies.differentiable import Differentiable
from nasbench.strategies.mixed import MixedLayer
from nasbench.strategies.supernet import DifferentiableModule


def concentration(alpha: Tensor) -> Tensor:
    """(K,) β = elu(α) + 1 > 0 of the Dirichlet distribution; about 1 at first: all mixtures are equally likely."""
    return F.elu(alpha.to(torch.promote_types(alpha.dtype, torch.float32))) + 1


class DirichletLayer(MixedLayer):
    """A layer whose mixture is drawn anew in every pass, π ~ Dir(β)."""

    @staticmethod
    def shares(alpha: Tensor) -> Tensor:
        """(K,) the mean of Dir(β)."""
        beta = concentration(alpha.detach())
        return (beta / beta.sum()).float()

    def weights(self) -> Tensor:
        """(K,) a point of the simplex, with its pathwise gradient by β."""
        drawn: Tensor = Dirichlet(concentration(self._arch_alpha)).rsample()
        return drawn


class DrNASModule(DifferentiableModule):
    """DrNAS's search: β by a meta batch, θ by a training batch, each with mixtures that are freshly drawn."""

    strategy: DrNAS

    def architecture_gradient(self, train: Any, meta: Any, alphas: Sequence[nn.Parameter]) -> list[Tensor]:
        """∇_α of L_meta(θ, π) + λ Σ KL(Dir(β) ‖ Dir(1)), π one draw (Chen et al., ICLR 2021, section 3.2)."""
        found = self.gradient(meta, alphas)
        for number, alpha in enumerate(alphas):
            if id(alpha) not in self._soft:
                beta = concentration(alpha)
                distance = kl_divergence(Dirichlet(beta), Dirichlet(torch.ones_like(beta)))
                found[number] = found[number] + self.strategy.anchor * torch.autograd.grad(distance, alpha)[0]
        return found


class DrNAS(Differentiable):
    """DrNAS: differentiable search over the distribution of mixtures. Source: Chen et al., ICLR 2021."""

    module_class = DrNASModule
    layer_class = DirichletLayer
    rules = ("none",)
    presets: ClassVar = {"quick": {"eta": 0.1}, "cifar": {"eta": 3e-3}, "paper": {"eta": 6e-4, "meta_fraction": 0.5}}

    @checked
    def __init__(self, *, anchor: Rate = 1e-3, **options: Any) -> None:
        """Set λ, how strongly β is held near 1, and the options of `Differentiable`."""
        super().__init__(**options)
        self.anchor = anchor
