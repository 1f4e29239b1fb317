"""Means and differences over seeds, and proportions, with their confidence intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean or difference."""

    value: float  # in the unit of what was measured
    # Half the width of its 95 % confidence interval, same unit; `None` where the runs are too few for one.
    half: float | None
    n: int  # runs behind it (of a difference: of the smaller side)
    paired: bool | None = None  # of a difference, whether it was taken seed by seed


def mean(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of independent values with Student's t interval, mean ± t(n − 1) · s / √n; a single value has none.

    Raises ValueError: no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    sample = np.asarray(values, dtype=np.float64)
    n = len(sample)
    half = quantile(n - 1, level) * float(sample.std(ddof=1)) / n**0.5 if n > 1 else None
    return Estimate(float(sample.mean()), half, n)


def difference(values: Mapping[int, float], baseline: Mapping[int, float], level: float = LEVEL) -> Estimate:
    """Mean difference `values − baseline`, seed → value each, with its interval.

    Both sides with the same seeds: the interval of the mean of the differences seed by seed (paired t). Otherwise
    Welch's, which assumes neither equal variances nor pairs; it needs two runs a side. Raises ValueError: a side is
    empty.

    Source: Welch, "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34, 1947 (degrees of freedom after Satterthwaite).
    """
    if not values or not baseline:
        raise ValueError("a difference needs at least one value on each side")
    if set(values) == set(baseline):
        paired = mean([values[seed] - baseline[seed] for seed in sorted(values)], level)
        return Estimate(paired.value, paired.half, paired.n, paired=True)
    a, b = (np.asarray(list(side.values()), dtype=np.float64) for side in (values, baseline))
    half: float | None = None
    if len(a) > 1 and len(b) > 1:
        of_a, of_b = float(a.var(ddof=1)) / len(a), float(b.var(ddof=1)) / len(b)
        together = of_a + of_b
        if together == 0:
            half = 0.0
        else:
            freedom = together**2 / (of_a**2 / (len(a) - 1) + of_b**2 / (len(b) - 1))
            half = quantile(freedom, level) * together**0.5
    return Estimate(float(a.mean() - b.mean()), half, min(len(a), len(b)), paired=False)


def exact(share: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval, of at least this level, of a share of trials that succeeded.

    The trials are independent; their number need not be whole, where it is an effective one.

    Source: Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26, 1934, by the quantiles of the beta distribution.
    """
    from scipy.stats import beta

    tail, successes = (1 - level) / 2, share * trials
    low = float(beta.ppf(tail, successes, trials - successes + 1)) if share > 0 else 0.0
    high = float(beta.ppf(1 - tail, successes + 1, trials - successes)) if share < 1 else 1.0
    return low, high


def quantile(freedom: float, level: float) -> float:
    """Of Student's t distribution: how many standard errors the two-sided interval reaches."""
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))
