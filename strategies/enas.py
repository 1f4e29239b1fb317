"""ENAS: a controller draws the paths that train a supernet, and learns from how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nasbench.architecture import Architecture
from nasbench.contracts import main_logits
from nasbench.distributed import copy_from_first, mean_over_processes
from nasbench.errors import LimitError
from nasbench.options import Count, Fraction, Rate, Seed, Share, checked
from nasbench.strategies.proposing import MOST_DRAWS
from nasbench.strategies.proxyless import PathLayer
from nasbench.strategies.restored import preserved
from nasbench.strategies.spos import Spos, UniformModule
from nasbench.strategies.supernet import DifferentiableModule

HIDDEN = 64  # units of the controller
TEMPERATURE, LARGEST_LOGIT = 5.0, 2.5  # as published: logits are 2.5 tanh(z / 5)
SPREAD = 0.1  # the controller's weights begin between plus and minus this
DECAY = 0.99  # of the baseline, a moving mean of rewards


class Controller(nn.Module):
    """An LSTM that chooses a candidate of one layer after the other, each given those before."""

    def __init__(self, counts: Sequence[int]) -> None:
        """Prepare for layers with so many candidates each."""
        super().__init__()
        self.counts = list(counts)
        self.cell = nn.LSTMCell(HIDDEN, HIDDEN)
        self.begin = nn.Parameter(torch.empty(HIDDEN))
        self.chosen = nn.ModuleList(nn.Embedding(count, HIDDEN) for count in counts)
        self.heads = nn.ModuleList(nn.Linear(HIDDEN, count, bias=False) for count in counts)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -SPREAD, SPREAD)

    def forward(self, noise: Tensor | None = None) -> tuple[list[int], list[Tensor]]:
        """The chosen places, and (K,) log π of each layer given the choices before it.

        With `noise`, (Σ K,) uniform between 0 and 1, they are drawn by π (Gumbel-max), without it the likeliest.
        """
        if noise is None:
            noise = torch.full_like(self.begin[:1], 0.5).expand(sum(self.counts))  # the same for all
        gumbel = (-(-noise.log()).log()).split(self.counts)
        x, state, places, log_pi = self.begin, None, list[int](), list[Tensor]()
        for chosen, head, extra in zip(self.chosen, self.heads, gumbel, strict=True):
            state = self.cell(x, state)
            log_pi.append((LARGEST_LOGIT * torch.tanh(head(state[0]) / TEMPERATURE)).log_softmax(0))
            place = (log_pi[-1].detach() + extra).argmax()
            places.append(int(place))
            x = chosen(place)
        return places, log_pi


class EnasModule(UniformModule):
    """ENAS's search: θ along a path that the controller draws; the controller by another one's accuracy."""

    strategy: Enas
    baseline: Tensor

    open_alphas = DifferentiableModule.open_alphas  # α shows what the controller thinks

    def set_model(self, model: nn.Module) -> None:
        """See `DifferentiableModule`."""
        super().set_model(model)
        self.controller = Controller([len(a) for a in self.alphas.values()])
        self.register_buffer("baseline", torch.tensor(torch.nan))

    def configure_architecture_optimizers(self) -> torch.optim.Optimizer:
        """Adam for the controller, with the published β and ε."""
        super().configure_architecture_optimizers()
        return torch.optim.Adam(self.controller.parameters(), self.eta, betas=(0.0, 0.999), eps=1e-3)

    def _train_alphas(self, train: Any, meta: Any) -> None:
        """REINFORCE with a baseline: ∇ Σ log π (R − b), where R is the accuracy on a meta batch plus w Σ entropies."""
        optimizer: Any = self.architecture_optimizers()
        places, log_pi = self._path()
        images, labels = meta
        with torch.no_grad(), preserved(self.training_module.buffers()):
            right = (main_logits(self.model(images)).argmax(1) == labels).float().mean()
            entropy = -torch.stack([(each.exp() * each).sum() for each in log_pi]).sum()
            reward = mean_over_processes([right])[0] + self.strategy.entropy * entropy
            self.baseline.copy_(torch.where(self.baseline.isnan(), reward, self.baseline.lerp(reward, 1 - DECAY)))
        loss = -(reward - self.baseline) * torch.stack([p[k] for p, k in zip(log_pi, places, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        copy_from_first([p.detach() for p in self.controller.parameters()])
        self._searched += 1
        with torch.no_grad():
            for alpha, each in zip(self.alphas.values(), self.controller()[1], strict=True):
                alpha.copy_(each)
        self._draw(1)

    def _path(self) -> tuple[list[int], list[Tensor]]:
        """Draw a path, the same in all processes, and let the network compute it."""
        noise = torch.rand(sum(self.controller.counts), device=self.device)
        copy_from_first([noise])
        places, log_pi = self.controller(noise)
        found = {label: [place] for label, place in zip(self.alphas, places, strict=True)}
        for layer in self.supernet_modules():
            if isinstance(layer, PathLayer):
                layer.drawn = found[str(layer.label)]
        return places, log_pi

    def _draw(self, count: int) -> dict[int, list[int]]:
        with torch.no_grad():
            places, _ = self._path()
        return {id(alpha): [place] for alpha, place in zip(self.alphas.values(), places, strict=True)}

    def compete(self) -> Architecture:
        """The best in the supernet of some networks that the controller draws (section 2.2)."""
        names = [(label, list(self.strategy.mutables[label].values)) for label in self.alphas]
        drawn: list[Architecture] = []
        for _ in range(MOST_DRAWS):
            places = self._draw(1).values()
            architecture = {label: values[place] for (label, values), [place] in zip(names, places, strict=True)}
            drawn += [architecture] if self.strategy.allows(architecture) else []
            if len(drawn) == self.strategy.networks:
                break
        if not drawn:
            raise LimitError(f"none of {MOST_DRAWS:,} networks that the controller drew keeps the limits: raise them")
        return max(drawn, key=self.measure)


class Enas(Spos):
    """ENAS: an LSTM, trained by REINFORCE, draws the paths of a supernet, and at the end the networks that compete.

    The paper trains θ for an epoch and then the controller for a number of steps; here they take turns step by step, as
    in all our searches. NNI's own fails with today's Lightning. Source: Pham et al., "Efficient Neural Architecture
    Search via Parameter Sharing", ICML 2018, sections 2.1, 2.2 and 3.2.
    """

    module_class = EnasModule
    layer_class = PathLayer
    decided_by = "the best in the supernet of what the controller drew"
    presets: ClassVar = {"quick": {"eta": 1e-2}, "cifar": {"eta": 1e-3}}

    @checked
    def __init__(
        self,
        *,
        eta: Rate = 3.5e-4,  # learning rate of the controller (Adam)
        entropy: Share = 1e-4,  # weight w of the entropy in the reward
        networks: Count = 10,  # that the controller draws at the end, and that are measured in the supernet
        recalibration: Count = 5,  # training batches that give each of them its batch statistics
        zeta: Rate | None = None,  # learning rate ζ of θ at its start; the evaluator's where `None`
        epochs: Count | None = None,  # limit of the search, the evaluator's where `None`
        meta_fraction: Fraction | None = None,  # share of the training images that reward; the data set's where `None`
        seed: Seed = 0,
    ) -> None:
        """Set the options."""
        super().__init__(
            networks=networks,
            recalibration=recalibration,
            zeta=zeta,
            epochs=epochs,
            meta_fraction=meta_fraction,
            seed=seed,
        )
        self.eta, self.entropy = eta, entropy
