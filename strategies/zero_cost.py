"""Zero-cost scores in place of training, or as a filter before it."""

from collections.abc import Generator, Mapping
from typing import Any

import numpy as np
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from numpy.random import RandomState

from nasbench import registry
from nasbench.answered import Answers, Lookup
from nasbench.architecture import Architecture
from nasbench.contracts import Drawing
from nasbench.errors import OptionError, unknown
from nasbench.options import Count, Seed, checked
from nasbench.scores import SCORES, scored
from nasbench.strategies.held_out import ordered
from nasbench.strategies.proposing import FAILED, Proposing


class ZeroCost(Proposing):
    """Training-free search: a strategy that trains networks one by one asks a zero-cost score in place of training.

    With `trained` > 1 the score is a filter: that many of the best are trained, and compared on held-out images. The
    scores are those of `nasbench.scores`, of fresh weights and one batch of training images. Source: Abdelfattah et
    al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021.
    """

    @checked
    def __init__(
        self,
        *,
        score: str = "naswot",  # see `nasbench rank --help`; how much each says of a space, `nasbench rank` measures
        by: str = "evolution",  # the strategy that proposes networks, with its defaults
        networks: Count = 200,  # that are scored
        trained: Count = 1,  # of the best by score; one alone is the answer as it is
        seed: Seed = 0,
    ) -> None:
        """Set the options. Raises OptionError: there is no such score, or no such strategy that trains networks."""
        super().__init__(seed)
        if score not in SCORES:
            raise OptionError(unknown("score", score, SCORES))
        several = "trials" in registry.parameters(registry.load("strategy", by))  # of a strategy that tries one else
        options = {"trials": networks} if several else {}
        self.proposer = registry.build("strategy", by, options, seed=seed)
        trains = registry.searches(by, registry.complete("strategy", by, options))
        if not trains or isinstance(self.proposer, OneShotStrategy):
            raise OptionError(f"by={by} trains no networks one by one: evolution, local_search, random and tpe do")
        if trained > networks:
            raise OptionError(f"trained={trained} are more than the networks={networks} that are scored")
        self.score, self.by, self.networks, self.trained, self.seed = score, by, networks, trained, seed
        self._single: Any = None

    @staticmethod
    def words(options: Mapping[str, Any]) -> dict[str, str]:
        """What a run's label says of the options."""
        trained = options["trained"]
        return {"score": str(options["score"]), "trained": f"best of {trained}" if trained > 1 else ""}

    @staticmethod
    def searches(options: Mapping[str, Any]) -> bool:
        """Whether networks are trained to be compared."""
        return bool(options["trained"] > 1)

    @staticmethod
    def trainings(options: Mapping[str, Any], epochs: int) -> float:
        """How many networks are trained."""
        return float(options["trained"])

    @property
    def decided_by(self) -> str:
        """Why a layer has its candidate."""
        if self.trained == 1:
            return f"the best by {self.score} that {self.by} met"
        return f"the best of the {self.compared} that {self.score} put first of those that {self.by} met"

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
        return self._scored(self.model_space, architecture) if self.allows(architecture) else FAILED

    def proposals(self) -> Generator[Architecture, float, None]:
        """The best by score, each once."""
        if isinstance(self.proposer, Drawing):
            self.proposer.allows = self.allows
        self.proposer.run()
        found: list[Architecture] = []
        for model in self.proposer.list_models():
            if model.metric > FAILED and model.sample not in found:
                found.append(dict(model.sample))
                yield found[-1]
            if len(found) == self.trained:
                return

    def _run(self) -> None:
        if self.trained > 1:
            super()._run()
        elif (best := next(self.proposals(), None)) is not None:
            self._single = self.model_space.freeze(best)

    def list_models(self, sort: bool = True, limit: int | None = None) -> Any:
        """The best by score, or those that were trained, the best on held-out images first."""
        return super().list_models(sort, limit) if self._single is None else iter([self._single])
