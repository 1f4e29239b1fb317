"""Peak memory of the supernet's step against NNI's and against the all-global network's."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from typing import Any

import psutil

from nasbench.benchmarks import spread
from nasbench.benchmarks.networks import step
from nasbench.memory import peak_bytes, reset_peak

NAMES = ("all_global", "ours", "nni_darts")


def run(repetitions: int = 3) -> dict[str, Any]:
    """Measure the peak over the memory before the step, batch 32, each time in a process of its own.

    Returns medians in bytes (`all_global_bytes`, `ours_bytes`, `nni_darts_bytes`), the ratios `over_all_global` and
    `over_nni` of ours, and `spread`: quartiles by contender.
    """
    peaks: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(repetitions):
        for name in NAMES:
            command = [sys.executable, "-W", "ignore", "-m", "nasbench.benchmarks.memory", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[name].append(float(done.stdout.split()[-1]))
    medians = {name: median(values) for name, values in peaks.items()}
    return {
        **{f"{name}_bytes": value for name, value in medians.items()},
        "over_all_global": medians["ours"] / medians["all_global"],
        "over_nni": medians["ours"] / medians["nni_darts"],
        "spread": {name: spread(values) for name, values in peaks.items()},
    }


def measure(name: str) -> int:
    """Peak of one contender's step in bytes, over the memory before it."""
    step(name, batch=2)()  # compiles the kernels and loads the libraries
    compute = step(name)
    before = psutil.Process().memory_info().rss
    reset_peak()
    compute()
    return peak_bytes() - before


if __name__ == "__main__":
    print(measure(sys.argv[1]))
