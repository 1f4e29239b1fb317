"""Fine-tune MobileNetV2 on TrashNet's photos, with and without a search; goes on where it was interrupted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from nasbench.config import read_config
from nasbench.errors import NasbenchError
from nasbench.studies.local import run_missing
from nasbench.studies.plan import plan
from nasbench.studies.study import Study, make_study

CONFIG = Path(__file__).with_suffix(".yaml")
ROWS: dict[str, dict[str, Any]] = {
    "none": {"architecture": "none"},
    "paper": {"architecture": "paper"},
    "pmpl": {"strategy": "pmpl", "strategy_options": {"fixing": "evidence", "undecided": "largest_pi"}},
    "random": {"strategy": "random"},
}


def study(seed: int) -> Study:
    """All rows with one seed."""
    name, base = f"{CONFIG.stem}, seed {seed}", {**read_config(CONFIG), "seed": seed}
    return make_study({"name": name, "base": base, "variants": ROWS})


def main() -> int:
    """Run what is missing, a whole seed at a time; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/trashnet"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    failed = False
    try:
        for seed in given.seeds:
            planned = plan(study(seed), given.out, others=[Path(__file__).parent / "records"])
            results = run_missing(planned, given.out, lambda line, seed=seed: print(f"seed {seed} {line}", flush=True))
            failed |= any(result.error for result in results)
    except NasbenchError as e:
        sys.exit(f"error: {e}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
