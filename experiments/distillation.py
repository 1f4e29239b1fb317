"""Online distillation of the all-shift ResNet-20 on Fashion-MNIST against the same network trained alone.

    python experiments/distillation.py --data-root FOLDER > experiments/distillation.md

Trains what is missing, writes one row a run to `distillation.csv` and prints the table. Recipe, epochs and images are
equal for all rows. Finished records are kept, and a run that was interrupted goes on: the same command again does the
rest. `alone` trains one student by plain classification; the others train several beside a teacher and report the
student that is best on the held-out tenth of the training images. Since that is a choice among several, the mean over
all students of a run stands beside it: it compares students that nobody has picked.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasbench.errors import NasbenchError
from nasbench.files import write_atomic
from nasbench.record import METRICS, Record
from nasbench.results.cells import Cell, Column, Kind, text
from nasbench.results.statistics import Estimate, difference, mean
from nasbench.studies.plan import plan, run_missing
from nasbench.studies.study import Study

SETTINGS: dict[str, Any] = {
    "space": "cheap_resnet",
    "space_options": {"depth": 20},
    "strategy": "fixed",
    "strategy_options": {"choice": "shift"},
    "dataset": "fashion_mnist",
    "train_images": 10_000,
    "preset": "quick",
    "batch_size": 64,
    "retrain_epochs": 8,
}
# The paper's recipe (arXiv 1909.13063), its learning rate of 0.1 for batches of 128 scaled to those of 64; like the
# paper's, without the clipping that presets give to distillation only.
RECIPE = {
    "learning_rate": 0.05,
    "momentum": 0.9,
    "weight_decay": 2e-4,
    "milestones": [0.5, 0.75],
    "gradient_clip": None,
}
STUDENTS = 4
ROWS: dict[str, dict[str, Any]] = {
    "alone": {"evaluator": "classification", "evaluator_options": RECIPE},
    "fusion": {
        "evaluator": "online_distillation",
        "evaluator_options": {**RECIPE, "teacher": "fusion", "students": STUDENTS},
    },
    "standard": {
        "evaluator": "online_distillation",
        "evaluator_options": {**RECIPE, "teacher": "standard", "students": STUDENTS},
    },
}
COLUMNS = (
    *("row", "seed", "top1", "students_top1", "teacher_top1", "reported", "held_out_top1", "students", "params"),
    *("madds", "retrain_epochs", "train_images", "batch_size", "retrain_seconds", "record"),
)


def main() -> int:
    """Train what is missing, write the rows and print the table; 1 when a run failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/distillation"), help="folder of the records")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"), help="one row a run")
    parser.add_argument("--data-root", help="folder with Fashion-MNIST; else NASBENCH_DATA")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=["alone", "fusion"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    study = Study(
        name="distillation",
        base={**SETTINGS, "data_root": given.data_root},
        variants={row: ROWS[row] for row in given.rows},
        grid={"seed": given.seeds},
    )
    try:
        failed = [r for r in run_missing(plan(study, given.out), given.out, tell) if r.error]
    except NasbenchError as e:
        sys.exit(f"error: {e}")
    if failed:
        return 1
    found = {(r.parameters["variant"], r.parameters["seed"]): r.record for r in plan(study, given.out).results}
    rows = {row: {s: measured(row, Record(found[row, s]), given.out) for s in given.seeds} for row in given.rows}
    write(given.csv, [rows[row][seed] for seed in given.seeds for row in given.rows])
    print(table(rows))
    return 0


def tell(line: str) -> None:
    """Tell the person in front of the terminal; stdout is for the table."""
    print(line, file=sys.stderr, flush=True)


def measured(row: str, record: Record, out: Path) -> dict[str, Any]:
    """The columns of one finished run; accuracies are fractions of the test images (`held_out_top1`: of those)."""
    config, result = record.config(), record.result()
    alone = {"reported": "student1", "test_top1": {"student1": result.top1}}
    told = (result.model_extra or {}).get("distillation", alone)
    students = [value for name, value in told["test_top1"].items() if name != "teacher"]
    last = {r["name"]: float(r["value"]) for r in record.curves(METRICS) if r["stage"] == "retrain"}
    return {
        "row": row,
        "seed": config.seed,
        "top1": result.top1,
        "students_top1": sum(students) / len(students),
        "teacher_top1": told["test_top1"].get("teacher"),
        "reported": told["reported"],
        "held_out_top1": last["val_top1"],
        "students": len(students),
        "params": result.params,
        "madds": result.madds,
        "retrain_epochs": config.retrain_epochs,
        "train_images": config.train_images,
        "batch_size": config.batch_size,
        "retrain_seconds": round(result.retrain_seconds, 1),
        "record": record.path.relative_to(out).as_posix(),
    }


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write the rows as CSV."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, buffer.getvalue())


def table(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> str:
    """The means as a Markdown table, with what was equal for all rows under it.

    Args:
        found: row → seed → its columns.
    """
    heading = ("training", "reported student", "mean of the students", "teacher", "reported − alone", "mean − alone")
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for row, runs in found.items():
        values = {
            name: {seed: r[name] for seed, r in runs.items() if r[name] is not None}
            for name in ("top1", "students_top1", "teacher_top1")
        }
        cells = [row, *(shown(mean(list(v.values())), "percent") if v else "–" for v in values.values())]
        if row != "alone" and "alone" in found:
            alone = {seed: r["top1"] for seed, r in found["alone"].items()}
            cells += [shown(difference(values[name], alone), "points") for name in ("top1", "students_top1")]
        lines.append("| " + " | ".join(cells + ["–"] * (len(heading) - len(cells))) + " |")
    one = next(iter(next(iter(found.values())).values()))
    seeds = len(next(iter(found.values())))
    lines += [
        "",
        f"Test top-1 in percent, mean ± 95 % interval over {seeds} seeds; differences are paired by seed. All-shift "
        f"ResNet-20 ({one['params']:,} parameters, {one['madds'] / 1e6:.2f} M multiply-adds), Fashion-MNIST, "
        f"{one['train_images']:,} training images less the held-out tenth, {one['retrain_epochs']} epochs, batches of "
        f"{one['batch_size']}; with a teacher {STUDENTS} students.",
    ]
    return "\n".join(lines)


def shown(estimate: Estimate, kind: Kind) -> str:
    """A fraction with its interval for readers."""
    return text(Column("", "", kind), Cell(estimate.value, estimate.half))


if __name__ == "__main__":
    sys.exit(main())
