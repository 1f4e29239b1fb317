"""ProxylessNAS: a step trains one path, and α compares two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nasbench.distributed import copy_from_first
from nasbench.strategies.differentiable import Differentiable
from nasbench.strategies.mixed import MixedLayer
from nasbench.strategies.supernet import DifferentiableModule


class PathLayer(MixedLayer):
    """A layer that computes only the one or two candidates that its module has drawn, by their places."""

    drawn: Sequence[int] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The first of what was drawn; a second one is computed as well, where α is being trained."""
        names = [self.names[k] for k in self.drawn or (int(self._arch_alpha.argmax()),)]
        first = self[names[0]](*args, **kwargs)
        if len(names) == 1:
            return first
        pi = self._arch_alpha[list(self.drawn)].softmax(0)
        gates = pi - pi.detach() + pi.new_tensor([1.0, 0.0])
        return self._reduction([first, self[names[1]](*args, **kwargs)], gates)


class ProxylessModule(DifferentiableModule):
    """ProxylessNAS's search: θ along one path that is drawn by π; α by two, of which one is open."""

    def __init__(self, training_module: Any, strategy: Any) -> None:
        """See `DifferentiableModule`."""
        super().__init__(training_module, strategy)
        self._compared: list[tuple[nn.Parameter, list[int], Tensor]] = []  # α, two places, log Σ exp α of these

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        """See `DifferentiableModule`; θ is trained along a path of its own."""
        self._draw(1)
        return super().training_step(batch, batch_idx)

    def architecture_gradient(self, train: Any, meta: Any, alphas: Sequence[nn.Parameter]) -> list[Tensor]:
        """∂L/∂α_i = Σ_j ∂L/∂g_j π_j (δ_ij − π_i) over the two that were drawn, g being their gates (eq. 4)."""
        drawn = self._draw(2)
        self._compared = [(a, drawn[id(a)], a.detach()[drawn[id(a)]].logsumexp(0)) for a in alphas if id(a) in drawn]
        found = self.gradient(meta, alphas)
        self._draw(1)
        return found

    def after_step(self) -> None:
        """Give the two that were compared the probability that they had together: the others have not been heard."""
        with torch.no_grad():
            for alpha, places, before in self._compared:
                alpha[places] += before - alpha[places].logsumexp(0)
        self._compared = []

    def _draw(self, count: int) -> dict[int, list[int]]:
        """Draw candidates of every α by π without replacement, the open one first; in all processes the same."""
        layers = [m for m in self.supernet_modules() if isinstance(m, PathLayer)]
        drawn: dict[int, Tensor] = {}
        for alpha in {id(layer._arch_alpha): layer._arch_alpha for layer in layers}.values():
            pi = alpha.detach().softmax(0)
            several = pi.multinomial(min(count, len(pi)))
            drawn[id(alpha)] = several[pi[several].multinomial(len(several))]
        copy_from_first(list(drawn.values()))
        places = {key: tensor.tolist() for key, tensor in drawn.items()}
        for layer in layers:
            layer.drawn = places[id(layer._arch_alpha)]
        return places


class Proxyless(Differentiable):
    """ProxylessNAS: a step trains one sampled path, so the supernet needs the memory of one network.

    Adam has no momentum, so that only the two candidates move that were compared. (NNI's own computes all candidates
    for α, and answers with a random draw.) Source: Cai et al., ICLR 2019, section 3.2.
    """

    module_class = ProxylessModule
    layer_class = PathLayer
    rules = ("none",)
    alpha_betas = (0.0, 0.999)
    presets: ClassVar = {"quick": {"eta": 0.1}, "cifar": {"eta": 6e-3}, "paper": {"eta": 6e-3, "meta_fraction": 0.5}}
