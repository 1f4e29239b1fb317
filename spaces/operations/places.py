"""Where a network that somebody else wrote has room for an enhancer: behind its depthwise convolutions."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
NORMS = (aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.native_group_norm)
SUMS = (aten.add, aten.add_)
UNTAGGED = (aten.hardswish, aten.hardswish_)  # pointwise operations that PyTorch does not tag as such
INPUT, WEIGHT, GROUPS = 0, 1, 8  # among the arguments of `aten.convolution`


@dataclass(frozen=True)
class Place:
    """A module behind which an enhancer may stand."""

    name: str  # the module's path within the network
    shape: tuple[int, int, int]  # of its output for one image: C, H, W
    activated: bool  # whether it is the activation; else it is what computes the normalised features
    obstacle: str = ""  # why nothing can be put there, empty where it can


@dataclass(frozen=True)
class _Filtered:
    """What is known of a tensor: a linear function of another one, channel by channel.

    Branches that are summed (MobileOne, RepViT) are one such function if they have the same source.
    """

    source: Tensor
    spatial: bool = False  # it has passed through a depthwise convolution
    normalised: Tensor | None = None  # what the last normalisation has read

    @property
    def ready(self) -> bool:
        return self.spatial and self.normalised is not None


class _Trace(TorchDispatchMode):
    """Follows what convolutions compute, operation by operation, and notes the modules that return it."""

    def __init__(self, network: nn.Module, grouped: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.grouped = grouped
        self.names = {module: name for name, module in network.named_modules() if name}
        self.calls = dict.fromkeys(self.names, 0)
        self.found: dict[int, tuple[nn.Module, Tensor]] = {}  # identity of normalised features → what returns them
        self.activated: dict[int, tuple[nn.Module, Tensor]] = {}  # … → what returns them activated
        self.by_function: set[int] = set()  # normalised features that go through a pointwise function
        self._known: dict[int, tuple[Tensor, _Filtered]] = {}  # holds the tensors, so that identities stay theirs
        self._entered: dict[nn.Module, Tensor] = {}
        self._paused = False

    def _of(self, tensor: Tensor) -> _Filtered:
        return self._known[id(tensor)][1] if id(tensor) in self._known else _Filtered(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet, filtered = func.overloadpacket, None
        tensors = [a for a in args if isinstance(a, Tensor)]
        if self._paused:
            pass
        elif packet is aten.convolution:
            depthwise = self.grouped or args[WEIGHT].shape[1] == 1
            filtered = _Filtered(args[INPUT], spatial=True) if args[GROUPS] > 1 and depthwise else None
        elif packet in NORMS:
            filtered = replace(self._of(args[0]), normalised=args[0])
        elif packet in SUMS:
            filtered = self._sum(tensors)
        elif packet is aten.cat and all(self._of(t).spatial and not self._of(t).ready for t in args[0]):
            filtered = _Filtered(args[0][0], spatial=True)  # kernels of several sizes (MixNet)
        elif len(tensors) == 1 and (torch.Tag.pointwise in func.tags or packet in UNTAGGED):
            self.by_function |= {id(tensors[0])} if self._of(tensors[0]).ready else set()
        result = func(*args, **(kwargs or {}))
        output = result[0] if isinstance(result, tuple) else result
        if isinstance(output, Tensor) and not self._paused:
            self._known.pop(id(output), None)  # what is computed in place is not what it was
            if filtered is not None:
                self._known[id(output)] = output, filtered
        return result

    def _sum(self, terms: list[Tensor]) -> _Filtered | None:
        known = [self._of(term) for term in terms]
        of_terms = [(term, k.source, k.normalised) for term, k in zip(terms, known, strict=True)]
        common = [k.source for k in known if k.spatial and all(any(k.source is t for t in of) for of in of_terms)]
        if not common:
            return None
        for term in terms:
            self.found.pop(id(term), None)  # a branch only
        return _Filtered(common[0], True, next((k.normalised for k in known if k.normalised is not None), None))

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """Before a module is called; what it computes in place is gone afterwards."""
        if not self._paused and inputs and isinstance(inputs[0], Tensor) and self._of(inputs[0]).ready:
            self._entered[module] = inputs[0]

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """After a module was called."""
        if self._paused:
            return
        self.calls[module] += 1
        features = self._entered.pop(module, None)
        if not isinstance(output, Tensor) or output.dim() != 4:
            return
        if features is not None and features.shape == output.shape and self._activates(module, output):
            self.activated[id(features)] = module, output  # the outermost of modules within each other
        elif self._of(output).ready:
            self.found.setdefault(id(output), (module, output))  # the innermost

    def _activates(self, module: nn.Module, like: Tensor) -> bool:
        """Whether a module computes each number from that number alone, and not in a straight line."""
        if any(p.dim() > 1 for p in module.parameters()):
            return False
        generator = torch.Generator().manual_seed(0)
        a, b = (torch.randn(like.shape, generator=generator, dtype=like.dtype) for _ in range(2))
        kept = torch.rand(like.shape, generator=generator) < 0.5
        self._paused = True
        try:
            of_a, of_some, of_b = module(a.clone()), module(a * kept), module(b.clone())
            together, at_zero = module(a + b), module(torch.zeros_like(a))
        finally:
            self._paused = False
        alone = torch.allclose(of_a[kept], of_some[kept])
        return alone and not torch.allclose(together + at_zero, of_a + of_b, atol=1e-4)


def find_places(network: nn.Module, image_size: int, grouped: bool = False) -> tuple[list[Place], Tensor]:
    """Find the places behind depthwise convolutions, their normalisation and their activation, in order of computation.

    The network of images (N, 3, S, S), on the CPU, computes one black image, also returned, and comes back as it was.
    Names and classes of modules do not matter: what counts is which operation reads what another has computed. Parallel
    depthwise branches that are summed, as in re-parameterised blocks, are one convolution; `grouped` takes every
    convolution of several groups for a depthwise one. In a network with no place behind an activation, those behind
    normalisations count.
    """
    trace = _Trace(network, grouped)
    modes = {module: module.training for module in network.modules()}
    with ExitStack() as after, torch.no_grad(), trace:
        for module, training in modes.items():
            after.callback(setattr, module, "training", training)
        for module in trace.names:
            after.enter_context(module.register_forward_pre_hook(trace.enter))
            after.enter_context(module.register_forward_hook(trace.leave))
        output = network.eval()(torch.zeros(1, 3, image_size, image_size))
    functions = {
        key: trace.found[key] for key in trace.found if key in trace.by_function and key not in trace.activated
    }
    places = []
    for key, (module, result) in ({**trace.activated, **functions} if trace.activated else trace.found).items():
        obstacle = "activations that are functions, not modules" if key in functions else ""
        if trace.calls[module] > 1:
            obstacle = "modules that are called several times"
        channels, height, width = result.shape[1:]
        places.append(Place(trace.names[module], (channels, height, width), key in trace.activated, obstacle))
    return places, output


def put_behind(module: nn.Module, enhancer: nn.Module) -> None:
    """Let an enhancer, its child from now on, compute what a module returns; all parameters keep their names."""
    module.enhancer = enhancer
    module.register_forward_hook(_enhanced)


def _enhanced(module: Any, inputs: Any, output: Tensor) -> Any:
    return module.enhancer(output)
