"""Copy finished records to be kept with the project: without weights, checkpoints, logs and the machine's folders."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path, PurePath

import yaml

from nasbench.record import Record, write_atomic
from nasbench.results.collect import collect

KEPT = ("status.json", "data.json", "architecture.json", "decisions.json", "metrics.csv")
EVERY = 25  # steps of search.csv


def main() -> None:
    """Copy every finished run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path)
    parser.add_argument("destination", type=Path)
    given = parser.parse_args()
    for folder in map(Path, collect([given.runs]).frame["path"]):
        print(keep(Record(folder), given.destination / folder.name))


def keep(record: Record, target: Path) -> Path:
    """Copy one record.

    Args:
        record: of a finished run.
        target: the new folder; nothing happens where it holds this run already.

    Raises:
        SystemExit: it holds another run.
    """
    if target.exists():
        if (target / "metrics.csv").read_bytes() == (record.path / "metrics.csv").read_bytes():
            return target
        raise SystemExit(f"error: {target} holds another run: keep these records in another folder")
    target.mkdir(parents=True)
    for name in KEPT:
        shutil.copy(record.path / name, target / name)
    config = yaml.safe_load((record.path / "config.yaml").read_text(encoding="utf-8"))
    write_atomic(target / "config.yaml", yaml.safe_dump({**config, "data_root": "data"}, sort_keys=False))
    kept = Record(target)
    kept.write_json("result.json", {**record.read_json("result.json"), "record": target.name})
    environment = record.read_json("environment.json")
    words = [PurePath(word).name if PurePath(word).is_absolute() else word for word in environment["command"]]
    kept.write_json("environment.json", {**environment, "command": words})
    rows = record.read_csv("search.csv")
    if rows:
        last = max(int(row["step"]) for row in rows)
        thin = [row for row in rows if int(row["step"]) % EVERY == 0 or int(row["step"]) == last]
        kept.write_csv("search.csv", list(rows[0]), [list(row.values()) for row in thin])
    return target


if __name__ == "__main__":
    main()
