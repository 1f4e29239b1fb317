"""A search strategy: an NNI Strategy."""

from __future__ import annotations

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
