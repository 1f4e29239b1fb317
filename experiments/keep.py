"""Copy finished records without weights, checkpoints and logs, to be kept with the project."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from nasbench.results.collect import collect

KEPT = (
    "config.yaml",
    "environment.json",
    "status.json",
    "data.json",
    "architecture.json",
    "decisions.json",
    "result.json",
    "search.csv",
    "metrics.csv",
)


def main() -> None:
    """Copy every finished run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("destination", type=Path)
    given = parser.parse_args()
    for folder in map(Path, collect([given.runs]).frame["path"]):
        target = given.destination / folder.name
        target.mkdir(parents=True, exist_ok=True)
        for name in KEPT:
            if (folder / name).is_file():
                shutil.copy(folder / name, target / name)
        print(target)


if __name__ == "__main__":
    main()
