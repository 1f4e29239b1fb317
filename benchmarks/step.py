from typing import Any

from nasbench.benchmarks import interleave, summarised
from nasbench.benchmarks.networks import NAMES, step


def run(repetitions: int = 7) -> dict[str, Any]:
    """Milliseconds of forward + backward of every contender, batch 32, 32×32, width 1.0, and two ratios."""
    found = summarised(interleave({name: step(name) for name in NAMES}, repetitions), "ms")
    over, speedup = found["ours_ms"] / found["all_global_ms"], found["nni_darts_ms"] / found["ours_ms"]
    return {**found, "over_all_global": over, "speedup_nni": speedup}
