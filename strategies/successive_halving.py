"""Successive halving."""

from collections.abc import Generator, Iterator, Mapping
from typing import Annotated, Any

from nasbench.architecture import Architecture
from nasbench.errors import OptionError
from nasbench.options import Count, Range, Seed, checked
from nasbench.registry import declared
from nasbench.strategies.proposing import FAILED, Proposing


class SuccessiveHalving(Proposing):
    """Successive halving: many networks are trained for few epochs, the best of them anew for more, and so on.

    Of the networks of a rung 1/η go on to the next one, which has η times the epochs; the last has all epochs of the
    search, and the best of its networks is the answer. Every training starts from fresh weights and has a schedule of
    its own, since the first part of a cosine says little about its end. Source: Jamieson and Talwalkar, "Non-stochastic
    Best Arm Identification and Hyperparameter Optimization", AISTATS 2016, figure 3.
    """

    decided_by = "the best that successive halving left"

    @checked
    def __init__(self, *, trials: Count = 9, reduction: Annotated[int, Range(ge=2)] = 3, seed: Seed = 0) -> None:
        """Set how many networks are drawn for the first rung, and η."""
        super().__init__(seed)
        self.trials, self.reduction = trials, reduction
        self._measured: list[tuple[float, Architecture]] = []  # in the last rung of which one is trained

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        return {"trials": f"of {options['trials']}"}

    @staticmethod
    def trainings(options: Mapping[str, Any], epochs: int) -> float:
        """How many networks are trained, in trainings of all epochs."""
        return sum(count * each for count, each in rungs(options["trials"], options["reduction"], epochs)) / epochs

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        """Check that the evaluator trains for as many epochs as it is told."""
        evaluator = declared(model_space, "evaluator", None)
        if declared(evaluator, "epochs", None) is None:
            raise OptionError("successive halving trains for fewer epochs first, which nothing here can do")
        return super()._initialize(model_space, engine)

    def proposals(self) -> Generator[Architecture, float, None]:
        """The networks of one rung after another, the best of the rung before first."""
        evaluator, found = self.model_space.evaluator, [self.draw() for _ in range(self.trials)]
        whole = evaluator.epochs
        try:
            for count, evaluator.epochs in rungs(self.trials, self.reduction, whole):
                measured: list[tuple[float, Architecture]] = []
                for architecture in found[:count]:
                    measured.append(((yield architecture), architecture))
                    self._measured = measured  # not before: the budget may end between two rungs
                # Sorting is stable: of equal ones the first stays before the other.
                found = [architecture for _, architecture in sorted(measured, key=lambda pair: -pair[0])]
        finally:
            evaluator.epochs = whole

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """Those of the last rung, the best first: measures after fewer epochs do not compare with theirs."""
        best = sorted((pair for pair in self._measured if pair[0] > FAILED), key=lambda pair: -pair[0])
        return (self.model_space.freeze(architecture) for _, architecture in best[:limit])


def rungs(networks: int, reduction: int, epochs: int) -> list[tuple[int, int]]:
    """(networks, epochs) of every rung; the last has at least two networks, if there are so many, and all epochs.

    The first has at least one epoch.
    """
    last = 0
    while networks // reduction ** (last + 1) >= 2 and epochs // reduction ** (last + 1) >= 1:
        last += 1
    return [(networks // reduction**k, round(epochs / reduction ** (last - k))) for k in range(last + 1)]
