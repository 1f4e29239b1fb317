"""Search for accurate and cheap networks at once."""

from collections.abc import Generator, Iterator
from typing import Any, Literal

import numpy as np

from nasbench.architecture import Architecture
from nasbench.errors import OptionError
from nasbench.options import Count, Seed, checked
from nasbench.profile import profile
from nasbench.registry import declared
from nasbench.strategies.proposing import FAILED, Proposing

MOST_IDLE = 100  # generations without a network that is new: then there are hardly any


class NSGA2(Proposing):
    """NSGA-II by pymoo: evolution of networks that no other beats in both accuracy and cost.

    The answer is the most accurate one; the record's `trials.csv` has all, and `nasbench plot --what trials` draws the
    front. Source: Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II", IEEE Transactions on
    Evolutionary Computation 6, 2002; for architectures Lu et al., "NSGA-Net", GECCO 2019.
    """

    decided_by = "the most accurate that NSGA-II met"

    @checked
    def __init__(
        self,
        *,
        population_size: Count = 8,  # networks that are drawn first, and then of each generation
        cost: Literal["madds", "params"] = "madds",  # what a network should have little of
        seed: Seed = 0,
    ) -> None:
        """Set the options. Raises OptionError: pymoo is not installed."""
        super().__init__(seed)
        try:
            import pymoo  # noqa: F401
        except ImportError as e:
            raise OptionError('strategy nsga2 needs the package pymoo: pip install "nasbench[nsga2]"') from e
        self.population_size, self.cost = population_size, cost

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        """Check that networks and images are there, whose cost can be counted."""
        data = declared(declared(model_space, "evaluator", None), "datamodule", None)
        if declared(data, "image_size", None) is None:
            raise OptionError("nsga2 counts what networks cost, and here there are none")
        return super()._initialize(model_space, engine)

    def proposals(self) -> Generator[Architecture, float, None]:
        """One generation after another; what limits do not allow is not trained, and dies."""
        from pymoo.algorithms.moo.nsga2 import NSGA2 as Algorithm
        from pymoo.core.evaluator import Evaluator
        from pymoo.core.mixed import MixedVariableDuplicateElimination, MixedVariableMating, MixedVariableSampling
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.core.variable import Choice
        from pymoo.problems.static import StaticProblem

        candidates = {label: list(mutable.grid()) for label, mutable in self.model_space.simplify().items()}
        choices = {label: Choice(options=list(range(len(values)))) for label, values in candidates.items()}
        problem = Problem(vars=choices, n_obj=2, n_ieq_constr=1)
        unlike = MixedVariableDuplicateElimination()
        mating = MixedVariableMating(eliminate_duplicates=unlike)
        algorithm = Algorithm(self.population_size, MixedVariableSampling(), mating=mating, eliminate_duplicates=unlike)
        algorithm.setup(problem, termination=NoTermination(), seed=int(self.state.randint(2**31)))
        known: dict[str, float] = {}  # measures by architecture: none is trained twice
        idle = 0
        while idle < MOST_IDLE and (population := algorithm.ask()) is not None and len(population):
            goals, violations, before = [], [], len(known)
            for individual in population:
                architecture = {label: values[individual.X[label]] for label, values in candidates.items()}
                if repr(architecture) not in known:
                    known[repr(architecture)] = (yield architecture) if self.allows(architecture) else FAILED
                measure = known[repr(architecture)]
                is_measured = measure > FAILED
                goals.append([-measure, self._cost(architecture)] if is_measured else [0.0, 0.0])
                violations.append([0.0 if is_measured else 1.0])
            static = StaticProblem(problem, F=np.array(goals), G=np.array(violations))
            Evaluator().eval(static, population)
            algorithm.tell(infills=population)
            idle = 0 if len(known) > before else idle + 1

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """The most accurate first, of equal ones the cheapest."""
        found = list(super().list_models(sort))
        equal = [model for model in found if model.metric == found[0].metric]
        found[: len(equal)] = sorted(equal, key=lambda model: self._cost(model.sample))
        return iter(found[:limit])

    def _cost(self, architecture: Architecture) -> float:
        network = self.model_space.freeze(architecture).executable_model()
        return float(getattr(profile(network, self.model_space.evaluator.datamodule.image_size), self.cost))
