"""Benchmarks: ratios from one interleaved run, ours beside what exists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import quantiles
from time import perf_counter


def spread(times: list[float]) -> list[float]:
    """First and third quartile of some times."""
    if len(times) < 2:
        return [times[0], times[0]]
    low, _, high = quantiles(times, n=4, method="inclusive")
    return [low, high]


def interleave(contenders: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Let named contenders take turns, so that a neighbour's load falls on all of them.

    Returns the milliseconds of each in every round, after one to warm up.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repetition in range(repetitions + 1):
        for name, function in contenders.items():
            start = perf_counter()
            function()
            if repetition:
                times[name].append(1e3 * (perf_counter() - start))
    return times
