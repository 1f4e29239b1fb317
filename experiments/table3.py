"""Train the rows of Table 3 that are missing, on Fashion-MNIST; the same command goes on after an interruption."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nasbench.config import read_config
from nasbench.results.collect import collect
from nasbench.results.rows import spec
from nasbench.results.training import missing, train

ROWS = ("none", "local", "global", "random", "pmpl", "darts1")


def main() -> int:
    """Run what is missing; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("fashion_mnist.yaml"))
    parser.add_argument("--out", type=Path, help="by default runs/ and the configuration's name")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    out = given.out or Path("runs") / given.config.stem
    labels = {row.label for row in spec("table3").rows if row.key in given.rows}
    kept = Path(__file__).parent / "records" / given.config.stem
    found = collect([folder for folder in (out, kept) if folder.exists()]).frame
    lacking = [item for item in missing("table3", found, read_config(given.config), given.seeds) if item.row in labels]
    failed = [f"{item.row}: {reason}" for item, reason in train(lacking, out, print)]
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
