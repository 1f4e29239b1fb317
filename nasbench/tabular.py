"""Benchmarks with known answers: every architecture of a space with its accuracy, so that a search takes milliseconds.

`metapool_bench.csv` comes with the package. The others are read from the data root: `nas-bench-macro_cifar10.json` as
its authors publish it (Su et al., CVPR 2021), and `nasbench201.csv` (Dong and Yang, ICLR 2020), a row a cell with the
columns named in `nasbench201`.
"""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.strategy import Strategy
from numpy.typing import NDArray

from nasbench import registry
from nasbench.answered import Answers, Lookup
from nasbench.errors import DataError, NasbenchError, OptionError
from nasbench.quiet import quiet_libraries

CELLS = "nni.nas.hub.pytorch:NasBench201"
OPERATIONS = ("none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3")  # of NAS-Bench-201, as NNI calls them
EDGES = ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")  # in the order of its architecture strings


@dataclass(frozen=True)
class Benchmark:
    """Every architecture of a space, and how good it is."""

    title: str
    space: str  # where its networks can be trained
    candidates: Mapping[str, tuple[str, ...]]  # label → candidates
    accuracy: dict[tuple[str, ...], float]  # candidates in the order of the labels → final accuracy, a fraction
    # Likewise, what a search can afford to see: each of the measures, of which a run has one.
    proxies: tuple[dict[tuple[str, ...], float], ...]

    def key(self, architecture: Mapping[str, Any]) -> tuple[str, ...]:
        """The candidates of an architecture in the order of the labels."""
        return tuple(architecture[label] for label in self.candidates)

    @property
    def best(self) -> float:
        """The accuracy of the best architecture."""
        return max(self.accuracy.values())


def nasbench_macro(root: Path) -> Benchmark:
    """NAS-Bench-Macro: mean accuracy of three trainings on CIFAR-10; the proxy is a single one of them."""
    from nasbench.spaces.nasbench_macro import CANDIDATES, LABELS

    table = json.loads(_file(root, "nas-bench-macro_cifar10.json", "nasbench_macro_cifar10.json").read_text())
    keys = {code: tuple(list(CANDIDATES)[int(digit)] for digit in code) for code in table}
    for code, row in table.items():
        if not np.isclose(row["mean_acc"], np.mean(row["test_acc"]), atol=1e-3) or len(row["test_acc"]) != 3:
            raise ValueError(f"{code} has mean_acc {row['mean_acc']}, which is not that of its three test_acc")
    means = {keys[code]: row["mean_acc"] / 100 for code, row in table.items()}
    single = tuple({keys[code]: row["test_acc"][n] / 100 for code, row in table.items()} for n in range(3))
    return Benchmark(
        "NAS-Bench-Macro, CIFAR-10", "nasbench_macro", dict.fromkeys(LABELS, tuple(CANDIDATES)), means, single
    )


def metapool_bench(root: Path) -> Benchmark:
    """metapool-bench: the test accuracy to be expected on Imagenette at 48 px; the proxy is a single training.

    Our own trainings of every network of space `metapool_bench` (`experiments/metapool_bench.py`). A single one is
    mostly a seed's accident, so that the best measured network is not the best one: what counts as final is the column
    `expected`, a prediction from all trainings (`experiments/bench_table.py`). The table is in the package, not in
    `root`.
    """
    from nasbench.spaces.metapool_bench import CANDIDATES, LABELS

    text = files("nasbench.spaces").joinpath("metapool_bench.csv").read_text(encoding="utf-8")
    rows = {tuple(row[label.partition(".")[0]] for label in LABELS): row for row in csv.DictReader(text.splitlines())}
    expected = {key: float(row["expected"]) / 100 for key, row in rows.items()}
    seeds = [name for name in next(iter(rows.values())) if name.startswith("seed")]
    whole = [name for name in seeds if all(row[name] for row in rows.values())]
    single = tuple({key: float(row[name]) / 100 for key, row in rows.items()} for name in whole)
    space = dict.fromkeys(LABELS, CANDIDATES)
    return Benchmark("metapool-bench, Imagenette at 48 px", "metapool_bench", space, expected, single)


def nasbench201(dataset: str) -> Callable[[Path], Benchmark]:
    """NAS-Bench-201 on one of its sets: test accuracy after 200 epochs; the proxy is held-out accuracy after 12.

    Columns: `arch` (the benchmark's string), `SET_test_200ep` and `SET_valid_12ep` (%). The labels are those of NNI's
    `NasBench201`, where a cell's network can be trained.
    """

    def read(root: Path) -> Benchmark:
        with _file(root, "nasbench201.csv").open(newline="") as file:
            rows = {_cell(row["arch"]): row for row in csv.DictReader(file)}
        final, early = (
            {cell: float(row[f"{dataset}_{column}"]) / 100 for cell, row in rows.items()}
            for column in ("test_200ep", "valid_12ep")
        )
        candidates = {f"cell/{edge}": OPERATIONS for edge in EDGES}
        return Benchmark(f"NAS-Bench-201, {dataset}", CELLS, candidates, final, (early,))

    return read


def _cell(arch: str) -> tuple[str, ...]:
    words = (word.partition("~")[0].removeprefix("nor_") for word in arch.replace("+", "").split("|"))
    return tuple(word for word in words if word)


def _file(root: Path, *names: str) -> Path:
    found = next((root / name for name in names if (root / name).is_file()), None)
    if found is None:
        raise DataError(f"there is no {names[0]} in {root}; give its folder with --data-root or NASBENCH_DATA")
    return found


BENCHMARKS = {
    "metapool_bench": metapool_bench,
    "nasbench_macro": nasbench_macro,
    **{f"nasbench201_{name}": nasbench201(name) for name in ("cifar10", "cifar100", "imagenet16_120")},
}


def read(name: str, root: Path) -> Benchmark:
    """The benchmark of a name in `BENCHMARKS`. Raises DataError: its file is missing, damaged or not whole."""
    try:
        found = BENCHMARKS[name](root)
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as e:
        raise DataError(f"{name}: its table in {root} is damaged: {registry.describe_exception(e)}") from e
    whole = set(product(*found.candidates.values()))
    if any(measures.keys() != whole for measures in (found.accuracy, *found.proxies)):
        raise DataError(f"{name}: its table in {root} does not have each of its {len(whole):,} architectures once")
    if not all(0 <= value <= 1 for measures in (found.accuracy, *found.proxies) for value in measures.values()):
        raise DataError(f"{name}: its table in {root} has accuracies that are not between 0 and 100 %")
    return found


def regrets(
    benchmark: Benchmark, strategy: str, options: Mapping[str, Any], seed: int, trials: int, proxy: bool = False
) -> NDArray[np.float64]:
    """(trials,) what the best network so far lacks in final accuracy, as a fraction, after each network that is tried.

    Args:
        benchmark: what is searched.
        strategy: registered name, or `module:Class`.
        options: of the strategy.
        seed: of the strategy, and which of several proxies it sees.
        trials: networks that it may try; after its own end nothing changes.
        proxy: let it see a proxy and choose by that, in place of the final accuracy.

    Raises:
        OptionError: the strategy trains no networks one by one, or its options are wrong.
    """
    measures = benchmark.proxies[seed % len(benchmark.proxies)] if proxy else benchmark.accuracy
    engine = Lookup(lambda architecture: measures[benchmark.key(architecture)], trials)
    with quiet_libraries():
        searcher: Strategy = registry.build("strategy", strategy, options, seed=seed)
        if isinstance(searcher, OneShotStrategy):
            raise OptionError(f"strategy {strategy!r} trains a supernet, and a table has finished networks only")
        try:
            searcher(Answers.of(benchmark.candidates), engine)
        except NasbenchError:
            raise
        except Exception as e:
            reason = registry.describe_exception(e)
            raise OptionError(f"strategy {strategy!r} cannot search a table of networks: {reason}") from e
    keys = [benchmark.key(model.sample) for model in engine.list_models()]
    if not keys:
        raise OptionError(f"strategy {strategy!r} with these options tries no network")
    seen = np.array([measures[key] for key in keys])
    final = np.array([benchmark.accuracy[key] for key in keys])
    # The first of equals stays, as for `Strategy.list_models`.
    best = [0]
    for number in range(1, len(keys)):
        best.append(number if seen[number] > seen[best[-1]] else best[-1])
    lacking = benchmark.best - final[best]
    return np.concatenate([lacking, np.full(trials - len(lacking), lacking[-1])])
