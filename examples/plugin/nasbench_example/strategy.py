"""Search strategies: NNI Strategies, one that trains what it compares, and one that trains nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from nni.nas.strategy import Strategy
from numpy.random import RandomState

from nasbench.options import Count, checked


class HillClimbing(Strategy):
    """Changes one choice at a time and keeps what is better on held-out images."""

    @checked
    def __init__(self, *, steps: Count = 4, seed: int = 0) -> None:
        super().__init__()
        self.steps, self.seed = steps, seed

    def _run(self) -> None:
        state = RandomState(self.seed)
        best = self._trained(self.model_space.random(random_state=state))
        mutables = list(self.model_space.simplify().items())
        for _ in range(self.steps):
            if not self.engine.budget_available():  # --max-trials
                break
            label, mutable = mutables[state.randint(len(mutables))]
            candidate = mutable.values[state.randint(len(mutable.values))]
            tried = self._trained(self.model_space.freeze({**best.sample, label: candidate}))
            if (tried.metric or 0.0) > (best.metric or 0.0):
                best = tried

    def _trained(self, model: Any) -> Any:
        self.engine.submit_models(model)  # the evaluator trains it and reports a metric
        self.engine.wait_models(model)
        return model

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Lightest(Strategy):
    """Draws networks and takes the one with the fewest parameters; none is trained."""

    decided_by = "the fewest parameters of the networks that were drawn"  # the record's reason for every choice

    @checked
    def __init__(self, *, draws: Count = 10, seed: int = 0) -> None:
        super().__init__()
        self.draws, self.seed = draws, seed
        self.found: Any = None

    @staticmethod
    def searches(options: Mapping[str, Any]) -> bool:
        return False  # so a run has neither epochs nor trials of a search

    def _run(self) -> None:
        state = RandomState(self.seed)
        drawn = [self.model_space.random(random_state=state) for _ in range(self.draws)]
        self.found = min(drawn, key=lambda m: sum(p.numel() for p in m.executable_model().parameters()))

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        return iter([self.found])

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass
