from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean or difference, in the unit of what was measured."""

    value: float
    half: float | None  # half the width of its 95 % confidence interval; `None` where the runs are too few for one
    n: int  # runs behind it (of a difference: of the smaller side)
    paired: bool | None = None  # of a difference, whether it was taken seed by seed


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
