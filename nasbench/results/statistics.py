"""Means and differences over seeds, and how far searches agree: there layers are the units, seeds those who judge."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, in the unit of what was measured."""

    value: float
    half: float | None  # half the width of its 95 % confidence interval; `None` where the runs are too few for one
    n: int  # runs behind it (of a difference: of the smaller side)
    paired: bool | None = None  # of a difference, whether it was taken seed by seed


@dataclass(frozen=True)
class Share:
    """In how many comparisons both sides had the same candidate."""

    agreeing: int  # comparisons with the same candidate on both sides
    pairs: int  # comparisons
    low: float  # lower end of the 95 % interval of `agreeing / pairs`
    high: float  # upper end

    @property
    def value(self) -> float:
        """The share."""
        return self.agreeing / self.pairs


@dataclass(frozen=True)
class Kappa:
    """Agreement beyond chance."""

    value: float | None  # 1 where all agree, 0 at chance; `None` where it is not defined
    # Half the width of its 95 % interval; `None` where the layers are too few or too much alike for one.
    half: float | None = None
    why: str = ""  # in words, why one of the two is missing; empty where both are there


def mean(values: Sequence[float]) -> Estimate:
    """Mean of independent values, ± t(n − 1) · s / √n; a single value has no interval."""
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    half = quantile(n - 1) * float(sample.std(ddof=1)) / n**0.5 if n > 1 else None
    return Estimate(float(sample.mean()), half, n)


def difference(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate:
    """Mean difference `values − baseline`, seed → value each, with its interval.

    Both sides with the same seeds: the interval of the mean of the differences seed by seed (paired t). Otherwise
    Welch's, which assumes neither equal variances nor pairs; it needs two runs a side.

    Source: Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34, 1947 (degrees of freedom after Satterthwaite).
    """
    if set(values) == set(baseline):
        paired = mean([values[seed] - baseline[seed] for seed in sorted(values)])
        return Estimate(paired.value, paired.half, paired.n, paired=True)
    a, b = (np.asarray(list(side.values()), dtype=np.float64) for side in (values, baseline))
    half: float | None = None
    if len(a) > 1 and len(b) > 1:
        of_a, of_b = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
        together = of_a + of_b
        half = 0.0
        if together > 0:
            freedom = together**2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
            half = quantile(freedom) * together**0.5
    return Estimate(float(a.mean() - b.mean()), half, min(len(a), len(b)), paired=False)


def exact(share: float, trials: float) -> tuple[float, float]:
    """The exact interval, of at least 95 %, of a share of independent trials that succeeded.

    The number of trials need not be whole, where it is an effective one.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26, 1934, by the quantiles of the beta distribution.
    """
    from scipy.stats import beta

    tail, successes = (1 - LEVEL) / 2, share * trials
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if share > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if share < 1 else 1.0
    return low, high


def quantile(freedom: float) -> float:
    """Of Student's t distribution: how many standard errors the two-sided 95 % interval reaches."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def votes(architectures: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Layer → the candidate of each architecture, in their order; empty where they are not of the same layers."""
    labels = architectures[0].keys()
    if any(architecture.keys() != labels for architecture in architectures):
        return {}
    return {label: [str(architecture[label]) for architecture in architectures] for label in labels}


def tally(chosen: Sequence[str]) -> tuple[int, int]:
    """Pairs of searches with the same candidate in a layer, and all pairs there."""
    same = sum(count * (count - 1) // 2 for count in Counter(chosen).values())
    return same, len(chosen) * (len(chosen) - 1) // 2


def share(layers: Iterable[tuple[int, int]]) -> Share | None:
    """Layers' comparisons with the same candidate on both sides, and all, together; `None` where there are none.

    Comparisons within a layer are not independent: were they all of one mind, m_i of them would be worth one. The exact
    interval is therefore that of (Σ m_i)² / Σ m_i² trials: the layers, where each has as many comparisons.

    Source: Kish, Survey Sampling, 1965, section 5.4 (design effect at an intraclass correlation of 1).
    """
    known = [layer for layer in layers if layer[1]]
    if not known:
        return None
    agreeing, pairs = (sum(numbers) for numbers in zip(*known, strict=True))
    trials = pairs**2 / sum(m**2 for _, m in known)
    return Share(agreeing, pairs, *exact(agreeing / pairs, trials))


def chance(layers: Iterable[Sequence[str]]) -> float | None:
    """How often two choices agree that are drawn like all choices together: Σ p_j² (Fleiss' P̄_e), if there are any."""
    counts = Counter(candidate for chosen in layers for candidate in chosen)
    return sum((count / counts.total()) ** 2 for count in counts.values()) if counts else None


def kappa(chosen: Mapping[str, Sequence[str]]) -> Kappa:
    """Fleiss' κ = (P̄ − P̄_e) / (1 − P̄_e) of layers' candidates by search, with a jackknife interval over the layers.

    P̄ is the mean over the layers of the share of agreeing pairs, P̄_e the sum of the squared shares of the candidates
    among all choices: a search that likes one candidate everywhere gets no credit for repeating that.

    The interval is κ ± (t(L − 1) times the jackknife's standard error + its estimate of κ's bias, which is about
    −1 / (choices) as P̄_e comes from the same choices). With as few layers as networks have, the percentile bootstrap's
    is far too narrow. ValueError: fewer than two searches, or not as many in every layer.

    Source: Fleiss, "Measuring nominal scale agreement among many raters", Psychological Bulletin 76, 1971, equations
    1–7; the jackknife: Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapters 2 and 3.
    """
    if len(chosen) < 2:
        return Kappa(None, why="κ takes two layers or more")
    (seeds,) = {len(candidates) for candidates in chosen.values()}
    if seeds < 2:
        raise ValueError("agreement takes two searches or more")
    names = sorted({candidate for candidates in chosen.values() for candidate in candidates})
    counts = np.array([[candidates.count(name) for name in names] for candidates in chosen.values()])
    if len(names) == 1:
        return Kappa(None, why=f"all chose {names[0]} in every layer, so that chance alone would agree: no κ")
    total, n = counts.sum(axis=0), len(counts)
    agreeing = (counts * (counts - 1)).sum(axis=1) / (seeds * (seeds - 1))
    value = float(_kappa(agreeing.mean(), total / (n * seeds)))
    others = total - counts  # of all layers but one
    if n < 3 or (others == (n - 1) * seeds).any():
        return Kappa(value, why="κ has no interval, as it rests on a single layer")
    left = _kappa((agreeing.sum() - agreeing) / (n - 1), others / ((n - 1) * seeds))
    error = float(((n - 1) / n * ((left - left.mean()) ** 2).sum()) ** 0.5)
    if error < 1e-12:
        return Kappa(value, why="κ has no interval, as no layer differs from the others in it")
    return Kappa(value, quantile(n - 1) * error + (n - 1) * abs(float(left.mean()) - value))


def _kappa(agreeing: Any, shares: Any) -> Any:
    expected = (shares**2).sum(axis=-1)
    return (agreeing - expected) / (1 - expected)
