"""Base of the strategies that propose one network after another and hear how good each is."""

from collections.abc import Generator
from contextlib import closing
from typing import Any

from nni.nas.strategy import Strategy
from numpy.random import RandomState

from nasbench.architecture import Architecture
from nasbench.contracts import Drawing
from nasbench.errors import LimitError
from nasbench.options import Seed

MOST_DRAWS = 10_000  # for one architecture that is allowed
FAILED = float("-inf")  # the measure of a network whose training failed


class Proposing(Drawing, Strategy):
    """Trains what its `proposals` yields until they end or `--max-trials` is reached; the best network is the answer.

    All that is random comes from a seed, and the same measures bring the same proposals: a search that was interrupted
    repeats itself, and the engine trains nothing twice.
    """

    def __init__(self, seed: Seed = 0) -> None:
        """Set the seed of everything that is drawn."""
        super().__init__()
        self.state = RandomState(seed)
        self.compared = 0  # networks that were trained and measured

    def proposals(self) -> Generator[Architecture, float, None]:
        """Yield architectures that are allowed; each `yield` gives the measure of that network, larger is better."""
        raise NotImplementedError

    def draw(self) -> Architecture:
        """An architecture that is allowed, all equally likely. Raises LimitError: none was found."""
        for _ in range(MOST_DRAWS):
            architecture: Architecture = {}
            self.model_space.random(architecture, self.state)
            if self.allows(architecture):
                return architecture
        raise LimitError(f"none of {MOST_DRAWS:,} networks drawn at random keeps the limits: raise them")

    def _run(self) -> None:
        with closing(self.proposals()) as proposals:
            architecture = next(proposals, None)
            while architecture is not None and self.engine.budget_available():
                model: Any = self.model_space.freeze(architecture)
                self.engine.submit_models(model)
                self.engine.wait_models(model)
                self.compared += model.metric is not None
                try:  # the last measure of a budget is told, too
                    architecture = proposals.send(FAILED if model.metric is None else float(model.metric))
                except StopIteration:
                    return

    def state_dict(self) -> dict[str, Any]:
        """Nothing needs to be kept: the seed tells all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
