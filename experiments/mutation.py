"""Mutation testing: change the code a little, and see whether the tests notice.

Writes `mutation.csv` beside this file, a row a mutant; mutants of unchanged modules that are there are not tried again.
They come in a random order, so that what has been tried is a sample of all; `--sample` ends it there.
`make mutation` installs cosmic-ray, whose operators these are, and runs it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.machinery
import importlib.util
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}

import nni.nas.strategy  # noqa: F401  (what takes long to import is imported once, for all)
import pandas  # noqa: F401
import pytest
import pytorch_lightning  # noqa: F401
import scipy.stats  # noqa: F401
import timm  # noqa: F401
import torch  # noqa: F401
import torchvision  # noqa: F401
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).with_suffix(".csv")
COLUMNS = ("module", "sha256", "line", "operator", "occurrence", "outcome", "text")
# File → its module, and the tests that are to notice, the quickest first.
SUPERNET_TESTS = ("evidence", "turns", "strategy_mathematics", "supernet", "fixing", "probabilities")
STRATEGY_TESTS: dict[str, Sequence[str]] = {
    "darts": ("strategy_mathematics",),
    "darts_pt": ("strategies_sampling",),
    "deciding": ("evidence", "fixing"),
    "differentiable": SUPERNET_TESTS,
    "drnas": ("strategies_sampling",),
    "evidence": ("evidence",),
    "evolution": ("tabular",),
    "gdas": ("strategy_mathematics",),
    "held_out": ("strategies_sampling",),
    "local_search": ("tabular",),
    "mixed": ("supernet", "strategy_mathematics"),
    "pmpl": ("strategy_mathematics", "fixing"),
    "proposing": ("tabular", "budget"),
    "proxyless": ("strategies_sampling",),
    "random": ("nni", "budget"),
    "restored": ("strategy_mathematics", "supernet"),
    "spos": ("strategies_sampling",),
    "enas": ("enas",),
    "supernet": SUPERNET_TESTS,
    "tpe": ("tabular",),
    "turns": ("turns",),
}
TARGETS: dict[str, tuple[str, Sequence[str]]] = {
    "nasbench/results/statistics.py": ("nasbench.results.statistics", ("agreement", "results_tables")),
    "nasbench/kernels/reference.py": ("nasbench.kernels.reference", ("kernels", "kernels_gate", "supernet")),
    "nasbench/record.py": ("nasbench.record", ("record", "migrate", "integrity", "pipeline")),
    **{f"strategies/{k}.py": (f"nasbench.strategies.{k}", tests) for k, tests in STRATEGY_TESTS.items()},
}
# One wrong operator, number, condition or loop at a time; of all replacements of arithmetic those that somebody writes.
OPERATORS = re.compile(
    r"core/(ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Pow_Mul|Mod_Mul|BitAnd_BitOr)"
    r"|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is|Lt_Gt|Gt_Lt)"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_Not|Delete_USub)|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr"
    r"|ReplaceOrWithAnd|ReplaceBreakWithContinue|ReplaceContinueWithBreak|AddNot|NumberReplacer|ZeroIterationForLoop)"
)


class Mutated(importlib.machinery.SourceFileLoader):
    """Loads a module from another source than its file."""

    source = b""

    def get_code(self, fullname: str) -> Any:
        """Compile it, past the cache."""
        return compile(self.source, self.path, "exec", dont_inherit=True)


class Finder:
    """Finds one module before anybody else does."""

    def __init__(self, module: str, path: Path, source: str) -> None:
        self.module, self.loader = module, Mutated(module, str(path))
        self.loader.source = source.encode()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The module's, with the source that was given."""
        return importlib.util.spec_from_loader(name, self.loader) if name == self.module else None


def mutants(source: str) -> Iterator[tuple[str, int, int, str]]:
    """Operator, occurrence, line and source of every mutant."""
    for name in filter(OPERATORS.fullmatch, operator_names()):
        operator = get_operator(name)()
        occurrence = 0
        while (mutated := mutate_code(source, operator, occurrence)) is not None:
            pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
            line = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), 0)
            yield name.removeprefix("core/"), occurrence, line, mutated
            occurrence += 1


class Trial:
    """The tests of a module with another source, in a process of their own."""

    def __init__(self, path: Path, source: str) -> None:
        module, tests = TARGETS[str(path.relative_to(ROOT))]
        files = [str(ROOT / "tests" / f"test_{name}.py") for name in tests]
        self.begun = time.monotonic()
        self.process = os.fork()
        if self.process:
            return
        os.setpgid(0, 0)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.meta_path.insert(0, Finder(module, path, source))
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files]) != 0)

    def outcome(self, seconds: float) -> str:
        """Empty while they run; they are stopped after so long."""
        ended, status = os.waitpid(self.process, os.WNOHANG)
        if ended:
            return "killed" if status else "survived"
        if time.monotonic() < self.begun + seconds:
            return ""
        os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        return "killed by time"


def attack(path: Path, known: list[dict[str, str]], jobs: int, sample: int) -> Iterator[dict[str, str]]:
    """The rows of a module, those that are known first and as they are, until there are so many."""
    name, source = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    digest, lines = hashlib.sha256(source.encode()).hexdigest()[:16], source.splitlines()
    rows = [row for row in known if (row["module"], row["sha256"]) == (name, digest)]
    yield from rows
    done = {(row["operator"], row["occurrence"]) for row in rows}
    missing = [m for m in mutants(source) if (m[0], str(m[1])) not in done and lines[m[2] - 1].strip()]
    random.Random(name).shuffle(missing)
    del missing[max(0, sample - len(rows)) :]
    if not missing:
        return
    sound = Trial(path, source)
    while not (outcome := sound.outcome(3600)):
        time.sleep(0.1)
    if outcome != "survived":
        raise SystemExit(f"the tests of {name} do not pass as it is")
    limit = 3 * (time.monotonic() - sound.begun) + 20
    running: dict[Trial, tuple[str, int, int, str]] = {}
    while missing or running:
        while missing and len(running) < jobs:
            mutant = missing.pop(0)
            running[Trial(path, mutant[3])] = mutant
        for trial, (operator, occurrence, line, _) in list(running.items()):
            if outcome := trial.outcome(limit):
                values = (name, digest, str(line), operator, str(occurrence), outcome, lines[line - 1].strip())
                print(*values, sep="\t", flush=True)
                del running[trial]
                yield dict(zip(COLUMNS, values, strict=True))
        time.sleep(0.05)


def write(rows: Sequence[dict[str, str]]) -> None:
    """Write the table."""
    with OUT.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Try what is missing, write the table, and print the share that was killed of each module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", help="by default all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--sample", type=int, default=1_000_000, help="at most so many of each module")
    given = parser.parse_args()
    known = list(csv.DictReader(OUT.open(newline=""))) if OUT.is_file() else []
    for name in given.files or TARGETS:
        rows, others = [], [row for row in known if row["module"] != name]
        for row in attack(ROOT / name, known, given.jobs, given.sample):
            rows.append(row)
            write(others + rows)
        known = others + rows
        killed = sum(row["outcome"] != "survived" for row in rows)
        print(f"{name}: {killed} of {len(rows)} killed ({100 * killed / max(1, len(rows)):.0f} %)", file=sys.stderr)


if __name__ == "__main__":
    main()
