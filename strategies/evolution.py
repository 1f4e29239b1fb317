"""Regularised evolution."""

from nni.nas.strategy import RegularizedEvolution

from nasbench.options import Count, Fraction, Seed, checked


class Evolution(RegularizedEvolution):
    """Regularised evolution by NNI: the best of a few of the youngest networks is changed a little, the oldest dies.

    Source: Real et al., AAAI 2019, algorithm 1. NNI's defaults are for thousands of networks; these for hundreds are
    those of NAS-Bench-201 (Dong and Yang, ICLR 2020).
    """

    decided_by = "the best that evolution met"

    @checked
    def __init__(
        self,
        *,
        population_size: Count = 10,  # networks that are alive
        sample_size: Count = 3,  # of which the best becomes a parent
        mutation_prob: Fraction = 0.05,  # that a choice is drawn anew; what was trained before is not proposed again
        seed: Seed = 0,
    ) -> None:
        """Set the options. Raises ValueError: the sample is larger than the population."""
        super().__init__(
            population_size=population_size, sample_size=sample_size, mutation_prob=mutation_prob, seed=seed
        )
