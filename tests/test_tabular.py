"""Strategies on tables whose every answer is known, against what theory and publications say."""

from __future__ import annotations

import csv
import json
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from nni.nas.strategy import Strategy
from scipy.stats import ttest_rel
from typer.testing import CliRunner

from nasbench import registry
from nasbench.answered import Answers, Lookup
from nasbench.architecture import instantiate
from nasbench.cli import app
from nasbench.errors import DataError, LimitError, OptionError
from nasbench.profile import profile
from nasbench.results import regret
from nasbench.results.style import encode
from nasbench.spaces.metapool_bench import MetaPoolBench
from nasbench.spaces.nasbench_macro import CANDIDATES, LABELS, NasBenchMacro
from nasbench.tabular import Benchmark, read, regrets

KEYS = list(product("ab", "abc", "abcd"))
BLACK_BOX = ("random", "local_search", "evolution", "tpe")


def toy(values: Any = None) -> Benchmark:
    """24 networks of three choices; the accuracy by key is given, or grows with the number of b, c and d."""
    given = values or {key: (sum(map(ord, key)) - 291) / 10 for key in KEYS}
    labels = {"x": ("a", "b"), "y": ("a", "b", "c"), "z": ("a", "b", "c", "d")}
    return Benchmark("toy", "nowhere", labels, given, (given, {key: 1 - v for key, v in given.items()}))


def options(name: str, trials: int) -> dict[str, Any]:
    """What a strategy needs for so many trials."""
    return {"trials": trials} if name == "random" else {}


def tried(benchmark: Benchmark, name: str, trials: int, seed: int = 0, allows: Any = None, **given: Any) -> list[Any]:
    """The networks that a strategy tries, in order."""
    engine = Lookup(lambda architecture: benchmark.accuracy[benchmark.key(architecture)], trials)
    searcher: Strategy = registry.build("strategy", name, options(name, trials) | given, seed=seed)
    if allows:
        searcher.allows = allows
    searcher(Answers.of(benchmark.candidates), engine)
    return [benchmark.key(model.sample) for model in engine.list_models()]


@pytest.mark.parametrize("name", BLACK_BOX)
def test_a_strategy_repeats_itself_by_its_seed_and_keeps_its_budget(name: str) -> None:
    runs = [tried(toy(), name, 12, seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) == 12


@pytest.mark.parametrize("name", ["local_search", "evolution", "tpe"])
def test_nothing_is_tried_twice_and_the_search_ends_with_the_space(name: str) -> None:
    found = tried(toy(), name, 100, **({"startup_trials": 3} if name == "tpe" else {}))
    assert max(Counter(found).values()) == 1
    assert set(found) <= set(KEYS)
    assert len(found) == len(KEYS) if name != "evolution" else len(found) >= 10  # which may lose what is far from all


@pytest.mark.parametrize("name", ["random", "local_search", "tpe"])
def test_only_what_is_allowed_is_tried(name: str) -> None:
    found = tried(toy(), name, 60, allows=lambda architecture: architecture["x"] == "a" != architecture["z"])
    assert {key[0] for key in found} == {"a"}
    assert "a" not in {key[2] for key in found}
    assert name == "random" or len(found) == 9
    with pytest.raises(LimitError, match="10,000"):
        tried(toy(), name, 60, allows=lambda architecture: False)


def test_local_search_climbs_to_the_best_neighbour_and_starts_anew_where_none_is_better() -> None:
    # Two peaks: bca (0.9) and adb is unreachable; every start reaches one of the two.
    benchmark = toy()
    for seed in range(5):
        found = tried(benchmark, "local_search", 24, seed)
        here, i = found[0], 1
        while True:
            around = [key for key in KEYS if sum(a != b for a, b in zip(key, here, strict=True)) == 1]
            new = [key for key in around if key not in found[:i]]
            assert set(found[i : i + len(new)]) == set(new)
            i += len(new)
            best = max(around, key=lambda key: benchmark.accuracy[key])
            if benchmark.accuracy[best] <= benchmark.accuracy[here]:
                break
            here = best
        assert benchmark.accuracy[here] == benchmark.best  # a sum over the choices has one peak


def test_tpe_takes_the_network_whose_choices_the_good_ones_have_more_often() -> None:
    strategy: Any = registry.build("strategy", "tpe", {"good": 0.5, "samples": 400}, seed=0)
    trials = [
        (1.0, {"x": "a", "y": "c"}),
        (0.9, {"x": "a", "y": "b"}),
        (0.2, {"x": "b", "y": "b"}),
        (0.1, {"x": "b", "y": "a"}),
    ]
    suggested = list(strategy._suggestions({"x": ["a", "b"], "y": ["a", "b", "c"]}, trials))
    # l: x 3/4 1/4, y 1/5 2/5 2/5; g: x 1/4 3/4, y 2/5 2/5 1/5. So the largest l / g is 3 · 2, of (a, c).
    assert suggested[0] == {"x": "a", "y": "c"}
    assert suggested[-1] == {"x": "b", "y": "a"}
    shares = Counter((s["x"], s["y"]) for s in suggested)
    for (x, y), wanted in {
        ("a", "c"): 0.3,
        ("a", "b"): 0.3,
        ("a", "a"): 0.15,
        ("b", "c"): 0.1,
        ("b", "a"): 0.05,
    }.items():
        assert abs(shares[x, y] / 400 - wanted) < 4 * (wanted * (1 - wanted) / 400) ** 0.5


def expected_regret(values: Any, trials: int) -> float:
    """Of the best of so many draws with repetition: the largest has rank ≤ i of n with probability (i / n)^trials."""
    ranked = np.sort(np.asarray(values))
    cumulative = (np.arange(len(ranked) + 1) / len(ranked)) ** trials
    return float(ranked[-1] - np.diff(cumulative) @ ranked)


@pytest.mark.parametrize("trials", [1, 2, 10])
def test_random_search_has_the_regret_of_the_closed_form(trials: int) -> None:
    benchmark = toy()
    # One trial is taken as it is drawn, so two are asked for and the budget ends the search after one.
    found = np.array([regrets(benchmark, "random", {"trials": max(2, trials)}, s, trials)[-1] for s in range(800)])
    wanted = expected_regret(list(benchmark.accuracy.values()), trials)
    assert abs(found.mean() - wanted) < 4 * found.std(ddof=1) / len(found) ** 0.5


def test_regret_is_of_the_final_accuracy_of_what_looks_best() -> None:
    benchmark = toy()
    by_final = regrets(benchmark, "local_search", {}, 1, 24)
    assert by_final[-1] == 0
    assert (np.diff(by_final) <= 0).all()
    misled = regrets(benchmark, "local_search", {}, 1, 24, proxy=True)  # seed 1 sees what is 1 − the accuracy
    assert misled[-1] == pytest.approx(benchmark.best - min(benchmark.accuracy.values()))
    assert regrets(benchmark, "local_search", {}, 0, 24, proxy=True)[-1] == 0


@pytest.mark.parametrize(
    ("strategy", "given", "said"),
    [
        ("pmpl", {}, "trains a supernet"),
        ("random", {}, "tries no network"),
        ("nni.nas.strategy:DARTS", {}, "trains a supernet"),
        ("evolution", {"sample_size": 30}, "sample_size"),
        ("nonsense", {}, "unknown strategy"),
        ("tpe", {"good": 2}, "good"),
    ],
)
def test_a_strategy_that_does_not_fit_is_named(strategy: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said) as refused:
        regrets(toy(), strategy, given, 0, 5)
    assert "\n" not in str(refused.value)


# Files


def macro_file(folder: Path, **changes: Any) -> Path:
    """A table of NAS-Bench-Macro's form: the accuracy grows with the sum of the digits."""
    rows = {}
    for digits in product("012", repeat=len(LABELS)):
        mean = 50 + 2.0 * sum(map(int, digits))
        rows["".join(digits)] = {"test_acc": [mean - 1, mean, mean + 1], "mean_acc": mean, "params": 1, "flops": 1}
    rows |= changes
    rows = {code: row for code, row in rows.items() if row is not None}
    (folder / "nas-bench-macro_cifar10.json").write_text(json.dumps(rows))
    return folder


def cell_file(folder: Path) -> Path:
    """A table of NAS-Bench-201's form: the accuracy is the share of 3×3 convolutions."""
    names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    with (folder / "nasbench201.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arch", "cifar10_test_200ep", "cifar10_valid_12ep"])
        for a, b, c, d, e, f in product(names, repeat=6):
            share = 100 * (a, b, c, d, e, f).count("nor_conv_3x3") / 6
            writer.writerow([f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|", share, share / 2])
    return folder


def test_tables_are_read_and_their_best_networks_found(tmp_path: Path) -> None:
    macro = read("nasbench_macro", macro_file(tmp_path))
    assert macro.best == pytest.approx(0.82)
    assert macro.accuracy[tuple(CANDIDATES)[0:1] * 8] == 0.5
    assert [p[tuple(CANDIDATES)[0:1] * 8] for p in macro.proxies] == [0.49, 0.5, 0.51]
    assert regrets(macro, "local_search", {}, 0, 200)[-1] == 0
    cells = read("nasbench201_cifar10", cell_file(tmp_path))
    assert cells.accuracy["conv_3x3", "none", "conv_3x3", "none", "none", "conv_3x3"] == pytest.approx(0.5)
    assert regrets(cells, "local_search", {}, 0, 200)[-1] == 0


def test_the_table_that_comes_with_the_package_needs_no_folder(tmp_path: Path) -> None:
    benchmark = read("metapool_bench", tmp_path / "absent")
    space = MetaPoolBench().simplify()
    assert {str(label): tuple(mutable.values) for label, mutable in space.items()} == benchmark.candidates
    assert len(benchmark.accuracy) == 243
    assert len(benchmark.proxies) >= 1
    for proxy in benchmark.proxies:
        # What is expected differs less than what was measured, around the same mean.
        assert np.std(list(proxy.values())) > np.std(list(benchmark.accuracy.values()))
        assert np.mean(list(proxy.values())) == pytest.approx(np.mean(list(benchmark.accuracy.values())), abs=0.005)
    assert regrets(benchmark, "local_search", {}, 0, 200)[-1] < 0.005


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"00000000": None}, "each of its 6,561"),
        ({"00000003": {"test_acc": [1, 1, 1], "mean_acc": 1}}, "damaged"),
        ({"0000000": {"test_acc": [1, 1, 1], "mean_acc": 1}}, "each of its 6,561"),
        ({"00000000": {"test_acc": [1, 1], "mean_acc": 1}}, "damaged"),
        ({"00000000": {"test_acc": [1, 1, 1], "mean_acc": float("nan")}}, "not that of its three"),
        ({"00000000": {"test_acc": [50, 50, 50], "mean_acc": 99}}, "00000000 has mean_acc 99"),
        ({"00000000": {"test_acc": [9119, 9119, 9119], "mean_acc": 9119}}, "between 0 and 100"),
        ({"00000000": 5}, "damaged"),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    macro_file(tmp_path, **changes)
    with pytest.raises(DataError, match=said) as refused:
        read("nasbench_macro", tmp_path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["evolution, NNI's defaults", "nni.nas.strategy:RegularizedEvolution,population_size=10"]
)
def test_all_that_the_figure_says_is_on_it(name: str) -> None:
    found = dict.fromkeys(["random", name, "tpe"], np.full((2, 200), 0.01))
    drawn = regret.figure("metapool-bench, Imagenette at 48 px, by a proxy", found)
    encode(drawn, "png")
    drawn.draw_without_rendering()
    title = next(text for text in drawn.axes[0].findobj(Text) if "metapool" in text.get_text())
    for part in (title, *drawn.legends):
        box = part.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= drawn.bbox.x1
        assert box.y1 <= drawn.bbox.y1


def test_the_command_prints_a_table_and_draws_a_figure(tmp_path: Path) -> None:
    given = [
        "tabular",
        "nasbench_macro",
        "--data-root",
        str(macro_file(tmp_path)),
        "--seeds",
        "3",
        "--max-trials",
        "30",
    ]
    shown = CliRunner().invoke(app, [*given, "--figure", str(tmp_path / "f"), "--format", "json"])
    assert shown.exit_code == 0, shown.output
    table = json.loads(shown.stdout)
    assert [row["strategy"]["value"] for row in table["rows"]] == ["random,trials=30", *BLACK_BOX[1:]]
    assert {"after3", "after7", "after15", "after30"} <= table["rows"][0].keys()
    assert {path.name for path in (tmp_path / "f").iterdir()} == {f"regret_nasbench_macro.{e}" for e in ("png", "svg")}
    chosen = CliRunner().invoke(app, [*given, "--strategy", "evolution,population_size=5,sample_size=2", "--proxy"])
    assert "evolution,population_size=5,sample_size=2" in chosen.output
    assert "by a proxy" in chosen.output


def test_what_the_command_cannot_do_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="unknown benchmark"):
        CliRunner().invoke(app, ["tabular", "nasbench_301"], catch_exceptions=False, standalone_mode=False)
    given = ["tabular", "nasbench_macro", "--data-root", str(tmp_path)]
    with pytest.raises(DataError, match=r"nas-bench-macro_cifar10\.json"):
        CliRunner().invoke(app, given, catch_exceptions=False, standalone_mode=False)


def test_a_table_of_regret_says_how_sure_it_is() -> None:
    found = {"all": np.array([[0.5, 0.0]] * 4), "half": np.array([[0.5, 0.0], [0.5, 0.25]] * 2)}
    table = regret.table("toy", found)
    assert table.rows[0]["best"].value == 1
    assert table.rows[0]["low"].value == pytest.approx(0.025 ** (1 / 4))
    assert table.rows[1]["after2"].value == pytest.approx(0.125)
    assert table.rows[1]["worst"].value == 0.25


# The real tables


@cache
def real(root: Path, name: str) -> Benchmark:
    """A benchmark of the real data."""
    return read(name, root)


@given(digits=st.tuples(*[st.integers(0, 2)] * len(LABELS)))
@settings(max_examples=12)
def test_every_network_of_the_macro_space_has_the_published_size(real_data: Path, digits: tuple[int, ...]) -> None:
    table = json.loads((real_data / "nasbench_macro_cifar10.json").read_text())
    published = table["".join(map(str, digits))]
    architecture = {label: list(CANDIDATES)[digit] for label, digit in zip(LABELS, digits, strict=True)}
    model = instantiate(NasBenchMacro, architecture)
    counts = profile(model, 32)
    assert (counts.params, counts.madds) == (published["params"], published["flops"])


def test_the_best_network_of_the_macro_space_is_the_tables(real_data: Path) -> None:
    benchmark = real(real_data, "nasbench_macro")
    assert benchmark.accuracy[benchmark.key(NasBenchMacro().architectures()["best"])] == benchmark.best


@pytest.mark.parametrize(("name", "best"), [("cifar10", 0.9437), ("cifar100", 0.7351), ("imagenet16_120", 0.4731)])
def test_the_best_cell_is_the_published_one(real_data: Path, name: str, best: float) -> None:
    assert real(real_data, f"nasbench201_{name}").best == pytest.approx(best, abs=5e-5)


@pytest.mark.parametrize("name", ["nasbench_macro", "nasbench201_cifar10"])
def test_random_search_in_the_real_tables_has_the_regret_of_the_closed_form(real_data: Path, name: str) -> None:
    benchmark = real(real_data, name)
    found = np.array([regrets(benchmark, "random", {"trials": 50}, seed, 50)[-1] for seed in range(100)])
    wanted = expected_regret(list(benchmark.accuracy.values()), 50)
    assert abs(found.mean() - wanted) < 4 * found.std(ddof=1) / 10


@pytest.mark.parametrize("name", ["local_search", "evolution", "tpe"])
@pytest.mark.parametrize("table", ["nasbench_macro", "nasbench201_cifar10", "nasbench201_cifar100"])
def test_what_learns_beats_random_search_at_200_networks(real_data: Path, name: str, table: str) -> None:
    # Published for regularised evolution on NAS-Bench-201 (Dong and Yang, ICLR 2020, table 5).
    benchmark = real(real_data, table)
    learns, by_chance = (
        [regrets(benchmark, which, options(which, 200), seed, 200)[-1] for seed in range(20)]
        for which in (name, "random")
    )
    assert ttest_rel(learns, by_chance, alternative="less").pvalue < 1e-3


def test_local_search_needs_as_many_networks_for_the_optimum_as_was_published(real_data: Path) -> None:
    # White et al. (arXiv 2005.02960, abstract): on CIFAR-100 "after training just 127 architectures on average".
    benchmark = real(real_data, "nasbench201_cifar100")
    found = np.array([regrets(benchmark, "local_search", {}, seed, 1_000) for seed in range(100)])
    assert (found[:, -1] == 0).all()
    needed = 1 + np.argmax(found == 0, axis=1)
    assert abs(np.mean(needed) - 127) < 3 * np.std(needed, ddof=1) / len(needed) ** 0.5
