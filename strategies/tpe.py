"""The tree-structured Parzen estimator."""

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from nasbench.architecture import Architecture
from nasbench.options import Count, Fraction, Seed, checked
from nasbench.strategies.proposing import MOST_DRAWS, Proposing


class TPE(Proposing):
    """Tree-structured Parzen estimator: choices that good networks have more often than the others do.

    Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 4; here whole networks
    are drawn and ranked, and none is trained twice. NNI's own strategy minimises unless told otherwise, which finds the
    worst network, and goes through the space in order once it suggests a network again, which it soon does.
    """

    decided_by = "the best that TPE met"

    @checked
    def __init__(
        self,
        *,
        startup_trials: Count = 20,  # networks that are drawn at random first
        good: Fraction = 0.15,  # γ, the share of the networks that counts as good
        samples: Count = 100,  # networks that are drawn, of which the likeliest to be good is trained
        seed: Seed = 0,
    ) -> None:
        """Set the options."""
        super().__init__(seed)
        self.startup_trials, self.good, self.samples = startup_trials, good, samples

    def proposals(self) -> Generator[Architecture, float, None]:
        """Networks that were not trained before, until there are none."""
        candidates = {label: list(mutable.grid()) for label, mutable in self.model_space.simplify().items()}
        trials: list[tuple[float, Architecture]] = []
        known: set[str] = set()
        while True:
            suggested = self._suggestions(candidates, trials) if len(trials) >= self.startup_trials else iter(())
            drawn = (self.draw() for _ in range(MOST_DRAWS))
            new = (a for a in chain(filter(self.allows, suggested), drawn) if repr(a) not in known)
            architecture = next(new, None)
            if architecture is None:
                return
            known.add(repr(architecture))
            trials.append(((yield architecture), architecture))

    def _suggestions(
        self, candidates: Mapping[str, list[Any]], trials: Sequence[tuple[float, Architecture]]
    ) -> Iterator[Architecture]:
        """Samples from l(x), the one with the largest l(x) / g(x) first."""
        ranked = [architecture for _, architecture in sorted(trials, key=lambda trial: -trial[0])]
        count = math.ceil(self.good * len(ranked))
        drawn, scores = {}, np.zeros(self.samples)
        for label, values in candidates.items():
            # Densities l and g of the paper, with one further observation of every candidate.
            likely, other = (
                np.array([1 + sum(a[label] == value for a in part) for value in values]) / (len(values) + len(part))
                for part in (ranked[:count], ranked[count:])
            )
            drawn[label] = self.state.choice(len(values), self.samples, p=likely)
            scores += np.log(likely / other)[drawn[label]]
        for number in np.argsort(-scores, kind="stable"):
            yield {label: values[drawn[label][number]] for label, values in candidates.items()}
