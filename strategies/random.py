"""Uniform random search."""

from collections.abc import Mapping
from typing import Any

from nni.nas.strategy import Strategy
from numpy.random import RandomState

from nasbench.contracts import Drawing
from nasbench.errors import LimitError
from nasbench.options import Count, Seed, checked

MOST_DRAWS = 10_000  # for one architecture that is allowed


class Random(Drawing, Strategy):
    """Uniform random choice over all architectures, seeded; with `trials` > 1 the best of them on held-out images.

    A single trial is not trained in the search at all: the architecture is taken as it is drawn.
    """

    @checked
    def __init__(self, *, trials: Count = 1, seed: Seed = 0) -> None:
        """Set how many are drawn; several are trained, as far as the engine's budget goes, and compared."""
        super().__init__()
        self.trials, self.seed = trials, seed
        self._single: Any = None

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        return {"trials": f"best of {options['trials']}" if options["trials"] > 1 else ""}

    @staticmethod
    def searches(options: Mapping[str, Any]) -> bool:
        """Whether networks are trained to be compared."""
        return bool(options["trials"] > 1)

    @property
    def decided_by(self) -> str:
        """Why a layer has its candidate."""
        return "drawn at random" if self.trials == 1 else f"the best of {self.trials} drawn at random"

    def _run(self) -> None:
        state = RandomState(self.seed)
        for _ in range(self.trials):
            model = self._draw(state)
            if self.trials == 1:
                self._single = model
            elif self.engine.budget_available():
                self.engine.submit_models(model)

    def _draw(self, state: RandomState) -> Any:
        for _ in range(MOST_DRAWS):
            model: Any = self.model_space.random(random_state=state)
            if self.allows(model.sample):
                return model
        raise LimitError(f"none of {MOST_DRAWS:,} networks drawn at random keeps the limits: raise them")

    def list_models(self, sort: bool = True, limit: int | None = None) -> Any:
        """The drawn architectures, the best on held-out images first."""
        return iter([self._single]) if self._single is not None else super().list_models(sort, limit)

    def state_dict(self) -> dict[str, Any]:
        """Nothing needs to be kept: the seed tells all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
