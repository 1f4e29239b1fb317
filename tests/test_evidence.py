"""The mathematics of evidence: odds against their definition, symmetries, errors without a signal, forecasts."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nasbench.errors import RecordError
from nasbench.strategies.evidence import BURN_IN, FLOOR, LAGS, SCALE_MEMORY, Loser, Races

Floats = NDArray[np.float64]
DELTA = 0.05


def race(h: Floats, races: Races | None = None, **options: Any) -> list[tuple[int, Loser]]:
    """Who is out of a search, and at which step; `h` is (steps, layers, K), not a number where a layer has fewer."""
    if races is None:
        races = Races([int(np.isfinite(layer).any(0).sum()) for layer in h.swapaxes(0, 1)], DELTA)
    late, batch = options.get("late", len(h) // 2), options.get("batch", lambda step: None)
    return [(step, loser) for step, now in enumerate(h, 1) for loser in races.update(now, step > late, batch(step))]


def signal(seed: int, layers: int = 3, candidates: int = 4, steps: int = 300, strength: float = 0.4) -> Floats:
    """Gradients (steps, layers, K) of candidates that differ, in layers of different scales."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((steps, layers, candidates)) + strength * rng.standard_normal((layers, candidates))
    return noise * 10.0 ** rng.uniform(-2, 2, (layers, 1))


# The odds


def integral(total: float, variance: float, prior: float) -> float:
    """M = ∫ exp(λS − λ²V/2) N(λ; 0, 1/r) dλ, by the trapezoidal rule."""
    centre, width = total / (variance + prior), 1 / math.sqrt(variance + prior)
    grid = np.linspace(centre - 12 * width, centre + 12 * width, 4001)
    normal = math.sqrt(prior / (2 * math.pi)) * np.exp(-prior * grid**2 / 2)
    return float(np.trapezoid(np.exp(grid * total - grid**2 * variance / 2) * normal, grid))


class Plain:
    """The definition of one layer's races in plain loops; returns every pair's odds, those for the first, by step."""

    def __init__(self, candidates: int, comparisons: int) -> None:
        self.pairs = list(itertools.combinations(range(candidates), 2))
        self.alive, self.comparisons = set(range(candidates)), comparisons
        self.d: dict[tuple[int, int], list[float]] = {pair: [] for pair in self.pairs}
        self.batches: list[int] = []  # of each step after the burn-in
        self.burnt: list[dict[tuple[int, int], float]] = []
        self.scale = 0.0

    def step(self, h: Floats, batch: int) -> dict[tuple[int, int], float]:
        """(worse, better) → odds."""
        present = [pair for pair in self.pairs if self.alive.issuperset(pair)]
        raw = {(i, j): float(h[i] - h[j]) for i, j in present}
        square = sum(x * x for x in raw.values()) / max(1, len(raw))
        if not raw:
            return {}
        if len(self.burnt) < BURN_IN:
            self.burnt.append(raw)
            self.scale += square / BURN_IN
            self.first_scale = self.scale
            return {}
        self.batches.append(batch)
        for pair in self.pairs:
            self.d[pair].append(raw.get(pair, 0.0) / math.sqrt(self.scale))
        self.scale = SCALE_MEMORY * self.scale + (1 - SCALE_MEMORY) * square
        inflation = self.inflation()
        odds = {}
        for i, j in present:
            total, alone = sum(self.d[i, j]), sum(x * x for x in self.d[i, j])
            of_batches = [
                sum(x for x, b in zip(self.d[i, j], self.batches, strict=True) if b == batch)
                for batch in set(self.batches)
            ]
            variance = max(alone, sum(x * x for x in of_batches))
            prior = sum(b[i, j] ** 2 for b in self.burnt) / self.first_scale
            shrunk = total / math.sqrt(inflation)
            odds[(i, j) if total > 0 else (j, i)] = integral(shrunk, variance, prior) / self.comparisons
        return odds

    def inflation(self) -> float:
        """1 + 2 Σ ρ_l of the layer's d, about their means; never less than 1."""
        steps = len(next(iter(self.d.values())))
        means = {pair: sum(d) / steps for pair, d in self.d.items()}
        variance = sum(x * x for d in self.d.values() for x in d) - steps * sum(m * m for m in means.values())
        lagged = 0.0
        for lag, (pair, d) in itertools.product(range(1, LAGS + 1), self.d.items()):
            lagged += sum(x * y for x, y in zip(d[lag:], d, strict=False)) - steps * means[pair] ** 2
        return max(1.0, 1 + 2 * lagged / variance) if variance > 0 else 1.0


@pytest.mark.parametrize(("smooth", "batches"), [(0.0, 10**9), (0.5, 10**9), (0.0, 30)])
def test_the_odds_are_those_of_the_definition(smooth: float, batches: int) -> None:
    h, delta = signal(1, layers=2, steps=130), 0.4
    for step in range(1, len(h)):  # correlated from step to step
        h[step] += smooth * h[step - 1]
    h[batches:] += h[: max(0, len(h) - batches)]  # and from pass to pass
    races = Races([4, 4], delta)
    plain = [Plain(4, comparisons=2 * 4 * 3) for _ in range(2)]
    seen = 0
    for step, now in enumerate(h, 1):
        batch = step % batches
        losers = races.update(now, batch=batch if batches < len(h) else None)
        for layer, own in enumerate(plain):
            odds = own.step(now[layer], batch)
            best: dict[int, tuple[float, int]] = {}
            for (worse, better), value in odds.items():
                if value >= 1 / delta:
                    best[worse] = max(best.get(worse, (0.0, 0)), (value, better))
            found = {x.candidate: (x.odds, x.by) for x in losers if x.layer == layer}
            assert {k: by for k, (_, by) in found.items()} == {k: by for k, (_, by) in best.items()}
            for k, (value, _) in best.items():
                assert found[k][0] == pytest.approx(value, rel=1e-6)
            own.alive -= best.keys()
            seen += len(best)
    assert seen >= 3


# Symmetries


def same(found: list[tuple[int, Loser]], other: list[tuple[int, Loser]], layers: Any = None, names: Any = None) -> bool:
    """Whether two searches threw out the same, if layers and candidates are called otherwise in the second."""

    def key(step: int, x: Loser, layer: int, of: Any) -> tuple[Any, ...]:
        return step, layer, int(of[x.candidate]), int(of[x.by])

    most = max((max(x.layer, x.candidate, x.by) for _, x in [*found, *other]), default=0) + 1
    layers, names = (np.arange(most) if x is None else x for x in (layers, names))
    one = {key(t, x, x.layer, np.arange(most)): x.odds for t, x in found}
    two = {key(t, x, int(layers[x.layer]), names): x.odds for t, x in other}
    return one == pytest.approx(two, rel=1e-6) and one.keys() == two.keys()


seeds = st.integers(0, 10**6)
few = settings(max_examples=15)


@given(seeds, st.floats(-8, 8))
@few
def test_the_scale_of_the_loss_is_not_in_it(seed: int, power: float) -> None:
    h = signal(seed)
    found = race(h)
    assert found
    assert same(found, race(h * 10.0**power))


@given(seeds, st.floats(-3, 3))
@few
def test_what_all_candidates_of_a_layer_have_in_common_says_nothing(seed: int, power: float) -> None:
    h = signal(seed)
    common = np.random.default_rng(seed + 1).standard_normal((*h.shape[:2], 1)) * np.abs(h).mean((0, 2))[:, None]
    assert same(race(h), race(h + 10.0**power * common))


@given(seeds, st.permutations(range(4)), st.permutations(range(3)))
@few
def test_the_order_of_candidates_and_layers_is_not_in_it(seed: int, names: list[int], layers: list[int]) -> None:
    h = signal(seed)
    assert same(race(h), race(h[:, layers][:, :, names]), layers, names)


# Errors

LAYERS, SEARCHES = 6, 300


def wrong_searches(
    races: type[Races],
    autocorrelation: float = 0.0,
    batches: int | None = None,
    told: bool = True,
    steps: int = 400,
    kept: float = 0.9,
) -> float:
    """The share of searches without any signal that throw something out; those with `batches` see them again.

    `kept`: the share of the variance of a batch's h that is that of its images, and the same in every pass.
    """
    rng, candidates = np.random.default_rng(0), 4
    rows = LAYERS * SEARCHES
    raced = races([candidates] * rows, DELTA, LAYERS * candidates * (candidates - 1))
    before: list[Floats] = []
    for step in range(1, steps + 1):
        h = rng.standard_normal((rows, candidates))
        if batches is not None and step > batches:
            h = np.sqrt(kept) * before[step % batches] + np.sqrt(1 - kept) * h
        elif step > 1:
            h = autocorrelation * before[-1] + np.sqrt(1 - autocorrelation**2) * h
        before = [*before, h] if batches is None or step <= batches else before
        before = before[-1:] if batches is None else before
        raced.update(h, batch=step % batches if batches is not None and told else None)
    return float((~raced.alive).reshape(SEARCHES, -1).any(1).mean())


class Uncorrected(Races):
    """Takes d for uncorrelated from step to step."""

    def _inflation(self) -> Floats:
        return np.ones(len(self.steps))


ALLOWED = DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / SEARCHES)


def test_without_a_signal_candidates_leave_in_few_searches() -> None:
    assert wrong_searches(Races) <= ALLOWED


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("batches", [8, 40])
def test_images_that_are_seen_again_are_no_new_evidence(batches: int, kept: float) -> None:
    assert wrong_searches(Races, batches=batches, kept=kept) <= ALLOWED


def test_what_images_say_again_must_be_told_from_what_is_new() -> None:
    assert wrong_searches(Races, batches=40, told=False) > 3 * ALLOWED


def test_a_second_look_counts_as_far_as_it_says_something_else() -> None:
    """A preference of 0.25 deviations in 50 batches, seen ten times: what is new each time is worth new images."""

    def decided(kept: float) -> float:
        rng, first, rows = np.random.default_rng(0), np.zeros((50, 60, 3)), 60
        races = Races([3] * rows, DELTA, 6)
        for step in range(500):
            own = rng.standard_normal((rows, 3))
            if step < 50:
                first[step] = own
            h = np.sqrt(kept) * first[step % 50] + np.sqrt(1 - kept) * rng.standard_normal((rows, 3))
            races.update(h + np.array([0.0, 0.25, 0.25]) * math.sqrt(2), batch=step % 50)
        assert races.alive[:, 0].mean() > 1 - DELTA
        return float((races.alive.sum(1) == 1).mean())

    same, mostly_new, new = decided(1.0), decided(0.1), decided(0.0)
    assert same < 0.1
    assert mostly_new > same + 0.2
    assert new > mostly_new + 0.4


def test_steps_that_resemble_each_other_are_less_evidence() -> None:
    assert wrong_searches(Races, autocorrelation=0.3) <= ALLOWED
    assert wrong_searches(Uncorrected, autocorrelation=0.3) > 1.5 * ALLOWED


def test_an_advantage_of_a_third_of_the_noise_decides_the_median_layer_within_600_steps() -> None:
    networks, layers, candidates, steps = 6, 17, 7, 600
    rng, rows = np.random.default_rng(0), 6 * 17
    races = Races([candidates] * rows, DELTA, layers * candidates * (candidates - 1))
    means = np.where(np.arange(candidates) == 3, -0.3 * math.sqrt(2), 0.0)  # of d against any other: 0.3 deviations
    for _ in range(steps):
        races.update(rng.standard_normal((rows, candidates)) + means)
    decided = races.alive.sum(1) == 1
    assert np.median(decided.reshape(networks, layers).mean(1)) > 0.5
    assert races.alive[:, 3].all()


# Who cannot be told apart, or takes no part


def test_candidates_that_are_alike_never_leave() -> None:
    h = signal(0, layers=3, candidates=3, steps=2000, strength=0.0)
    h /= np.abs(h).mean((0, 2))[:, None]
    h[:, 1] = h[:, 1, :1]  # exactly
    h[:, 2] = h[:, 2, :1] * (1 + np.array([0.0, 1e-6, 2e-6])) + np.array([0.0, FLOOR / 10, FLOOR / 5])
    h[:, 0, 2] += 2.0
    gone = {(x.layer, x.candidate) for _, x in race(h)}
    assert (0, 2) in gone
    assert not {layer for layer, _ in gone} & {1, 2}


def test_small_differences_count_where_there_are_no_larger_ones() -> None:
    h = signal(0, layers=1, candidates=2, steps=300, strength=0.0) * 1e-9
    h[:, 0, 1] += 3 * np.abs(h).mean()
    assert [x.candidate for _, x in race(h)] == [1]


def test_absent_candidates_and_lone_ones_never_leave() -> None:
    h = signal(0, layers=3, candidates=4, strength=3.0)
    h[:, 0, 1], h[:, 1], h[:, 2, 1:] = np.nan, np.nan, np.nan
    races = Races([4, 4, 1], DELTA)
    gone = [x for _, x in race(h, races)]
    assert {x.layer for x in gone} == {0}
    assert 1 not in {k for x in gone for k in (x.candidate, x.by)}
    assert races.alive.tolist()[1:] == [[True] * 4, [True, False, False, False]]
    assert races.comparison(1) is races.comparison(2) is races.preferred(1) is None


def test_a_layer_that_is_decided_or_begins_late_troubles_nobody() -> None:
    """No warning of arithmetic, and a late layer has a burn-in of its own."""
    h = signal(3, layers=2, candidates=3, steps=400, strength=2.0)
    late = np.concatenate([np.full((100, 3), np.nan), h[:300, 1]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        races = Races([3, 3], DELTA)
        found = race(np.stack([h[:, 0], late], 1), races)
    assert races.alive.sum(1).tolist() == [1, 1]
    assert races.steps[0] < 100
    alone = race(h[:300, 1:], Races([3], DELTA, comparisons=12))
    assert [(t - 100, x.candidate) for t, x in found if x.layer == 1] == [(t, x.candidate) for t, x in alone]


@given(seeds, st.floats(0, 0.5), st.floats(0, 3))
@few
def test_who_is_out_stays_out_and_one_always_stays(seed: int, absent: float, strength: float) -> None:
    h = signal(seed, steps=250, strength=strength)
    h[np.random.default_rng(seed).random(h.shape) < absent] = np.nan
    races, gone = Races([4] * 3, DELTA), set[tuple[int, int]]()
    for now in h:
        losers = races.update(now)
        assert not gone & {(x.layer, k) for x in losers for k in (x.candidate, x.by)}
        gone |= {(x.layer, x.candidate) for x in losers}
        assert {(layer, k) for layer, k in zip(*np.nonzero(~races.alive), strict=True)} == gone
        assert races.alive.any(1).all()


# What is known of layers that are open


@pytest.mark.parametrize("pattern", [[1.0], [1.0, 0.4], [2.0, -0.8, 0.5]])
@pytest.mark.parametrize("delta", [0.05, 1e-6])
def test_the_forecast_is_the_step_of_the_decision_if_all_goes_on_alike(pattern: list[float], delta: float) -> None:
    races = Races([2], delta)
    forecast, decided = [], 0
    for step, d in enumerate(itertools.islice(itertools.cycle(pattern), 3000), 1):
        if races.update(np.array([[0.0, d]])):
            decided = step - BURN_IN
            break
        best = races.comparison(0)
        if best is not None:
            assert (best.best, best.rival) == ((0, 1) if races._sum[0, 0] < 0 else (1, 0))
            forecast.append(best.needed)
    assert decided > 1
    late = [abs(n - decided) for n in forecast[len(forecast) // 2 :]]
    assert max(late) <= (0 if len(pattern) == 1 else 0.15 * decided + len(pattern))


def test_mean_and_deviation_are_those_of_the_steps() -> None:
    """d is 1 and 3 in turns: divided by its scale, whose square is 5, its mean is 2/√5 and its deviation 1/√5."""
    races = Races([2], 1e-300)
    for step in range(500):
        races.update(np.array([[1.0 + 2 * (step % 2), 0.0]]))
    best = races.comparison(0)
    assert best is not None
    assert (best.best, best.rival) == (1, 0)
    assert best.mean == pytest.approx(2 / 5**0.5, rel=0.03)
    assert best.deviation == pytest.approx(1 / 5**0.5, rel=0.06)


def test_no_end_is_forecast_where_there_is_none() -> None:
    races = Races([2], DELTA)
    for d in [1.0] * BURN_IN + [1.0, -1.0] * 10:
        races.update(np.array([[0.0, d]]))
    best = races.comparison(0)
    assert best is not None
    assert (best.mean, best.deviation, best.steps, best.needed) == (0.0, pytest.approx(1.0), 20, None)


@given(seeds)
@few
def test_each_half_prefers_whoever_has_the_smallest_sum(seed: int) -> None:
    h = signal(seed, layers=2, candidates=4, steps=200, strength=0.5)
    races = Races([4, 4], 0.3)
    assert races.preferred(0) is None
    sums = np.zeros((2, 2, 4))
    scale = np.zeros(2)
    for step, now in enumerate(h):
        late, alive, burning = step >= 100, races.alive.copy(), step < BURN_IN
        d = [[a - b for a, b in itertools.combinations(now[layer][alive[layer]], 2)] for layer in range(2)]
        square = np.array([np.mean(np.square(x)) if x else np.nan for x in d])
        if not burning:
            running = ~np.isnan(square)
            sums[int(late)][running] += np.where(alive, now, 0.0)[running] / np.sqrt(scale)[running, None]
            scale = np.where(running, SCALE_MEMORY * scale + (1 - SCALE_MEMORY) * square, scale)
        else:
            scale += square / BURN_IN
        for x in races.update(now, late):
            sums[int(late) :, x.layer, x.candidate] = np.inf  # was not there to the end of this half
        if not late:
            assert races.preferred(0) is None
    for layer in range(2):
        undecided = races.alive[layer].sum() > 1
        expected = tuple(sums[:, layer].argmin(1).tolist())
        assert races.preferred(layer) == expected or not undecided


def test_who_leaves_late_was_there_in_the_first_half() -> None:
    h = np.random.default_rng(0).standard_normal((200, 1, 3))
    h -= h[:100].mean(0)
    h[:100, :, 0] -= 0.1
    h[100:, :, 0] += 3.0
    races = Races([3], DELTA)
    assert {x.candidate for _, x in race(h, races)} == {0}
    halves = races.preferred(0)
    assert halves is not None
    assert halves[0] == 0
    assert halves[1] in {1, 2}


def test_of_several_that_are_better_the_one_with_the_largest_odds_is_named() -> None:
    h = np.random.default_rng(0).normal([1.2, 0.2, 0.0], size=(80, 1, 3))
    for order in itertools.permutations(range(3)):
        races = Races([3], 1e-12)
        race(h[:79, :, order], races)
        races._log_needed = -math.log(DELTA)  # all at once
        found = [(80, loser) for loser in races.update(h[79, :, order].T)]
        assert [(step, order[x.candidate], order[x.by]) for step, x in found] == [(80, 0, 2)]


def test_a_search_that_is_saved_and_loaded_goes_on_as_if_it_had_not() -> None:
    h = signal(5, steps=400, strength=0.2)
    whole = Races([4] * 3, DELTA)
    expected = race(h, whole)
    first, second = Races([4] * 3, DELTA), Races([4] * 3, DELTA)
    before = race(h[:150], first, late=200)
    second.load(copy.deepcopy(first.state()))
    after = race(h[150:], second, late=50)
    assert before
    assert after
    assert [(t, x) for t, x in before] + [(t + 150, x) for t, x in after] == expected
    assert [second.comparison(k) for k in range(3)] == [whole.comparison(k) for k in range(3)]
    assert [second.preferred(k) for k in range(3)] == [whole.preferred(k) for k in range(3)]


def test_a_state_of_a_version_that_judges_otherwise_is_refused() -> None:
    races = Races([3], DELTA)
    with pytest.raises(RecordError, match="begun by another version"):
        races.load({name: value for name, value in races.state().items() if name != "_groups"})


def wins(steps: int, batches: int, layers: int = 17, candidates: int = 3) -> bool:
    """Whether a candidate that wins every step alike throws another out."""
    h = np.tile(np.arange(candidates) > 0, (layers, 1)).astype(float)
    races = Races([candidates] * layers, DELTA)
    return any(races.update(h, batch=step % batches) for step in range(1, steps + 1))


@pytest.mark.parametrize("batches", [5, 22, 25, 30, 47, 48, 1000])
@pytest.mark.parametrize("steps", [40, 47, 48, 60, 90, 500])
def test_what_can_be_decided_at_all_is_known_beforehand(batches: int, steps: int) -> None:
    assert Races([3] * 17, DELTA).can_decide(steps, batches) == wins(steps, batches)
