"""The networks that a search trains one by one: none is trained again when the search goes on."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nni.nas.execution import SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, IntermediateMetricEvent, TrainingEndEvent
from nni.nas.space import ModelStatus
from pytorch_lightning import Callback

from nasbench.distributed import is_first
from nasbench.profile import profile
from nasbench.resume import Resumption, random_states, set_random_states


class Engine(SequentialExecutionEngine):
    """Trains networks at once, and keeps what came out of each; those of an earlier process count as trained.

    A strategy that draws by a seed asks for the same networks in the same order, and so repeats its search in no time;
    one that does not meets those that it has trained before.
    """

    def __init__(self, trials: int | None) -> None:
        """Train at most so many networks."""
        super().__init__(max_model_count=trials)
        self._trials: list[dict[str, Any]] = []
        self._left: dict[str, Any] = {"trials": []}
        self._resumption: Resumption | None = None
        self._watching: Sequence[Callback] = ()

    def follow(self, resumption: Resumption, watching: Sequence[Callback]) -> int:
        """Keep every network from now on, and go on with those that were kept; returns how many these are.

        So do the first process's callbacks, `watching`, with what they have counted. RecordError: it is damaged.
        """
        self._resumption, self._watching = resumption, watching
        if kept := resumption.kept():
            self._left, resumption.before = kept, kept["seconds"]
        return len(self._left["trials"])

    def rows(self, image_size: int) -> list[tuple[Any, ...]]:
        """The columns of `nasbench.record.TRIALS` for every network that was trained one by one, in their order."""
        if self._resumption is None:
            return []
        rows: list[tuple[Any, ...]] = []
        for model in self.list_models(ModelStatus.Trained):
            cost = profile(model.executable_model(), image_size)
            sample = json.dumps({str(label): value for label, value in model.sample.items()})
            rows.append(
                (len(rows) + 1, len(model.metrics.intermediates), model.metric, cost.params, cost.madds, sample)
            )
        return rows

    def _run_single_model(self, model: Any) -> None:
        if self._resumption is None:  # of a one-shot search, which keeps itself
            super()._run_single_model(model)
            return
        key = json.dumps({str(label): repr(value) for label, value in model.sample.items()}, sort_keys=True)
        left = self._left["trials"]
        known = next((trial for trial in left if trial["key"] == key), None)
        if known is not None:
            left.remove(known)
            self._repeat(model, known)
            self._trials.append(known)
            if not left:
                for callback, state in zip(self._watching, self._left["watching"], strict=is_first()):
                    callback.load_state_dict(state)
            return
        super()._run_single_model(model)
        values = {"intermediate": list(model.metrics.intermediates), "final": model.metrics.final}
        self._trials.append({"key": key, **values, "random": random_states()})
        watched = [callback.state_dict() for callback in self._watching]
        seconds = self._resumption.seconds
        self._resumption.keep({"trials": [*self._trials, *left], "watching": watched, "seconds": seconds})

    def _repeat(self, model: Any, trial: Mapping[str, Any]) -> None:
        model.status = ModelStatus.Training
        for value in trial["intermediate"]:
            self.dispatch_model_event(IntermediateMetricEvent(model, value))
        self.dispatch_model_event(FinalMetricEvent(model, trial["final"]))
        set_random_states(trial["random"])
        self.dispatch_model_event(TrainingEndEvent(model, ModelStatus.Trained))
