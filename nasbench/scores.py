"""Zero-cost scores: how good a network looks before it is trained, from one batch or none. Larger is better.

Formulae are those of the papers named at each; where these say nothing, as Abdelfattah et al., "Zero-Cost Proxies for
Lightweight NAS", ICLR 2021, computed them: over the weights of convolutions and linear layers, in training mode.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.contracts import main_logits
from nasbench.errors import OptionError, unknown
from nasbench.profile import last_map, profile

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU)
NORMALISATIONS = nn.modules.batchnorm._BatchNorm
REPEATS, MIXED = 8, 0.01  # of `zen`: pairs of images, and how far the second of a pair lies from the first


def scored(name: str, build: Callable[[], nn.Module], images: Tensor, labels: Tensor) -> float:
    """A score of a network with fresh weights, which `build` makes, for images (N, 3, S, S) and labels (N,).

    A network that is blind to its images may have −∞. Raises OptionError: there is no such score, or the network has
    nothing that it measures.
    """
    if name not in SCORES:
        raise OptionError(unknown("score", name, SCORES))
    layout = torch.channels_last  # up to four times faster on CPUs
    network = build().train().to(memory_format=layout)
    return float(SCORES[name](network, images.contiguous(memory_format=layout), labels))


def _weights(network: nn.Module) -> list[Tensor]:
    return [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and m.weight.requires_grad]


def _gradients(network: nn.Module, images: Tensor, labels: Tensor, twice: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Every weight with the gradient of the loss."""
    weights = _weights(network)
    loss = F.cross_entropy(main_logits(network(images)), labels)
    found = torch.autograd.grad(loss, weights, create_graph=twice, allow_unused=True)
    return [(w, g) for w, g in zip(weights, found, strict=True) if g is not None]


def grad_norm(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Σ over layers of the gradient's Euclidean norm."""
    return sum(g.norm().item() for _, g in _gradients(network, images, labels))


def snip(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Σ |θ ∂L/∂θ|. Source: Lee et al., ICLR 2019, equation 6."""
    return sum((w * g).abs().sum().item() for w, g in _gradients(network, images, labels))


def grasp(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """−Σ θ H ∂L/∂θ, H the Hessian of the loss L. Source: Wang et al., ICLR 2020, equation 8."""
    pairs = _gradients(network, images, labels, twice=True)
    squared = sum(((g.detach() * g).sum() for _, g in pairs), torch.zeros(()))
    products = torch.autograd.grad(squared, [w for w, _ in pairs], allow_unused=True)
    return -sum((w * h).sum().item() for (w, _), h in zip(pairs, products, strict=True) if h is not None)


def fisher(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Σ over channels of ½ E(Σ z ∂L/∂z)², z the output of a convolution. Source: Turner et al., ICLR 2020."""
    total = []

    def note(module: nn.Module, inputs: Any, z: Tensor) -> None:
        kept = z.detach().clone()  # what follows may work in place
        z.register_hook(
            lambda g: total.append((kept * g).flatten(2).sum(2).pow(2).mean(0).sum().item() / 2) if g.ndim > 2 else None
        )

    with _hooked(network, (nn.Conv2d,), note):
        F.cross_entropy(main_logits(network(images)), labels).backward()
    return sum(total)


def synflow(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Σ |θ ∂R/∂θ| of R = Σ f(1), all parameters replaced by their magnitudes. Source: Tanaka et al., NeurIPS 2020.

    No data: of the images only the size counts. Normalisations do what they do to fresh statistics, nothing, and
    activations are the identity: positive numbers pass ReLU as they are, and a bounded one would lose what flows.
    """
    network = network.double().eval()
    for module in network.modules():
        if isinstance(module, ACTIVATIONS):
            vars(module)["forward"] = lambda x: x
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = _weights(network)
    total = main_logits(network(torch.ones_like(images[:1], dtype=torch.float64))).sum()
    found = torch.autograd.grad(total, weights, allow_unused=True)
    return sum((w * g).abs().sum().item() for w, g in zip(weights, found, strict=True) if g is not None)


def jacov(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """−Σ (log(v + k) + 1/(v + k)), v the eigenvalues of the correlations of the images' Jacobians, k = 1e-5.

    Source: Mellor et al., "Neural Architecture Search without Training", first version, 2020 (arXiv 2006.04647v1).
    """
    images = images.detach().clone().requires_grad_()
    (jacobian,) = torch.autograd.grad(main_logits(network(images)).sum(), images)
    rows = jacobian.flatten(1).double()
    if not rows.std(1).all():
        return -math.inf  # nothing correlates with a constant: the network is blind to an image
    values = torch.linalg.eigvalsh(torch.corrcoef(rows)) + 1e-5
    return -(values.log() + 1 / values).sum().item()


def naswot(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The logarithm of |det K|, K counting the units of all ReLUs on whose side of 0 two images agree.

    Source: Mellor et al., ICML 2021, equation 2.
    """
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

    def note(module: nn.Module, inputs: Any, output: Tensor) -> None:
        code = (output.flatten(1) > 0).float()  # c cᵀ + (1 − c)(1 − c)ᵀ = D + 2 c cᵀ − s − sᵀ, s the sums of c's rows
        both, ones = (code @ code.T).double(), code.sum(1).double()
        kernel.add_(code.shape[1] + 2 * both - ones - ones[:, None])

    with _hooked(network, ACTIVATIONS, note), torch.no_grad():
        network(images)
    return torch.linalg.slogdet(kernel)[1].item()


def zen(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The logarithm of E‖f(x) − f(x + 0.01 ε)‖₁, plus Σ log σ over normalisations; x, ε and weights are Gaussian.

    f is the last map, σ² the mean over channels of the batch's variance. Source: Lin et al., "Zen-NAS", ICCV 2021,
    algorithm 1.
    """
    norms = [m for m in network.modules() if isinstance(m, NORMALISATIONS)]
    for norm in norms:
        norm.momentum = 1.0
    found = []
    with torch.no_grad():
        for _ in range(REPEATS):
            for weight in _weights(network):
                nn.init.normal_(weight)
            x = torch.randn_like(images)
            _, first = last_map(network, x)
            sigma = sum(n.running_var.mean().double().log() / 2 for n in norms if n.running_var is not None)
            _, second = last_map(network, x + MIXED * torch.randn_like(x))
            differs = (first - second).abs().flatten(1).sum(1).mean()
            found.append((differs.double().log() + sigma).item())
    return sum(found) / len(found)


def near(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Σ over activations of the effective ranks of what goes in and what comes out, channels as columns.

    The effective rank is e to the entropy of the normalised singular values. Source: Husistein et al., "NEAR: A
    Training-Free Pre-Estimator of Machine Learning Model Performance", ICLR 2025, equations 3 and 4.
    """
    total = []

    def rank(values: Tensor) -> float:
        columns = values.transpose(0, 1).flatten(1) if values.ndim > 2 else values.T
        singular = torch.linalg.eigvalsh((columns @ columns.T).double()).clamp(min=0).sqrt()
        share = singular / singular.sum().clamp(min=1e-300)
        return float(torch.special.entr(share).sum().exp())

    def before(module: nn.Module, inputs: Any) -> None:
        total.append(rank(inputs[0]))

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        total.append(rank(output))

    with ExitStack() as hooks, _hooked(network, ACTIVATIONS, after), torch.no_grad():
        for module in network.modules():
            if isinstance(module, ACTIVATIONS):
                hooks.enter_context(module.register_forward_pre_hook(before))
        network(images)
    return sum(total)


@contextmanager
def _hooked(network: nn.Module, kinds: tuple[type[nn.Module], ...], note: Callable[..., None]) -> Iterator[None]:
    modules = [module for module in network.modules() if isinstance(module, kinds)]
    if not modules:
        raise OptionError(f"{type(network).__name__} has no {kinds[0].__name__} to look at")
    with ExitStack() as hooks:
        for module in modules:
            hooks.enter_context(module.register_forward_hook(note))
        yield


SCORES: dict[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    **{f.__name__: f for f in (grad_norm, snip, grasp, fisher, synflow, jacov, naswot, zen, near)},
    "params": lambda network, images, labels: profile(network, images.shape[-1]).params,
    "madds": lambda network, images, labels: profile(network, images.shape[-1]).madds,
}
