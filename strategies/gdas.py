"""GDAS: one sampled candidate a layer and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.options import Positive, checked
from nasbench.strategies.differentiable import Differentiable
from nasbench.strategies.mixed import MixedLayer
from nasbench.strategies.supernet import DifferentiableModule


class SampledLayer(MixedLayer):
    """A layer that computes with a single candidate, drawn by the Gumbel-max trick from π = softmax(α).

    The gradient by α is that of softmax((α + o) / τ) with Gumbel noise o, as if its weights had been the sampled ones
    (straight through). All candidates are computed: the gradient asks for each.
    """

    temperature = 1.0  # τ

    def weights(self) -> Tensor:
        """(K,) 1 for the candidate that is drawn and 0 for the others, with the gradient of the relaxation."""
        sampled: Tensor = F.gumbel_softmax(self._arch_alpha.float(), self.temperature, hard=True)
        return sampled


class GdasModule(DifferentiableModule):
    """GDAS's search: α by a meta batch, θ by a training batch, each on freshly sampled networks."""

    strategy: GDAS

    def architecture_gradient(self, train: Any, meta: Any, alphas: Sequence[nn.Parameter]) -> list[Tensor]:
        """∇_α L_meta(θ, α) of a sampled network (Dong and Yang, CVPR 2019, eq. 7 and 8)."""
        return self.gradient(meta, alphas)

    def on_train_epoch_start(self) -> None:
        """Lower τ linearly from its first to its last value."""
        super().on_train_epoch_start()
        first, last = self.strategy.temperature, self.strategy.last_temperature
        done = self.trainer.current_epoch / max(1, int(self.trainer.max_epochs or 1) - 1)
        for module in self.supernet_modules():
            if isinstance(module, SampledLayer):
                module.temperature = first + (last - first) * done


class GDAS(Differentiable):
    """GDAS: differentiable search in which every step trains one sampled candidate a layer. NNI's own is not hard.

    Source: Dong and Yang, "Searching for a Robust Neural Architecture in Four GPU Hours", CVPR 2019.
    """

    module_class = GdasModule
    layer_class = SampledLayer
    rules = ("none",)
    alpha_decay = 1e-3  # as published
    presets: ClassVar = {"quick": {"eta": 0.1}, "cifar": {"eta": 3e-3}, "paper": {"eta": 3e-4, "meta_fraction": 0.5}}

    @checked
    def __init__(self, *, temperature: Positive = 10.0, last_temperature: Positive = 0.1, **options: Any) -> None:
        """Set τ in the first and in the last epoch, and the options of `Differentiable`."""
        super().__init__(**options)
        self.temperature, self.last_temperature = temperature, last_temperature
