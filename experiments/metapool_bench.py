"""Train every network of `metapool_bench` on Imagenette; the same command goes on after an interruption.

Several processes share the work: `--part 1/2` and `--part 2/2`, each with its own number of threads.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nasbench.config import read_config
from nasbench.data.arrays import Arrays
from nasbench.errors import NasbenchError
from nasbench.pipeline import run
from nasbench.spaces.metapool_bench import CANDIDATES, LABELS
from nasbench.studies.plan import plan
from nasbench.studies.study import Study, make_study

CONFIG = Path(__file__).with_suffix(".yaml")


def networks() -> dict[str, dict[str, str]]:
    """Every architecture by its name, e.g. `none-avg3-global-none-none`."""
    chosen = itertools.product(CANDIDATES, repeat=len(LABELS))
    return {"-".join(names): dict(zip(LABELS, names, strict=True)) for names in chosen}


def in_fraction(names: Sequence[str]) -> bool:
    """Whether a network is one of the 81 of a 3^(5-1) fractional factorial design of resolution V.

    In it every two stages have all pairs of candidates equally often, so that it tells the stages' effects apart.
    """
    return sum(map(CANDIDATES.index, names)) % len(CANDIDATES) == 0


def studies(data_root: Path, seeds: list[int]) -> list[Study]:
    """The fraction with all seeds, then the other networks; a whole seed at a time."""
    base = {**read_config(CONFIG), "data_root": str(data_root)}
    parts = [
        {name: {"architecture": a} for name, a in networks().items() if in_fraction(list(a.values())) is first}
        for first in (True, False)
    ]
    grid = {"seed": seeds}
    return [make_study({"name": CONFIG.stem, "base": base, "variants": part, "grid": grid}) for part in parts]


def shrunk(data_root: Path, side: int, file: Path) -> Path:
    """The photos at their final size in an uncompressed file: the same numbers for every run, made once."""
    if not file.is_file():
        data = Arrays(data_root=data_root, image_size=side)
        data.setup()
        parts = {f"x_{part}": images.numpy() for part, images in data._images.items()}
        labels = {"y_train": data.train_labels, "y_test": data.test_labels}
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, **parts, **labels, class_names=np.array(data.class_names))
        temporary.replace(file)
    return file


def main() -> int:
    """Train what is missing; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="imagenette.npz")
    parser.add_argument("--out", type=Path, default=Path("runs/metapool_bench"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", default="1/1", help="which of how many parts of the work")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    failed = 0
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        data = shrunk(given.data_root, read_config(CONFIG)["image_size"], given.out / f"photos{part}.npz")
        others = [Path(__file__).parent / "records"]
        missing = [item for study in studies(data, given.seeds) for item in plan(study, given.out, others).missing]
        mine = missing[part - 1 :: parts]
        for number, item in enumerate(mine, 1):
            print(f"[{number}/{len(mine)}] {item.label}", flush=True)
            try:
                run(item.config, given.out if item.interrupted is None else item.interrupted.record.path)
            except NasbenchError as e:
                failed += 1
                print(f"failed: {e}", flush=True)
    except NasbenchError as e:
        sys.exit(f"error: {e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
