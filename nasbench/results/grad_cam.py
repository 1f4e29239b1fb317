from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasbench.contracts import main_logits
from nasbench.profile import last_map


@dataclass(frozen=True)
class Maps:
    """What speaks for one class of each image, place by place on the network's last feature map A (N, K, h, w).

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017.
    """

    logits: Tensor  # (N, classes) of the network
    weights: Tensor  # α (N, K), eq. 1: ∂ logit of the class / ∂ A_k, averaged over the places
    # Σ_k α_k A_k (N, h, w); what is negative speaks for other classes. Behind global average pooling and a linear layer
    # it is the class activation map of Zhou et al. (CVPR 2016) over h·w, and sums to the logit less the bias.
    evidence: Tensor

    @property
    def heat(self) -> Tensor:
        """Eq. 2, ReLU(Σ_k α_k A_k), the largest of each image scaled to 1; 0 where nothing speaks for the class."""
        positive = self.evidence.relu()
        return positive / positive.amax((1, 2), keepdim=True).clamp_min(torch.finfo(positive.dtype).tiny)


def grad_cam(network: nn.Module, images: Tensor, classes: Sequence[int] | None = None) -> Maps:
    """Grad-CAM of `classes`, by default the likeliest, on the last feature map (`nasbench.profile.last_map`).

    The network, in evaluation mode, takes `images` (N, C, S, S) and is not changed. OptionError: it has no such map.
    """
    with torch.no_grad():
        name, _ = last_map(network, images[:1])
    seen: list[Tensor] = []

    def branch(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # what follows may work in place

    hook = network.get_submodule(name).register_forward_hook(branch)
    try:
        with torch.enable_grad():
            logits = main_logits(network(images))
            chosen = logits.argmax(1) if classes is None else torch.as_tensor(classes)
            (gradient,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), seen[-1])
    finally:
        hook.remove()
    features, weights = seen[-1].detach(), gradient.mean((2, 3))
    return Maps(logits.detach(), weights, torch.einsum("nk,nkhw->nhw", weights, features))
