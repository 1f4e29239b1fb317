"""The networks that a search trains one by one: none is trained again when the search goes on."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nni.nas.execution import SequentialExecutionEngine
from nni.nas.execution.event import FinalMetricEvent, IntermediateMetricEvent, TrainingEndEvent
from nni.nas.space import ModelStatus
from pytorch_lightning import Callback

from nasbench.config import RunConfig
from nasbench.distributed import broadcast, is_first
from nasbench.profile import profile
from nasbench.resume import Resumption, random_states, set_random_states


def too_long(seconds: float, done: int, minutes: float) -> bool:
    """Whether one more of what was `done` in so many seconds would take longer than so many minutes."""
    return seconds * (done + 1) / done > 60 * minutes


class TimeLimit(Callback):
    """Ends a one-shot search after the last epoch that fits into its time."""

    def __init__(self, minutes: float, resumption: Resumption) -> None:
        """Let the stage of `resumption` take so many minutes."""
        self._minutes, self._resumption = minutes, resumption
        self.ended: str | None = None  # what the search was ended by, in words

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Look whether another epoch would fit."""
        done = trainer.current_epoch + 1
        if done < trainer.max_epochs and broadcast(too_long(self._resumption.seconds, done, self._minutes)):
            self.ended = f"{done} of {trainer.max_epochs} epochs; another would take longer than --max-minutes"
            trainer.should_stop = True


class Engine(SequentialExecutionEngine):
    """Trains networks at once, and keeps what came out of each; those of an earlier process count as trained.

    A strategy that draws by a seed asks for the same networks in the same order, and so repeats its search in no time;
    one that does not meets those that it has trained before.
    """

    def __init__(
        self,
        config: RunConfig,
        epochs: Callable[[], int],  # of the network that is trained next
    ) -> None:
        """Train as many networks as the settings allow."""
        super().__init__(max_model_count=config.max_trials)
        self.ended: str | None = None  # what the search was ended by, in words
        self._most_epochs, self._minutes, self._epochs, self._spent = config.max_epochs, config.max_minutes, epochs, 0
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

    def budget_available(self) -> bool:
        """Whether another network may be trained; the first one always may. Every process must call it."""
        seconds, count = self._resumption.seconds if self._resumption else 0.0, self._model_count
        done = count + len(self._left["trials"])  # whose time is in the seconds, too
        if not super().budget_available():
            self.ended = f"{count} networks, as many as --max-trials allows"
        elif self._most_epochs is not None and self._spent + self._epochs() > self._most_epochs:
            self.ended = f"{self._spent} epochs; another network would be more than --max-epochs"
        elif count and self._minutes is not None and broadcast(too_long(seconds, done, self._minutes)):
            self.ended = f"{count} network(s); another would take longer than --max-minutes"
        return self.ended is None

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
        self._spent += self._epochs()
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
