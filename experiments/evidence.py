"""Simulate `nasbench.strategies.evidence`: how often it is wrong where there is nothing, how soon right where there is.

Writes `evidence.csv` beside this file; rows that are there are not simulated again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasbench.strategies.evidence import Races

LAYERS, DELTA = 17, 0.05
OUT = Path(__file__).with_suffix(".csv")
COLUMNS = (
    "scenario",
    "candidates",
    "searches",
    "steps",
    "wrong_searches",
    "wrong",
    "excluded",
    "median_step",
    "decided",
)

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int, tuple[int, int]], Floats]


def normal(rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
    """Independent candidates."""
    return rng.standard_normal(shape)


def correlated(rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
    """Correlation 0.8 between neighbours of a layer, 0.8² between the next but one, and so on."""
    noise = rng.standard_normal(shape)
    for k in range(1, shape[1]):
        noise[:, k] = 0.8 * noise[:, k - 1] + 0.6 * noise[:, k]
    return noise


def heavy(rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
    """Student's t with three degrees of freedom."""
    return rng.standard_t(3, shape)


def skewed(rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
    """The first half of the candidates has an exponential distribution (skewness 2), the others its mirror image."""
    noise = rng.exponential(size=shape) - 1
    return np.where(np.arange(shape[1]) < shape[1] / 2, noise, -noise)


def shrinking(rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
    """The scale falls to a tenth while the loss does."""
    return rng.standard_normal(shape) * max(0.1, 1 - step / 600)


class Again:
    """The same images ten times over: a batch's h is in part what it was before."""

    def __init__(self, kept: float, batches: int = 150) -> None:
        """Set the share of h's variance that is the images', and the number of batches that have all images once."""
        self.batches, self.kept, self.first = batches, kept, []

    def __call__(self, rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
        """The next batch, or one of the first again."""
        noise = rng.standard_normal(shape)
        if step < self.batches:
            self.first.append(noise.astype(np.float32))
            return noise
        return np.sqrt(self.kept) * self.first[step % self.batches] + np.sqrt(1 - self.kept) * noise


class Sluggish:
    """Autocorrelation from step to step, which the theory excludes and a supernet has (lag 1: about 0.1)."""

    def __init__(self, rho: float) -> None:
        """Set the autocorrelation at lag 1."""
        self.rho, self.last = rho, None

    def __call__(self, rng: np.random.Generator, step: int, shape: tuple[int, int]) -> Floats:
        """The next step of an autoregressive process of first order."""
        noise = rng.standard_normal(shape)
        if step:
            noise = self.rho * self.last + np.sqrt(1 - self.rho**2) * noise
        self.last = noise
        return noise


NULL: Mapping[str, Callable[[], Draw]] = {
    "normal": lambda: normal,
    "correlated": lambda: correlated,
    "heavy tails": lambda: heavy,
    "skewed": lambda: skewed,
    "shrinking": lambda: shrinking,
    "autocorrelation 0.1": lambda: Sluggish(0.1),
    "autocorrelation 0.3": lambda: Sluggish(0.3),
    "autocorrelation 0.5": lambda: Sluggish(0.5),
    "every image ten times, alike": lambda: Again(0.9),
    "every image ten times, half alike": lambda: Again(0.5),
    "every image ten times, as if new": lambda: Again(0.0),
}


def simulate(draw: Draw, candidates: int, searches: int, steps: int, seed: int, means: Callable[[int], Floats]) -> Any:
    """Race many searches of `LAYERS` layers at once.

    Args:
        draw: noise of a step.
        candidates: K.
        searches: how many.
        steps: of each.
        seed: of the noise.
        means: step → (K,) mean of h.

    Returns:
        (step at which each candidate was out or 0, step at which each layer was decided or `steps` + 1).
    """
    rng = np.random.default_rng(seed)
    rows = searches * LAYERS
    races = Races([candidates] * rows, DELTA, LAYERS * candidates * (candidates - 1))
    out, decided = np.zeros((rows, candidates), int), np.full(rows, steps + 1)
    for step in range(steps):
        batch = step % draw.batches if isinstance(draw, Again) else None
        for loser in races.update(draw(rng, step, (rows, candidates)) + means(step), batch=batch):
            out[loser.layer, loser.candidate] = step + 1
            if races.alive[loser.layer].sum() == 1:
                decided[loser.layer] = step + 1
    return out, decided


def without_signal(scenario: str, candidates: int, searches: int, steps: int) -> dict[str, Any]:
    """No candidate is better: whatever is out is wrong."""
    wrong_searches = wrong = done = 0
    pairs = candidates * (candidates - 1) // 2
    chunk = max(1, 30_000 // (LAYERS * pairs))  # searches at once: their arrays fit a cache
    while done < searches:
        part = min(chunk, searches - done)
        out, _ = simulate(NULL[scenario](), candidates, part, steps, done, lambda step: np.zeros(candidates))
        wrong += int((out > 0).sum())
        wrong_searches += int((out > 0).reshape(part, -1).any(1).sum())
        done += part
    return {"wrong_searches": wrong_searches, "wrong": wrong, "excluded": wrong}


def with_signal(
    candidates: int, searches: int, steps: int, means: Callable[[int], Floats], draw: Draw = normal
) -> dict[str, Any]:
    """The first candidate is the best in the end: it being out is wrong."""
    out, decided = simulate(draw, candidates, searches, steps, 1, means)
    wrong = out[:, 0] > 0
    right = (decided <= steps) & ~wrong
    return {
        "wrong_searches": int(wrong.reshape(searches, -1).any(1).sum()),
        "wrong": int(wrong.sum()),
        "excluded": int((out > 0).sum()),
        "median_step": int(np.median(np.where(wrong, steps + 1, decided))),
        "decided": round(float(right.mean()), 4),
    }


def advantage(sigma: float, candidates: int) -> Callable[[int], Floats]:
    """The first candidate's d has a mean of `sigma` deviations against every other (d's deviation is √2)."""
    means = np.where(np.arange(candidates) == 0, -sigma * np.sqrt(2), 0.0)
    return lambda step: means


def reversal(early: float, late: float, at: int, candidates: int) -> Callable[[int], Floats]:
    """The first candidate is worse than all others at first, and better from a step on."""
    first, second = advantage(-early, candidates), advantage(late, candidates)
    return lambda step: first(step) if step < at else second(step)


def jobs(searches: int) -> Iterator[tuple[str, int, int, int, Callable[[], dict[str, Any]]]]:
    """Scenario, K, searches, steps, and what simulates it."""
    for scenario in NULL:
        for k in (3, 8, 13):
            count, steps = searches if scenario in ("normal", "correlated") else searches // 10, 1500
            yield scenario, k, count, steps, lambda s=scenario, k=k, n=count: without_signal(s, k, n, 1500)
    few = max(1, searches // 100)
    for k in (3, 8, 13):
        for sigma in (0.05, 0.1, 0.2, 0.3, 0.5):
            yield f"{sigma} σ", k, few, 1500, lambda k=k, s=sigma: with_signal(k, few, 1500, advantage(s, k))
        for how, kept in (("alike", 0.9), ("half alike", 0.5), ("as if new", 0.0)):
            name = f"0.2 σ, every image ten times, {how}"
            yield name, k, few, 1500, lambda k=k, r=kept: with_signal(k, few, 1500, advantage(0.2, k), Again(r))
        for early, at in ((0.1, 150), (0.2, 150), (0.1, 300), (0.3, 150)):
            name = f"-{early} σ for {at} steps, then 0.3 σ"
            yield name, k, few, 1500, lambda k=k, e=early, a=at: with_signal(k, few, 1500, reversal(e, 0.3, a, k))


def main() -> None:
    """Simulate what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = list(csv.DictReader(given.out.open(newline=""))) if given.out.is_file() else []
    known = {(r["scenario"], r["candidates"], r["searches"]) for r in rows}
    for scenario, k, count, steps, job in jobs(given.searches):
        if (scenario, str(k), str(count)) in known:
            continue
        start = time.perf_counter()
        row = {"scenario": scenario, "candidates": k, "searches": count, "steps": steps, **job()}
        print(row, f"{time.perf_counter() - start:.0f} s", flush=True)
        rows.append({name: row.get(name, "") for name in COLUMNS})
        with given.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
