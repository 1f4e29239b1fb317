"""Operation counts of the pooling mixture, for `torch.utils.flop_counter.FlopCounterMode`.

That module imports triton (0.1 s), so it is not imported here: whoever does import it finds the formulas registered.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from math import prod
from types import ModuleType
from typing import Any

import torch

from nasbench.kernels.reference import WINDOWS

_COUNTER = "torch.utils.flop_counter"


def mixture_flops(x: Sequence[int], pi: Sequence[int], codes: Sequence[int], **_: Any) -> int:
    """Count per element and candidate its window's additions or comparisons, one weight and one sum."""
    return prod(x) * sum((WINDOWS[code] ** 2 if WINDOWS[code] > 1 else 0) + 2 for code in codes)


def mixture_backward_flops(
    g: Sequence[int], x: Sequence[int], pi: Sequence[int], codes: Sequence[int], **_: Any
) -> int:
    """Count the forward pass once more for the gradient of x and once for that of pi."""
    return 2 * mixture_flops(x, pi, codes)


def _add_formulas(counter: ModuleType) -> None:
    counter.register_flop_formula(torch.ops.nasbench.pooling_mixture)(mixture_flops)
    counter.register_flop_formula(torch.ops.nasbench.pooling_mixture_backward)(mixture_backward_flops)


class _WhenImported(MetaPathFinder):
    """Steps aside at the first import of the counter, but lets it be followed by `_add_formulas`."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _COUNTER:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_add(module: ModuleType) -> None:
                execute(module)
                _add_formulas(module)

            spec.loader.exec_module = execute_and_add  # type: ignore[method-assign]
        return spec


def register() -> None:
    """Register the formulas with torch's counter, now or as soon as it is imported."""
    if _COUNTER in sys.modules:
        _add_formulas(sys.modules[_COUNTER])
    else:
        sys.meta_path.insert(0, _WhenImported())
