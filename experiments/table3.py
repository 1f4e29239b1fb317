"""Train the rows of Table 3 that are missing, on images of --config; the same command goes on after an interruption."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nasbench.config import read_config
from nasbench.errors import NasbenchError
from nasbench.packs import SUFFIX
from nasbench.studies.plan import plan, run_missing
from nasbench.studies.tables import ABLATION, table_study


def main() -> int:
    """Run what is missing; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("fashion_mnist.yaml"))
    parser.add_argument("--out", type=Path, help="by default runs/ and the configuration's name")
    parser.add_argument("--rows", nargs="+", choices=ABLATION, default=ABLATION)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    out = given.out or Path("runs") / given.config.stem
    try:
        study = table_study("table3", read_config(given.config), given.seeds, given.rows)
        # The same setting in another experiment's records is a training by earlier code.
        pack = Path(__file__).parent / "records" / f"{given.config.stem}{SUFFIX}"
        results = run_missing(plan(study, out, [pack] if pack.is_file() else []), out, print)
    except NasbenchError as e:
        sys.exit(f"error: {e}")
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
