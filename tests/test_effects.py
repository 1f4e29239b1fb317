"""What the analysis of metapool-bench says of accuracies that are made up, so that the right answer is known."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import default_rng

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def analysis() -> Any:
    """The scripts, which import each other by name."""
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        import bench_table
        import effects
    finally:
        sys.path.remove(str(ROOT / "experiments"))
    return effects, bench_table


NAMES = list(product(("none", "avg3", "global"), repeat=5))
FRACTION = [name for name in NAMES if sum(("none", "avg3", "global").index(c) for c in name) % 3 == 0]
EFFECTS = {(0, "avg3"): -0.02, (2, "avg3"): -0.01, (2, "global"): 0.005}  # of stage and candidate, to `none`


def truth(name: tuple[str, ...]) -> float:
    return 0.6 + sum(EFFECTS.get((stage, candidate), 0.0) for stage, candidate in enumerate(name))


def made(
    seed: int, noise: float, own: float = 0.0, offset: float = 0.0
) -> tuple[dict[tuple[str, ...], dict[int, float]], dict[tuple[str, ...], float]]:
    """All networks with seed 0, the fraction with seed 1, too, which adds an offset; and what is true of them."""
    rng = default_rng(seed)
    real = {name: truth(name) + own * rng.normal() for name in NAMES}
    found = {name: {0: real[name] + noise * rng.normal()} for name in NAMES}
    for name in FRACTION:
        found[name][1] = real[name] + offset + noise * rng.normal()
    return found, real


def test_the_fraction_has_all_pairs_of_any_two_stages_equally_often(analysis: Any) -> None:
    effects, _ = analysis
    assert {name for name in NAMES if effects.metapool_bench.in_fraction(name)} == set(FRACTION)
    for one, other in product(range(5), repeat=2):
        if one != other:
            pairs = [(name[one], name[other]) for name in FRACTION]
            assert {pairs.count(pair) for pair in pairs} == {9}


def test_what_a_seed_adds_to_all_is_no_effect(analysis: Any) -> None:
    effects, _ = analysis
    found, _ = made(0, noise=0.0, offset=0.03)
    block = effects.balanced(found)
    assert len(block) == 243
    measured = effects.effects(block)
    for stage, effect in enumerate(measured):
        for candidate in ("avg3", "global"):
            assert effect.means[candidate] - effect.means["none"] == pytest.approx(EFFECTS.get((stage, candidate), 0))
    assert all(p < 1e-6 for p in (measured[0].p, measured[2].p))
    assert effects.best_gain(measured) == pytest.approx(max(map(truth, NAMES)) - np.mean([truth(n) for n in NAMES]))


def test_the_fraction_alone_is_shown_until_every_network_was_trained(analysis: Any) -> None:
    effects, table = analysis
    found, _ = made(0, noise=0.01)
    del found[NAMES[1]]
    assert set(effects.balanced(found)) == set(FRACTION)
    with pytest.raises(ValueError, match="81 of 243"):
        table.expected(found, 1e-4)
    del found[FRACTION[0]]
    assert effects.balanced(found) == {}


def test_an_effect_that_is_not_there_is_called_significant_as_often_as_is_said(analysis: Any) -> None:
    effects, _ = analysis
    p = [
        e.p for seed in range(60) for e in effects.effects(effects.balanced(made(seed, 0.014)[0])) if e.stage in (2, 4)
    ]
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) < 0.05) < 0.13


def test_the_accident_of_a_seed_and_the_choice_are_told_apart(analysis: Any) -> None:
    effects, _ = analysis
    spread = np.std([truth(name) for name in FRACTION], ddof=1)
    found = [effects.noise(made(seed, noise=0.014, own=0.006, offset=0.02)[0]) for seed in range(60)]
    assert {n.networks for n in found} == {81}
    assert np.mean([n.seed**2 for n in found]) == pytest.approx(0.014**2, rel=0.1)
    assert np.mean([n.choice**2 for n in found]) == pytest.approx(spread**2 + 0.006**2, rel=0.2)
    inside = np.mean([n.low < 0.014 < n.high for n in found])
    assert 0.85 < inside <= 1


def test_what_is_expected_of_a_network_is_nearer_to_the_truth_than_its_trainings(analysis: Any) -> None:
    effects, table = analysis
    for own in (0.0, 0.01):
        worse = better = 0.0
        for seed in range(20):
            found, real = made(seed, noise=0.014, own=own)
            said = table.expected(found, 0.014**2)
            additive = {e.stage - 1: e.means for e in effects.effects(effects.balanced(found))}
            middle = np.mean(list(additive[0].values()))
            sums = {n: sum(additive[s][c] for s, c in enumerate(n)) - 4 * middle for n in NAMES}
            mean = {n: np.mean(list(found[n].values())) for n in NAMES}
            error, of_mean, of_sums = (
                float(np.mean([(guess[n] - real[n]) ** 2 for n in NAMES])) for guess in (said, mean, sums)
            )
            assert error < of_mean
            worse, better = worse + of_sums, better + error
        # Without interactions nothing is better than the sum of the effects.
        assert better < worse if own else better < 1.2 * worse


def test_without_accidents_what_is_expected_is_what_was_measured(analysis: Any) -> None:
    _, table = analysis
    found, real = made(3, noise=0.0, own=0.01)
    assert table.expected(found, 0.0) == pytest.approx(real)


@pytest.mark.slow
def test_the_table_in_the_package_is_that_of_the_records(analysis: Any) -> None:
    effects, table = analysis
    assert table.table(effects.networks()) == (ROOT / "spaces" / "metapool_bench.csv").read_text()
