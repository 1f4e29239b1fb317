"""Uniform random search."""

from collections.abc import Generator, Mapping
from typing import Any

from nasbench.architecture import Architecture
from nasbench.options import Count, Seed, checked
from nasbench.strategies.proposing import Proposing


class Random(Proposing):
    """Uniform random choice over all architectures, seeded; with `trials` > 1 the best of them on held-out images.

    A single trial is not trained in the search at all: the architecture is taken as it is drawn.
    """

    @checked
    def __init__(self, *, trials: Count = 1, seed: Seed = 0) -> None:
        """Set how many are drawn; several are trained, as far as the engine's budget goes, and compared."""
        super().__init__(seed)
        self.trials = trials
        self._single: Any = None

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        return {"trials": f"best of {options['trials']}" if options["trials"] > 1 else ""}

    @staticmethod
    def searches(options: Mapping[str, Any]) -> bool:
        """Whether networks are trained to be compared."""
        return bool(options["trials"] > 1)

    @staticmethod
    def trainings(options: Mapping[str, Any], epochs: int) -> float:
        """How many networks are trained."""
        return float(options["trials"])

    @property
    def decided_by(self) -> str:
        """Why a layer has its candidate."""
        return "drawn at random" if self.trials == 1 else f"the best of {self.compared} drawn at random"

    def proposals(self) -> Generator[Architecture, float, None]:
        """As many as there are trials, with repetition."""
        for _ in range(self.trials):
            yield self.draw()

    def _run(self) -> None:
        if self.trials == 1:
            self._single = self.model_space.freeze(self.draw())
        else:
            super()._run()

    def list_models(self, sort: bool = True, limit: int | None = None) -> Any:
        """The drawn architectures, the best on held-out images first."""
        return iter([self._single]) if self._single is not None else super().list_models(sort, limit)
