"""Benchmarks: ratios from one interleaved run, ours beside what exists."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from nasbench.memory import freed_memory_kept


def summarised(measured: Mapping[str, list[float]], unit: str) -> dict[str, Any]:
    """The median of each contender as `NAME_UNIT`, and `spread`: first and third quartile by contender."""
    medians = {f"{name}_{unit}": median(values) for name, values in measured.items()}
    return {**medians, "spread": {name: np.quantile(v, (0.25, 0.75)).tolist() for name, v in measured.items()}}


def interleave(contenders: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Milliseconds of contenders that take turns, so that a neighbour's load falls on all, after a round to warm up.

    Memory is kept as in a run.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with freed_memory_kept():
        for repetition in range(repetitions + 1):
            for name, function in contenders.items():
                start = perf_counter()
                function()
                if repetition:
                    times[name].append(1e3 * (perf_counter() - start))
    return times
