"""Search the same settings under five seeds, to see whether they agree; the same command goes on after an interruption.

The networks that are found are trained for one epoch only: it is the searches that are compared, by

    nasbench agreement runs/agreement
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasbench.config import read_config
from nasbench.errors import NasbenchError
from nasbench.studies.plan import plan, run_missing
from nasbench.studies.study import Study, make_study

SUPERNETS = 3
EVIDENCE = {"fixing": "evidence", "undecided": "largest_pi"}
SEARCHES: dict[str, dict[str, Any]] = {
    "lead": {"strategy": "pmpl", "strategy_options": {"fixing": "lead"}},
    "evidence": {"strategy": "pmpl", "strategy_options": EVIDENCE},
    "evidence, 3 supernets": {"strategy": "pmpl", "strategy_options": {**EVIDENCE, "supernets": SUPERNETS}},
    "darts": {"strategy": "darts"},
}
LONGER = "evidence, 3 supernets, each trained as long as one"
# Where every network is known, the other strategies with a supernet search, too.
IN_BENCH: dict[str, dict[str, Any]] = {name: {"strategy": name} for name in ("drnas", "gdas", "proxyless", "spos")}
SEEDS = range(5)


def studies(imagenette: Path, wanted: Sequence[str], seeds: Sequence[int]) -> list[Study]:
    """The searches on digits, and on Imagenette in `metapool_bench`; there half of the images are for α."""
    bench = read_config(Path(__file__).with_name("metapool_bench.yaml"))
    bases = {
        "digits": {"dataset": "digits", "preset": "quick", "epochs": 12, "retrain_epochs": 1},
        "imagenette": {
            **bench,
            "data_root": str(imagenette),
            "dataset_options": {"meta_fraction": 0.5},
            "epochs": 12,
            "retrain_epochs": 1,
        },
    }
    searches = {name: {**SEARCHES, LONGER: longer(base)} for name, base in bases.items()}
    searches["imagenette"] |= IN_BENCH
    kept = {name: {k: v for k, v in of_base.items() if k in wanted} for name, of_base in searches.items()}
    return [
        make_study({"name": name, "base": bases[name], "grid": {"seed": list(seeds)}, "variants": variants})
        for name, variants in kept.items()
        if variants
    ]


def longer(base: Mapping[str, Any]) -> dict[str, Any]:
    """Several supernets, with so many times the epochs, since they take turns."""
    return {**SEARCHES["evidence, 3 supernets"], "epochs": SUPERNETS * base["epochs"]}


def main() -> int:
    """Run what is missing; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenette", type=Path, required=True, help="imagenette.npz")
    every = [*SEARCHES, LONGER, *IN_BENCH]
    parser.add_argument("--searches", nargs="+", choices=every, default=every)
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("runs/agreement"))
    given = parser.parse_args()
    failed = False
    try:
        for study in studies(given.imagenette, given.searches, given.seeds):
            planned = plan(study, given.out, others=[Path(__file__).parent / "records"])
            failed |= any(result.error for result in run_missing(planned, given.out, print))
    except NasbenchError as e:
        sys.exit(f"error: {e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
