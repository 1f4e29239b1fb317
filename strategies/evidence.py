"""When a candidate may be called worse than another: sequential comparison of candidates by their gradients.

Source: the boundary is the normal mixture of Robbins, Annals of Mathematical Statistics 41, 1970, as in Howard, Ramdas,
McAuliffe and Sekhon, Annals of Statistics 49, 2021, with the self-normalised variance of de la Peña, Annals of
Probability 27, 1999. How often it errs, and how soon it decides: `experiments/evidence.py`.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasbench.errors import RecordError

BURN_IN = 20  # steps that only set the scales
SCALE_MEMORY = 0.98  # of a layer's running scale, from step to step
LAGS = 3  # steps over which a layer's d may be correlated
FLOOR = 1e-4  # of the largest scale in the network: smaller differences are rounding, and matter to nobody
MOST_STEPS = 2**29  # beyond which nothing is forecast
GROUPS = 256  # of batches whose looks are told apart; of more, several make a group

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Loser:
    """A candidate that is out, by indices: of its layer, itself, the candidate that is better, and the odds of that."""

    layer: int
    candidate: int
    by: int
    odds: float


@dataclass(frozen=True)
class Comparison:
    """The best two candidates that are left in a layer."""

    best: int  # index of the candidate with the smallest mean h
    rival: int  # of the next
    mean: float  # of d = h_rival − h_best, in units of the layer's scale
    deviation: float  # of d, likewise
    steps: int  # at which they were compared
    # Such steps from the first to a decision, if d went on like this on images that were not seen before; `None` where
    # there is no end to them.
    needed: int | None


class Races:
    """The candidates of every layer against each other, step by step.

    Step t gives every candidate k of a layer h_k = ∂L/∂π_k, up to a constant of the layer: how much the batch would
    lose by more of it. The batch prefers j to i where d = h_i − h_j > 0. With S = Σ d and V = Σ d² the odds that i is
    worse are those of the normal mixture, M = √(r / (V + r)) exp(S² / 2(V + r)): as long as neither is worse, M is a
    supermartingale for d that are symmetric, so that the probability that it ever reaches 1/a is at most a, however
    often one looks. A candidate is out as soon as M, divided by the number of comparisons, reaches 1/δ. No learning
    rate, threshold on π or scale of the loss is in it.

    h is divided by a running scale of its layer that is known before the step, so that steps count alike while the loss
    falls. r is V of the first steps, which are then thrown away. S² is divided by what adds to its variance beyond the
    theory: by 1 + 2 Σ ρ_l over the first lags l (never less than 1), since weights move slowly and d is correlated with
    its own past.

    A batch of images that is seen again says in part what it said before, and how large a part the steps tell: V is
    Σ_b T_b² over the batches b, T_b = Σ d of all looks at b (and never less than Σ d²). Where the second look repeats
    the first, S and √V both double, and nothing is gained; where it is as good as new images, V is what theirs would
    be. So the odds are about images that were not seen, and as S² is at most V times the number of batches, few images
    never suffice, however many steps. (Variance by clusters: Liang and Zeger, Biometrika 73, 1986.)
    """

    def __init__(self, sizes: Sequence[int], delta: float, comparisons: int | None = None) -> None:
        """Start with so many candidates in each layer; δ is shared out over all comparisons, by default Σ K (K − 1)."""
        layers, most = len(sizes), max(sizes, default=1)
        self.alive = np.arange(most) < np.array(sizes, int)[:, None]
        self.steps = np.zeros(layers, int)
        self._first, self._second = np.triu_indices(most, 1)
        shared = sum(k * (k - 1) for k in sizes) if comparisons is None else comparisons
        self._log_comparisons = math.log(max(shared, 1))
        self._log_needed = math.log(1 / delta)
        self._sum, self._square, self._prior, self._grouped = (np.zeros((layers, len(self._first))) for _ in range(4))
        self._groups = np.zeros((0, *self._sum.shape))  # T of each group of batches so far; `_grouped` is Σ T²
        self._past = np.zeros((LAGS, layers, len(self._first)))  # the last d, the latest first
        self._lagged = np.zeros(layers)  # Σ over lags and pairs of d_t d_{t−l}
        self._scale = np.zeros(layers)  # running mean of d²
        self._burnt = np.zeros(layers, int)
        # Σ h over each half of the search; infinite for who was not there to its end.
        self._halves = np.where(self.alive, 0.0, np.inf)[None].repeat(2, 0)

    def update(self, h: Floats, second_half: bool = False, batch: int | None = None) -> list[Loser]:
        """Take in h (layers, K), not a number where a candidate takes no part; returns who is out now.

        `second_half`: more than half of the search is over; `batch`: of which images h is, a number that is the same
        whenever they come again, `None` for images that never do.
        """
        seen = np.isfinite(h) & self.alive
        values = np.where(seen, h, 0.0)
        paired = seen[:, self._first] & seen[:, self._second]
        pairs = paired.sum(1)
        d = np.where(paired, values[:, self._first] - values[:, self._second], 0.0)
        mean_square = (d * d).sum(1) / np.maximum(pairs, 1)
        burning = (pairs > 0) & (self._burnt < BURN_IN)
        running = (pairs > 0) & ~burning
        if running.any():
            unit = np.sqrt(np.where(running & (self._scale > 0), self._scale, np.inf))[:, None]
            told = np.where(np.abs(d) < FLOOR * math.sqrt(self._scale.max()), 0.0, d) / unit
            self._sum += told
            self._square += told * told
            self._grouped += told * (told + 2 * self._look(batch, told))
            self._lagged += (told * self._past.sum(0)).sum(1)
            self._past = np.concatenate([told[None], self._past[:-1]])
            self.steps += running
            self._halves[int(second_half)] += values / unit
            mixed = SCALE_MEMORY * self._scale + (1 - SCALE_MEMORY) * mean_square
            self._scale = np.where(running, mixed, self._scale)
        if burning.any():
            self._burn_in(burning, d, mean_square)
        return self._losers(second_half) if running.any() else []

    def can_decide(self, steps: int, batches: int) -> bool:
        """Whether a candidate can be out in so many steps on so many batches of images if all prefer another alike."""
        step = np.arange(1, steps - BURN_IN + 1)
        passes, rest = np.divmod(step, min(batches, GROUPS))
        grouped = rest * (passes + 1) ** 2 + (min(batches, GROUPS) - rest) * passes**2
        spread = grouped + BURN_IN
        log_odds = step**2 / (2 * spread) - 0.5 * np.log(spread / BURN_IN) - self._log_comparisons
        return bool((log_odds >= self._log_needed).any())

    def comparison(self, layer: int) -> Comparison | None:
        """The best two candidates of a layer; `None` with one candidate left or before the burn-in is over."""
        left = np.flatnonzero(self.alive[layer])
        steps = int(self.steps[layer])
        if len(left) < 2 or not steps:
            return None
        best, rival = left[np.argsort(self._halves[:, layer, left].sum(0), kind="stable")[:2]]
        pair = self._pair(best, rival)
        mean = abs(float(self._sum[layer, pair])) / steps
        square, prior = float(self._square[layer, pair]) / steps, float(self._prior[layer, pair])
        deviation = math.sqrt(max(0.0, square - mean * mean))
        return Comparison(int(best), int(rival), mean, deviation, steps, self._forecast(mean, square, prior))

    def preferred(self, layer: int) -> tuple[int, int] | None:
        """The candidate with the smallest Σ h in each half of the search; `None` before the second half has begun."""
        first, second = self._halves[:, layer]
        if not second[np.isfinite(second)].any():
            return None
        return int(first.argmin()), int(second.argmin())

    def state(self) -> dict[str, NDArray[Any]]:
        """All that changes from step to step."""
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    def load(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from a `state`. RecordError: it is of a version that judges otherwise."""
        if state.keys() != self.state().keys():
            raise RecordError("the search was begun by another version, which weighs evidence otherwise: begin it anew")
        vars(self).update({name: value.copy() for name, value in state.items()})

    def _burn_in(self, burning: NDArray[np.bool_], d: Floats, mean_square: Floats) -> None:
        self._prior += np.where(burning[:, None], d * d, 0.0)
        self._scale += np.where(burning, mean_square / BURN_IN, 0.0)
        self._burnt += burning
        over = burning & (self._burnt == BURN_IN)
        unit = np.where(over & (self._scale > 0), self._scale, 1.0)
        self._prior /= unit[:, None]

    def _look(self, batch: int | None, told: Floats) -> Floats:
        """T of a batch's group before this look, which is added to it."""
        if batch is None:
            return np.zeros_like(told)
        group = batch % GROUPS
        if group >= len(self._groups):
            missing = group + 1 - len(self._groups)
            self._groups = np.concatenate([self._groups, np.zeros((missing, *told.shape))])
        before = self._groups[group].copy()
        self._groups[group] += told
        return before

    def _losers(self, second_half: bool) -> list[Loser]:
        spread = np.maximum(self._square, self._grouped) + self._prior
        with np.errstate(divide="ignore", invalid="ignore"):
            gained = self._sum**2 / (2 * spread * self._inflation()[:, None])
            log_odds = 0.5 * np.log(self._prior / spread) + gained - self._log_comparisons
        found: dict[tuple[int, int], Loser] = {}
        for layer, pair in zip(*np.nonzero(log_odds >= self._log_needed), strict=True):
            first, second = int(self._first[pair]), int(self._second[pair])
            worse, better = (first, second) if self._sum[layer, pair] > 0 else (second, first)
            odds = math.exp(min(float(log_odds[layer, pair]), 700.0))
            known = found.get((int(layer), worse))
            if self.alive[layer, [worse, better]].all() and (known is None or odds > known.odds):
                found[int(layer), worse] = Loser(int(layer), worse, better, odds)
        for loser in found.values():
            self.alive[loser.layer, loser.candidate] = False
            self._halves[int(second_half) :, loser.layer, loser.candidate] = np.inf
        return list(found.values())

    def _inflation(self) -> Floats:
        """(layers,) by what factor the variance of S exceeds that of a sum of uncorrelated d."""
        with np.errstate(divide="ignore", invalid="ignore"):
            of_mean = (self._sum**2).sum(1) / self.steps
            variation = np.maximum(self._square.sum(1) - of_mean, 0.0)  # rounding must not turn its sign
            correlation = (self._lagged - LAGS * of_mean) / variation
        return np.nan_to_num(np.maximum(1 + 2 * correlation, 1.0), nan=1.0)

    def _pair(self, one: int, other: int) -> int:
        low, high = sorted((int(one), int(other)))
        return int(np.flatnonzero((self._first == low) & (self._second == high))[0])

    def _forecast(self, mean: float, square: float, prior: float) -> int | None:
        if mean == 0.0 or prior == 0.0:
            return None
        wanted = self._log_comparisons + self._log_needed

        def decided(steps: int) -> bool:
            spread = steps * square + prior
            return (steps * mean) ** 2 >= spread * (2 * wanted + math.log(spread / prior))

        steps = bisect_left(range(MOST_STEPS + 1), True, lo=1, key=decided)
        return steps if steps <= MOST_STEPS else None
