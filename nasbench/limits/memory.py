"""Peak of the bytes of activations that live at one time in PyTorch's forward pass of one image, without workspaces."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasbench.limits.kind import Call, Measured, exact

UNITS = {"B": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "kB": 1e3, "MB": 1e6, "GB": 1e9}
RUNTIME, PACKAGES, TOLERANCE, JOIN = "", (), 0.0, max


class Living(TorchDispatchMode):
    """Follows the storages that operators make, until they are gone: bytes that live `now`, and at their `peak`."""

    def __init__(self, held: int) -> None:
        """Start with so many bytes."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = held
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operator and count what it returns, unless it lies in what was given or is counted already."""
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in given | self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key: int, count: int) -> None:
        self._known.discard(key)
        self.now -= count


def measure(calls: Sequence[Call]) -> list[Measured]:
    """See `Kind`."""
    found = []
    for call in calls:
        with torch.no_grad(), Living(call.held) as living:
            call.module(*call.inputs)
        found.append(exact(living.peak))
    return found
