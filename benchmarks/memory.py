import subprocess
import sys
from typing import Any

import psutil

from nasbench.benchmarks import summarised
from nasbench.benchmarks.step import step
from nasbench.memory import peak_bytes, reset_peak

NAMES = ("all_global", "ours", "nni_darts")


def run(repetitions: int = 3) -> dict[str, Any]:
    """Peak over the memory before the step in bytes, batch 32, each time in a process of its own; ratios of ours."""
    peaks: dict[str, list[float]] = {name: [] for name in NAMES}
    for _ in range(repetitions):
        for name in NAMES:
            command = [sys.executable, "-W", "ignore", "-m", "nasbench.benchmarks.memory", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[name].append(float(done.stdout.split()[-1]))
    found = summarised(peaks, "bytes")
    ours = found["ours_bytes"]
    over = {"over_all_global": ours / found["all_global_bytes"], "over_nni": ours / found["nni_darts_bytes"]}
    return {**found, **over, "goals": {"over_all_global": "≤ 1.1×"}}


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
