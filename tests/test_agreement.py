"""How far seeds agree: the mathematics against definitions, and the command as a user meets it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from records import LABELS, NAMES, write_run
from scipy import stats
from typer.testing import CliRunner, Result

from nasbench import record as records
from nasbench.cli import app
from nasbench.errors import NasbenchError, RecordError
from nasbench.facts import Decision, Exclusion
from nasbench.record import Record
from nasbench.results.cells import Table
from nasbench.results.collect import collect
from nasbench.results.repeats import repeats
from nasbench.results.statistics import Share, chance, exact, kappa, share, tally, votes
from nasbench.results.tables import build

# Fleiss 1971, table 1: of each of 30 patients the diagnoses of six psychiatrists.
# 1 depression, 2 personality disorder, 3 schizophrenia, 4 neurosis, 5 other.
FLEISS = (
    *("444444", "222555", "233335", "555555", "222444", "113333", "333355", "113334", "114444", "555555"),
    *("144444", "124444", "222333", "144444", "224445", "333335", "111455", "111112", "224444", "133555"),
    *("555555", "244444", "224555", "114444", "144445", "222224", "111155", "224444", "133333", "555555"),
)


def layers(*chosen: Sequence[str]) -> dict[str, list[str]]:
    """Votes, of which each layer is a word with a letter a search."""
    return {f"layer{i}": list(of_layer) for i, of_layer in enumerate(chosen)}


def drawn(
    rng: np.random.Generator, count: int, seeds: int, candidates: int, known: float = 0.0
) -> dict[str, list[str]]:
    """Searches that find each layer's own answer with some probability, and else draw."""
    answer = rng.integers(candidates, size=(count, 1))
    found = rng.random((count, seeds)) < known
    chosen = np.where(found, answer, rng.integers(candidates, size=(count, seeds)))
    return {f"layer{i}": [str(c) for c in row] for i, row in enumerate(chosen)}


# Mathematics


def test_kappa_is_that_of_fleiss_example() -> None:
    found = kappa(layers(*FLEISS))
    assert found.value == pytest.approx(0.430, abs=5e-4)
    assert chance(FLEISS) == pytest.approx(0.2199, abs=5e-5)
    same, pairs = (sum(numbers) for numbers in zip(*map(tally, FLEISS), strict=True))
    assert same / pairs == pytest.approx(0.5556, abs=5e-5)


def test_kappa_by_hand() -> None:
    """Layers aab, abb, aaa: P̄ = (1/3 + 1/3 + 1) / 3 = 5/9; shares 6/9 and 3/9, P̄_e = 45/81 = 5/9; so κ = 0."""
    assert kappa(layers("aab", "abb", "aaa")).value == pytest.approx(0, abs=1e-15)
    # ab, aa, bb, bb: P̄ = 3/4, shares 3/8 and 5/8, P̄_e = 34/64, κ = (48 − 34) / (64 − 34).
    assert kappa(layers("ab", "aa", "bb", "bb")).value == pytest.approx(14 / 30)


def test_perfect_agreement_is_one_and_has_no_interval() -> None:
    found = kappa(layers("aaa", "bbb", "aaa", "bbb"))
    assert (found.value, found.half) == (1.0, None)
    assert "no interval" in found.why


def test_contrary_seeds_are_below_chance() -> None:
    assert kappa(layers("ab", "ab", "ab", "ba")).value == pytest.approx(-1)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [((), "two layers or more"), (("aa",), "two layers or more"), (("aa", "aa", "aa"), "all chose a in every layer")],
)
def test_where_kappa_is_not_defined_it_says_why(chosen: tuple[str, ...], words: str) -> None:
    found = kappa(layers(*chosen))
    assert (found.value, found.half) == (None, None)
    assert words in found.why


@pytest.mark.parametrize("chosen", [("aa", "ab"), ("aaa", "aaa", "aaa", "aab")])
def test_one_layer_alone_gives_no_interval(chosen: tuple[str, ...]) -> None:
    found = kappa(layers(*chosen))
    assert found.value is not None
    assert found.half is None
    assert "rests on a single layer" in found.why


def test_kappa_takes_as_many_searches_everywhere_and_two_at_least() -> None:
    with pytest.raises(ValueError, match="two searches"):
        kappa(layers("a", "b"))
    with pytest.raises(ValueError, match="unpack"):
        kappa(layers("ab", "abc"))


def test_the_interval_is_the_jackknifes() -> None:
    """By the definition: κ of all layers but one, for each."""
    chosen = drawn(np.random.default_rng(3), 9, 4, 3, known=0.6)
    found = kappa(chosen)
    left = [kappa({k: v for k, v in chosen.items() if k != out}).value or 0.0 for out in chosen]
    error = (8 / 9 * sum((value - np.mean(left)) ** 2 for value in left)) ** 0.5
    bias = 8 * (np.mean(left) - (found.value or 0.0))
    assert found.half == pytest.approx(stats.t.ppf(0.975, 8) * error + abs(bias))


@pytest.mark.parametrize(("seeds", "candidates"), [(2, 3), (3, 8), (5, 3), (5, 8)])
@pytest.mark.parametrize("known", [0.0, 0.6])
def test_the_interval_holds_the_truth(seeds: int, candidates: int, known: float) -> None:
    """Two searches agree beyond chance where both know the answer: κ = known². Independent draws have κ = 0."""
    rng = np.random.default_rng(seeds * candidates)
    found = [kappa(drawn(rng, 17, seeds, candidates, known)) for _ in range(200)]
    inside = [abs((k.value or 0.0) - known**2) <= k.half for k in found if k.value is not None and k.half is not None]
    assert len(inside) >= 198
    assert 0.9 <= np.mean(inside) <= 0.99
    assert np.mean([k.value or 0.0 for k in found]) == pytest.approx(known**2, abs=0.06)


chosen_layers = st.integers(2, 5).flatmap(
    lambda seeds: st.lists(st.lists(st.sampled_from("abcd"), min_size=seeds, max_size=seeds), min_size=1, max_size=12)
)


@settings(max_examples=150, derandomize=True, database=None)
@given(chosen=chosen_layers, data=st.data())
def test_neither_order_nor_names_matter(chosen: list[list[str]], data: st.DataObject) -> None:
    seeds = data.draw(st.permutations(range(len(chosen[0]))))
    order = data.draw(st.permutations(range(len(chosen))))
    names = dict(zip("abcd", data.draw(st.permutations("wxyz")), strict=True))
    other = [[names[chosen[i][s]] for s in seeds] for i in order]
    before, after = kappa(layers(*chosen)), kappa(layers(*other))
    assert (before.value, before.half) == pytest.approx((after.value, after.half), abs=1e-9)
    assert share(map(tally, chosen)) == share(map(tally, other))
    assert chance(chosen) == pytest.approx(chance(other))


@settings(max_examples=150, derandomize=True, database=None)
@given(chosen=chosen_layers)
def test_agreement_is_what_counting_every_pair_gives(chosen: list[list[str]]) -> None:
    pairs = [(a, b) for of_layer in chosen for a, b in combinations(of_layer, 2)]
    found = share(map(tally, chosen))
    assert found is not None
    assert (found.agreeing, found.pairs) == (sum(a == b for a, b in pairs), len(pairs))
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_a_swapped_label_is_seen() -> None:
    repeated = drawn(np.random.default_rng(0), 17, 1, 3)
    perfect = {label: one * 3 for label, one in repeated.items()}
    first, second = next((a, b) for a, b in combinations(repeated, 2) if repeated[a] != repeated[b])
    swapped = {label: list(of_layer) for label, of_layer in perfect.items()}
    swapped[first][2], swapped[second][2] = swapped[second][2], swapped[first][2]
    assert kappa(perfect).value == 1.0
    assert (kappa(swapped).value or 0.0) < 1
    found = share(map(tally, swapped.values()))
    assert found is not None
    assert found.pairs - found.agreeing == 4  # two layers, in each of which the third search differs from both others


@pytest.mark.parametrize(("successes", "trials"), [(0, 9), (4, 17), (9, 9)])
def test_the_exact_interval_is_that_of_scipy(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert exact(successes / trials, trials) == pytest.approx((expected.low, expected.high))


def test_a_layer_is_one_trial_however_many_searches_there_are() -> None:
    assert share([]) is share([(0, 0)]) is None
    two, five = share([(1, 1)] * 4 + [(0, 1)] * 13), share([(10, 10)] * 4 + [(0, 10)] * 13)
    assert two == Share(4, 17, *exact(4 / 17, 17))
    assert five == Share(40, 170, *exact(4 / 17, 17))
    assert share([(10, 10), (0, 1)]) == Share(10, 11, *exact(10 / 11, 121 / 101))


def test_architectures_of_different_layers_have_no_votes() -> None:
    assert votes([{"a": 3, "b": "x"}, {"b": "x", "a": 5}]) == {"a": ["3", "5"], "b": ["x", "x"]}
    assert votes([{"a": "x"}, {"b": "x"}]) == {}


# From records

ABLATION = {"candidates": "ablation"}


def search(
    folder: Path, found: Sequence[str], seed: int, decisions: Mapping[int, Decision] | None = None, **more: Any
) -> Path:
    """A finished search.

    Args:
        folder: that receives the record.
        found: the candidate of each of the first layers; the others have the last one.
        seed: of the run.
        decisions: number of the layer → why it has its candidate; `limit` else.
        **more: see `write_run`.
    """
    every = [*found, *[found[-1]] * (len(LABELS) - len(found))]
    architecture = dict(zip(LABELS, every, strict=True))
    path = write_run(
        folder, seed=seed, **{"strategy": "pmpl", "architecture": architecture, "space_options": ABLATION, **more}
    )
    by = Decision(by="limit", pi=dict.fromkeys(NAMES, 1 / 3))
    told = {label: (decisions or {}).get(i, by) for i, label in enumerate(LABELS)}
    Record(path).write_json(records.DECISIONS, told)
    return path


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def table(*folders: Path) -> Table:
    return repeats(collect(folders).frame)


def values(found: Table, row: int) -> dict[str, Any]:
    return {key: cell.value for key, cell in found.rows[row].items()}


def test_a_table_of_three_seeds(tmp_path: Path) -> None:
    """The first layer is split 2 : 1, the second 1 : 1 : 1, the others agree."""
    by = {0: Decision(by="evidence", survivors=["none"]), 1: Decision(by="threshold")}
    search(tmp_path, ["none", "none", "global", "avg3"], 0, by)
    search(tmp_path, ["none", "avg3", "global", "avg3"], 1, {**by, 2: Decision(by="evidence")})  # block 3: it alone
    search(tmp_path, ["avg3", "global", "global", "avg3"], 2, {1: Decision(by="threshold")})
    found = table(tmp_path)
    shown = values(found, 0)
    assert shown["search"] == "pmpl (ablation)"
    assert (shown["between"], shown["seeds"], shown["layers"], shown["candidates"]) == ("seeds", 3, 17, "3")
    assert (shown["agreeing"], shown["pairs"], shown["all"]) == (46, 51, 15 / 17)
    assert shown["agreement"] == 46 / 51
    none, avg3, everywhere = 2 + 1, 1 + 1 + 14 * 3, 1 + 3
    assert shown["chance"] == pytest.approx((none**2 + avg3**2 + everywhere**2) / 51**2)
    assert shown["kappa"] == pytest.approx((46 / 51 - shown["chance"]) / (1 - shown["chance"]))
    assert found.rows[0]["kappa"].half is not None
    both = values(found, 1)
    assert both["between"] == "seeds, decided by both"
    assert (both["layers"], both["agreeing"], both["pairs"]) == (2, 1, 4)  # one pair decided block 1, three block 2
    assert both["all"] == 0.5
    assert (both["low"], both["high"]) == exact(1 / 4, 16 / 10)
    assert len(found.rows) == 2  # no halves are known


def test_halves_are_compared_with_one_in_k(tmp_path: Path) -> None:
    pi = dict.fromkeys(NAMES, 1 / 3)
    excluded = {"max3": Exclusion(step=9, by="none", odds=40.0)}
    by = {
        0: Decision(by="undecided", survivors=[*NAMES], excluded=excluded, halves=["none", "none"]),
        1: Decision(by="undecided", pi=pi, halves=["none", "avg3"]),
        2: Decision(by="undecided", pi=pi, halves=[]),
        3: Decision(by="evidence", pi=pi, halves=["avg3", "avg3"]),
    }
    search(tmp_path, ["none", "avg3"], 4, by)
    found = table(tmp_path)
    assert [row["between"].value for row in found.rows] == ["halves of each search"]
    shown = values(found, 0)
    assert (shown["seeds"], shown["layers"], shown["candidates"]) == (1, 3, "3–4")
    assert (shown["agreeing"], shown["pairs"], shown["agreement"]) == (2, 3, 2 / 3)
    assert shown["chance"] == pytest.approx((1 / 4 + 1 / 3 + 1 / 3) / 3)
    assert any("only seed 4 is known" in note for note in found.notes)


def test_a_seed_counts_once_and_what_is_given_not_at_all(tmp_path: Path) -> None:
    search(tmp_path, ["none", "avg3"], 0, started="2001-01-01")
    search(tmp_path, ["global", "avg3"], 0, started="2000-01-01")
    search(tmp_path, ["none", "avg3"], 1)
    write_run(tmp_path, seed=0, space_options=ABLATION)
    write_run(tmp_path, seed=1, space_options=ABLATION)
    found = table(tmp_path)
    assert [row["search"].value for row in found.rows] == ["pmpl (ablation)"] * 2
    assert values(found, 0)["agreement"] == 1.0  # the older of seed 0 would have differed
    notes = " ".join(found.notes)
    assert "pmpl (ablation): of 1 repeated run(s) only the newest of each seed counts" in notes
    assert "2 run(s) of an architecture that was given left out" in notes


def test_settings_are_kept_apart_and_named_by_what_differs(tmp_path: Path) -> None:
    for eta in (0.003, 0.1):
        for seed in (0, 1):
            search(tmp_path, [NAMES[seed], "none"], seed, strategy_options={"eta": eta})
    search(tmp_path, ["none"], 0, strategy="random")
    found = table(tmp_path)
    names = {row["search"].value for row in found.rows}
    assert names == {"pmpl (ablation), eta=0.003", "pmpl (ablation), eta=0.1"}
    assert any(note.startswith("random (ablation): only seed 0") for note in found.notes)


def test_searches_that_all_want_the_same_have_no_kappa(tmp_path: Path) -> None:
    for seed in (0, 1):
        search(tmp_path, ["none"], seed)
    found = table(tmp_path)
    assert (values(found, 0)["agreement"], values(found, 0)["chance"], values(found, 0)["kappa"]) == (1.0, 1.0, None)
    assert any("all chose none in every layer" in note for note in found.notes)
    strategies = build("strategies", collect([tmp_path]).frame)
    assert strategies.rows[0]["agreement"].value is None


def test_one_setting_with_different_layers_is_not_compared(tmp_path: Path) -> None:
    search(tmp_path, ["none"], 0)
    other = Record(search(tmp_path, ["none"], 1))
    fewer = dict.fromkeys(LABELS[:3], "none")
    other.write_json(records.ARCHITECTURE, fewer)
    other.write_json(records.DECISIONS, dict.fromkeys(fewer, Decision(by="limit")))
    other.write_json(records.RESULT, other.result().model_copy(update={"architecture": fewer}))
    with pytest.raises(RecordError, match="its architectures are not of the same layers"):
        table(tmp_path)
    assert build("strategies", collect([tmp_path]).frame).rows[0]["agreement"].value is None


def test_the_strategies_table_says_how_far_seeds_agree(tmp_path: Path) -> None:
    for seed in (0, 1):
        search(tmp_path, ["none", NAMES[seed], "avg3"], seed)
    search(tmp_path, ["none"], 0, strategy="random")
    shown = build("strategies", collect([tmp_path]).frame)
    by_label = {row["label"].value: row["agreement"] for row in shown.rows}
    expected = kappa(layers(*["aa", "ab", *["bb"] * 15]))
    assert (by_label["pmpl (ablation)"].value, by_label["pmpl (ablation)"].half) == (expected.value, expected.half)
    assert by_label["random (ablation)"].value is None
    assert any("Fleiss" in note for note in shown.notes)


# The command


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for seed in (0, 1, 2):
        search(folder, ["none", NAMES[seed], "avg3"], seed, {0: Decision(by="threshold", halves=["none", "none"])})
    return folder


def test_the_command_in_every_format(runs: Path, tmp_path: Path) -> None:
    damaged = runs / "damaged"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("[]")
    shown = call("agreement", runs)
    assert shown.exit_code == 0
    assert f"skipped {damaged}: " in shown.stderr
    for words in ("pmpl (ablation)", "decided by both", "halves of each search", "94.1", "κ", "Fleiss 1971"):
        assert words in shown.stdout
    rows = list(csv.DictReader(io.StringIO(call("agreement", runs, "--format", "csv").stdout)))
    assert [row["between"] for row in rows] == ["seeds", "seeds, decided by both", "halves of each search"]
    assert float(rows[0]["agreement"]) == 48 / 51
    assert (rows[1]["agreeing"], rows[1]["pairs"], rows[1]["kappa"]) == ("3", "3", "")
    content = json.loads(call("agreement", runs, "--format", "json").stdout)
    assert content["rows"][0]["kappa"]["value"] == pytest.approx(float(rows[0]["kappa"]))
    assert call("agreement", runs, "--format", "md").stdout.count("| pmpl (ablation) |") == 3
    assert "?" not in call("agreement", runs, "--format", "latex").stdout
    output = tmp_path / "agreement.csv"
    assert call("agreement", runs, "--format", "csv", "--output", output).exit_code == 0
    assert output.read_text() == call("agreement", runs, "--format", "csv").stdout


def test_a_pack_is_read_like_its_records(runs: Path, tmp_path: Path) -> None:
    pack = tmp_path / "searches.records.xz"
    assert call("pack", runs, "-o", pack).exit_code == 0
    assert call("agreement", pack, "--format", "csv").stdout == call("agreement", runs, "--format", "csv").stdout


def test_what_cannot_be_compared_is_one_line(tmp_path: Path) -> None:
    search(tmp_path, ["none"], 0)
    write_run(tmp_path, space_options=ABLATION)
    for words, message in (
        ([tmp_path], "nothing can be compared: pmpl (ablation): only seed 0 is known"),
        (["nowhere"], "nowhere does not exist"),
        ([tmp_path, "--format", "pdf"], "unknown format 'pdf'"),
    ):
        if "pdf" in words:
            search(tmp_path, ["none"], 1)
        failed = call("agreement", *words)
        assert isinstance(failed.exception, NasbenchError)
        assert failed.exception.exit_code == 2
        assert message in str(failed.exception)
        assert "\n" not in str(failed.exception)
