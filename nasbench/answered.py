"""A space and an engine for searches whose every network's measure is at hand: nothing is built, nothing trained."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nni.mutable import Categorical, MutableDict, label_scope
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, TrainingEndEvent
from nni.nas.space import ExecutableModelSpace, ModelStatus

from nasbench.architecture import Architecture


class Answers(ExecutableModelSpace):
    """The architectures of some choices, as a strategy sees a space."""

    def __init__(self, mutables: MutableDict, sample: Architecture | None = None) -> None:
        """All of them, or the one that is named."""
        super().__init__(ModelStatus.Initialized if sample is None else ModelStatus.Frozen)
        self.mutables, self.sample = mutables, sample

    @classmethod
    def of(cls, candidates: Mapping[str, Sequence[Any]]) -> "Answers":
        """All architectures of label → candidates."""
        found = {}
        for label, values in candidates.items():
            scope, _, name = label.rpartition("/")
            with label_scope(scope) if scope else contextlib.nullcontext():
                found[label] = Categorical(values, label=name)
        return cls(MutableDict(found))

    def freeze(self, sample: Any) -> "Answers":
        """One of them. Raises SampleValidationError: it is none."""
        self.validate(sample)
        return Answers(self.mutables, dict(sample))

    def check_contains(self, sample: Any) -> Any:
        """See NNI's `Mutable`."""
        return self.mutables.check_contains(sample)

    def leaf_mutables(self, is_leaf: Any) -> Iterator[Any]:
        """See NNI's `Mutable`."""
        yield from self.mutables.leaf_mutables(is_leaf)


class Lookup(SequentialExecutionEngine):
    """Asks for the measure of every architecture that is submitted to it, larger is better, in place of training it."""

    def __init__(self, measure: Callable[[Architecture], float], trials: int) -> None:
        """At most so many."""
        super().__init__(max_model_count=trials)
        self.measure = measure

    def _run_single_model(self, model: Any) -> None:
        self.dispatch_model_event(FinalMetricEvent(model, self.measure(model.sample)))
        self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))
