"""Time of the supernet's step against NNI's and against networks without a choice."""

from __future__ import annotations

from statistics import median
from typing import Any

from nasbench.benchmarks import interleave, spread
from nasbench.benchmarks.networks import NAMES, step


def run(repetitions: int = 7) -> dict[str, Any]:
    """Time forward + backward of every contender, batch 32, 32×32, width 1.0.

    Returns medians in milliseconds (`plain_ms` … `nni_darts_ms`), `over_all_global` (ours over the all-global
    network's), `speedup_nni` (NNI's over ours), and `spread`: quartiles by contender.
    """
    times = interleave({name: step(name) for name in NAMES}, repetitions)
    medians = {name: median(values) for name, values in times.items()}
    return {
        **{f"{name}_ms": value for name, value in medians.items()},
        "over_all_global": medians["ours"] / medians["all_global"],
        "speedup_nni": medians["nni_darts"] / medians["ours"],
        "spread": {name: spread(values) for name, values in times.items()},
    }
