"""Parameters and multiply-adds of a network, in all and by block, and its latency."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nasbench.errors import OptionError


@dataclass(frozen=True)
class Part:
    """One block of a network."""

    name: str  # path of the module
    params: int  # trainable and other parameters
    madds: int  # multiply-adds of one image
    output: tuple[int, ...]  # shape of its output without the batch


@dataclass(frozen=True)
class Latency:
    """How long a network takes on the CPU."""

    batch: int  # images at a time
    threads: int  # of PyTorch
    runs: int  # measured ones
    median_seconds: float  # of a forward pass
    spread_seconds: tuple[float, float]  # first and third quartile


@dataclass(frozen=True)
class Profile:
    """Cost of a network for one image."""

    params: int  # number of parameters
    madds: int  # multiply-adds of convolutions and matrix products (pooling and activations count nothing)
    parts: tuple[Part, ...]  # the blocks, in the order of the forward pass
    latency: Latency | None = None  # on the CPU, `None` where it was not measured
    notes: tuple[str, ...] = ()  # what to know of the network beside the counts, one line each


def profile(model: nn.Module, image_size: int, names: Iterable[str] | None = None) -> Profile:
    """Count parameters and multiply-adds (half of what `torch.utils.flop_counter` counts) of a network.

    Images are (N, 3, image_size, image_size); counted one by one are its blocks, or the modules called `names`.
    """
    blocks = _blocks(model) if names is None else {name: model.get_submodule(name) for name in names}
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            shapes[module] = tuple(output.shape[1:])

    training = model.training
    first = next(model.parameters(), None)
    image = torch.zeros(1, 3, image_size, image_size, device=None if first is None else first.device)
    with ExitStack() as hooks, FlopCounterMode(display=False) as counter, torch.no_grad():
        hooks.callback(model.train, training)
        for module in blocks.values():
            hooks.enter_context(module.register_forward_hook(note))
        model.eval()(image)
    flops = counter.get_flop_counts()
    root = type(model).__name__
    parts = tuple(
        Part(name, _params(module), sum(flops.get(f"{root}.{name}", {}).values()) // 2, shapes.get(module, ()))
        for name, module in blocks.items()
    )
    return Profile(_params(model), counter.get_total_flops() // 2, parts)


def latency(
    model: nn.Module, image_size: int, channels: int = 3, batch: int = 1, seconds: float = 0.5, runs: int = 5
) -> Latency:
    """Time forward passes on the CPU in evaluation mode, after three to warm up: so many `seconds`, at least `runs`."""
    training = model.training
    images = torch.zeros(batch, channels, image_size, image_size)
    times: list[float] = []
    try:
        model.eval()
        with torch.inference_mode():
            for _ in range(3):
                model(images)
            while len(times) < runs or sum(times) < seconds:
                start = perf_counter()
                model(images)
                times.append(perf_counter() - start)
    finally:
        model.train(training)
    low, _, high = quantiles(times, n=4, method="inclusive")
    return Latency(batch, torch.get_num_threads(), len(times), median(times), (low, high))


def last_map(network: nn.Module, images: torch.Tensor) -> tuple[str, torch.Tensor]:
    """The last feature map (N, C', H, W) that a network computes of images (N, C, S, S), behind its module's name.

    That is the output of the module `features`, where the network has one that returns a map. Otherwise it is, of all
    modules that return a map, the output of the last one whose H·W is over 1 (what comes after it has been pooled
    already), or simply of the last one where no map is larger. Raises OptionError: no module returns a map.
    """
    found: dict[str, torch.Tensor] = {}
    names = {module: name for name, module in network.named_modules() if name}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            found.pop(names[module], None)  # of several calls the last one counts
            found[names[module]] = output

    with ExitStack() as hooks:
        for module in names:
            hooks.enter_context(module.register_forward_hook(note))
        network(images)
    if not found:
        raise OptionError(
            f"{type(network).__name__} has no feature map: none of its modules returns a tensor (N, C, H, W)"
        )
    larger = [name for name, output in found.items() if output.shape[2] * output.shape[3] > 1]
    chosen = "features" if "features" in found else (larger or list(found))[-1]
    return chosen, found[chosen]


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            found |= {f"{name}.{inner}": block for inner, block in child.named_children()}
        else:
            found[name] = child
    return found
