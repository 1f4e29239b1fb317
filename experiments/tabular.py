"""Regret of the strategies that train networks one by one, on benchmarks with known answers.

Writes `tabular.md` beside this file, which `results.py` takes up, and figures into `docs/images`. NASBENCH_DATA holds
the tables; about five minutes on one core.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nasbench.files import write_atomic
from nasbench.results.formats import markdown
from nasbench.results.regret import figure, table
from nasbench.results.style import save
from nasbench.tabular import BENCHMARKS, read, regrets

OUT = Path(__file__).with_suffix(".md")
IMAGES = Path(__file__).parent.parent / "docs" / "images"
TRIALS, SEEDS = 200, 100
STRATEGIES = {
    "random": ("random", {"trials": TRIALS}),
    "local_search": ("local_search", {}),
    "evolution": ("evolution", {}),
    "evolution, NNI's defaults": ("nni.nas.strategy:RegularizedEvolution", {}),
    "tpe": ("tpe", {}),
}


def chance(accuracies: np.ndarray, trials: int) -> float:
    """Expected regret of the best of so many draws with repetition, in closed form."""
    ranked = np.sort(accuracies)
    return float(ranked[-1] - np.diff((np.arange(len(ranked) + 1) / len(ranked)) ** trials) @ ranked)


def main() -> None:
    """Search, write the tables, and draw the figures."""
    parts = []
    for name in BENCHMARKS:
        benchmark = read(name, Path(os.environ["NASBENCH_DATA"]))
        for proxy in (False, True):
            title = f"{benchmark.title}, by a proxy" if proxy else benchmark.title
            found = {
                called: np.stack([regrets(benchmark, which, options, s, TRIALS, proxy) for s in range(SEEDS)])
                for called, (which, options) in STRATEGIES.items()
            }
            parts.append(markdown(table(title, found)).partition("\n- Regret:")[0].rstrip() + "\n")
            if not proxy:
                expected = 100 * chance(np.array(list(benchmark.accuracy.values())), TRIALS)
                parts.append(f"Random search after {TRIALS} networks by the closed form: {expected:.2f} points.\n")
                save(figure(title, found), IMAGES, f"regret_{name}")
                (IMAGES / f"regret_{name}.svg").unlink()
                parts.append(f"![Regret against the networks tried, {title}](images/regret_{name}.png)\n")
            print(title, flush=True)
    write_atomic(OUT, "\n".join(parts))


if __name__ == "__main__":
    main()
