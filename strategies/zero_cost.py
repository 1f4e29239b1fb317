"""Search without training: networks compete by a zero-cost score."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.strategy import Strategy
from numpy.random import RandomState

from nasbench import registry
from nasbench.answered import Answers, Lookup
from nasbench.architecture import Architecture
from nasbench.contracts import Drawing
from nasbench.errors import OptionError, unknown
from nasbench.options import Count, Seed, checked
from nasbench.scores import SCORES, scored
from nasbench.strategies.held_out import ordered

FORBIDDEN = float("-inf")


class ZeroCost(Drawing, Strategy):
    """Training-free search: a strategy that trains networks one by one asks a zero-cost score in place of training.

    The scores are those of `nasbench.scores`, of fresh weights and one batch of training images. Source: Abdelfattah et
    al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021.
    """

    @checked
    def __init__(
        self,
        *,
        score: str = "naswot",  # see `nasbench rank --help`; how much each says of a space, `nasbench rank` measures
        by: str = "evolution",  # the strategy that proposes networks, with its defaults
        networks: Count = 200,  # that are scored
        seed: Seed = 0,
    ) -> None:
        """Set the options. Raises OptionError: there is no such score, or no such strategy that trains networks."""
        super().__init__()
        if score not in SCORES:
            raise OptionError(unknown("score", score, SCORES))
        several = "trials" in registry.parameters(registry.load("strategy", by))  # of a strategy that tries one else
        options = {"trials": networks} if several else {}
        self.proposer = registry.build("strategy", by, options, seed=seed)
        trains = registry.searches(by, registry.complete("strategy", by, options))
        if not trains or isinstance(self.proposer, OneShotStrategy):
            raise OptionError(f"by={by} trains no networks one by one: evolution, local_search, random and tpe do")
        self.score, self.by, self.networks, self.seed = score, by, networks, seed
        self._best: Any = None

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        return {"score": str(options["score"])}

    @staticmethod
    def searches(options: Mapping[str, Any]) -> bool:
        """Whether networks are trained: none is."""
        return False

    @property
    def decided_by(self) -> str:
        """Why a layer has its candidate."""
        return f"the best by {self.score} that {self.by} met"

    def _initialize(self, model_space: Any, engine: Any) -> Any:
        """Take a batch of training images, and score a network, so that it is known beforehand whether that can be."""
        data = ordered(model_space.evaluator, "zero_cost")
        drawn = np.random.default_rng(self.seed).permutation(data.splits()[0])[: data.batch_size]
        pixels, self._labels = next(iter(data.training_loader(drawn, False)))
        self._images = data.normalise(pixels)
        architecture: Architecture = {}
        model_space.random(architecture, RandomState(self.seed))
        self._scored(model_space, architecture)
        candidates = {label: list(mutable.grid()) for label, mutable in model_space.simplify().items()}
        self.proposer.initialize(Answers.of(candidates), Lookup(self._measure, self.networks))
        return super()._initialize(model_space, engine)

    def _scored(self, model_space: Any, architecture: Architecture) -> float:
        return scored(self.score, model_space.freeze(architecture).executable_model, self._images, self._labels)

    def _measure(self, architecture: Architecture) -> float:
        return self._scored(self.model_space, architecture) if self.allows(architecture) else FORBIDDEN

    def _run(self) -> None:
        if isinstance(self.proposer, Drawing):
            self.proposer.allows = self.allows
        self.proposer.run()
        best: Any = next(iter(self.proposer.list_models(limit=1)))
        self._best = self.model_space.freeze(best.sample)

    def list_models(self, sort: bool = True, limit: int | None = None) -> Iterator[Any]:
        """The best."""
        return iter([self._best])

    def state_dict(self) -> dict[str, Any]:
        """Nothing needs to be kept: the seed tells all."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `state_dict`."""
