"""Write `spaces/metapool_bench.csv`, the table of metapool-bench that the package brings, from the records.

    python experiments/bench_table.py

A row a network: the candidates of its stages, its test accuracy by seed (%, empty where it was not trained), and the
accuracy that another training of it can be expected to have.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

import numpy as np
from effects import CANDIDATES, STAGES, Networks, balanced, networks, noise

from nasbench.files import write_atomic

TABLE = Path(__file__).parents[1] / "spaces" / "metapool_bench.csv"


def expected(found: Networks, seed_variance: float) -> dict[tuple[str, ...], float]:
    """The best linear unbiased prediction of every network's accuracy (Robinson, Statistical Science 1991).

    Its parts are the effects of the stages, fixed, and what a network differs from their sum, random: that is shrunk by
    how much of it is likely a seed's accident. Its variance is what the residuals have more than seeds explain (the
    method of moments). ValueError: there are not all networks.
    """
    block = balanced(found)
    if len(block) != len(CANDIDATES) ** STAGES:
        raise ValueError(f"{len(block)} of {len(CANDIDATES) ** STAGES} networks have been trained")
    names = list(block)
    means = np.array([np.mean(list(block[name].values())) for name in names])
    trainings = np.array([len(block[name]) for name in names])
    columns = [np.ones(len(names))]
    columns += [[name[s] == c for name in names] for s in range(STAGES) for c in CANDIDATES[1:]]
    design = np.array(columns, dtype=float).T
    fitted = design @ np.linalg.lstsq(design, means, rcond=None)[0]
    residual = means - fitted
    accident = seed_variance / trainings
    own = max(0.0, float((residual**2).sum()) / (len(names) - design.shape[1]) - float(accident.mean()))
    return dict(zip(names, fitted + residual * own / (own + accident), strict=True))


def table(found: Networks) -> str:
    """The rows as CSV."""
    repeated = noise(found)
    if repeated is None:
        raise ValueError("too few networks have several seeds")
    seeds = sorted({seed for by_seed in found.values() for seed in by_seed})
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    stages = [f"stage{number}" for number in range(1, STAGES + 1)]
    writer.writerow([*stages, *(f"seed{seed}" for seed in seeds), "expected"])
    for name, value in expected(found, repeated.seed**2).items():
        tested = (f"{100 * found[name][seed]:.2f}" if seed in found[name] else "" for seed in seeds)
        writer.writerow([*name, *tested, f"{100 * value:.2f}"])
    return buffer.getvalue()


def main() -> None:
    """Write the table."""
    try:
        write_atomic(TABLE, table(networks()))
    except ValueError as e:
        sys.exit(f"error: {e}")


if __name__ == "__main__":
    main()
