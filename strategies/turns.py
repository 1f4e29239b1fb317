"""Several supernets that share their choices and take turns in being trained."""

import copy
from typing import Any

import torch
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from torch import Tensor, nn


class Turns(nn.Module):
    """Supernets of the same space with weights of their own and common α, one of which takes part in each `turn`.

    What one supernet prefers is in part its own accident, which others do not share: preferences that are added up over
    several of them are such as repeat. A step costs what it costs with one; each supernet has its share of the steps.
    """

    def __init__(self, network: nn.Module, count: int, fresh: bool = True) -> None:
        """Copy a supernet, so that there are `count` in all.

        `fresh` ones have the entries of every kernel and matrix in another order, which is another draw from the same
        distribution; the others (of pretrained weights) begin with the same ones.
        """
        super().__init__()
        shared = {id(a): a for m in network.modules() if isinstance(m, BaseSuperNetModule) for a in alphas_of(m)}
        others = [copy.deepcopy(network, dict(shared)) for _ in range(count - 1)]
        for parameter in (p for other in others if fresh for p in other.parameters() if p.dim() > 1):
            entries = parameter.detach().flatten()
            parameter.data.copy_(entries[torch.randperm(len(entries), device=entries.device)].view_as(parameter))
        self.networks = nn.ModuleList([network, *others])
        self.turn = 0

    def forward(self, x: Tensor) -> Tensor:
        """The output of the network whose turn it is."""
        network: Any = self.networks[self.turn]
        output: Tensor = network(x)
        return output

    def waiting(self) -> set[int]:
        """Identities of the parameters of the networks whose turn it is not; common ones do not wait."""
        here = {id(p) for p in self.networks[self.turn].parameters()}
        return {id(p) for p in self.parameters()} - here


def alphas_of(module: Any) -> list[nn.Parameter]:
    """The architecture parameters of one of NNI's supernet modules, if it has any."""
    return list(module.arch_parameters()) if hasattr(module, "arch_parameters") else []
