"""How far searches agree that differ in their seeds only. Layers are the units, seeds those who judge them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasbench.results.statistics import exact, quantile

Votes = Mapping[str, Sequence[str]]  # layer → the candidate that each search chose for it


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


def kappa(chosen: Votes) -> Kappa:
    """Fleiss' κ = (P̄ − P̄_e) / (1 − P̄_e), with a jackknife interval over the layers.

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
