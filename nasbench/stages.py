"""What the stages of a run tell and keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import Callback
from safetensors.torch import save
from torch import Tensor

from nasbench import record as records
from nasbench import registry
from nasbench.architecture import Architecture
from nasbench.config import RunConfig
from nasbench.contracts import Evaluator, Strategy
from nasbench.derive import Found, decisions
from nasbench.facts import Result
from nasbench.files import write_atomic
from nasbench.finite import FiniteGuard
from nasbench.limits.budget import Budget
from nasbench.memory import peak_bytes, reset_peak
from nasbench.networks import label_of, names_of, weights_of
from nasbench.profile import profile
from nasbench.progress import Display
from nasbench.record import Record
from nasbench.trials import Engine
from nasbench.watch import Report, Watcher


@dataclass
class Search:
    """A search that is ready to start: built and checked before anything is written."""

    space: Any  # as it was built; a strategy changes it
    image_size: int  # side of the images in pixels
    notes: list[str]  # what the data set and the space say was decided, one line each
    weights: dict[str, Any]  # what became of pretrained ones, as plain values
    architecture: Architecture | None = None  # that is given; else `None`, and the next three are there
    strategy: Strategy | None = None
    evaluator: Evaluator | None = None
    engine: Engine | None = None
    budget: Budget | None = None  # where there are limits; measured by the first process

    def allows(self, architecture: Mapping[str, Any]) -> bool:
        """Whether an architecture keeps the limits of the run."""
        return self.budget is None or self.budget.allows(architecture)


class OwnNoise(Callback):
    """Another stream of random numbers than the other processes', or all would augment their images alike."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Move the seed by the process's number; a training that goes on has its random numbers already."""
        if trainer.current_epoch == 0:
            torch.manual_seed((torch.initial_seed() + 1_000_003 * trainer.global_rank) % 2**63)


class StageIO:
    """What the stages of a run tell and keep. The first process has a record (`RecordIO`), the others nothing."""

    def watch(self, stage: str) -> list[Callback]:
        """What follows the training of a stage."""
        return [OwnNoise()]

    def say(self, line: str) -> None:
        """Tell the user."""

    def architecture(self) -> Architecture | None:
        """What was found, now or when the run was started first."""
        return None

    def network(self) -> dict[str, Tensor] | None:
        """The weights of the network that was trained when the run was started first; `None` if it was not."""
        return None

    def searched(self, config: RunConfig, search: Search, found: Found, seconds: float) -> None:
        """Keep what was found."""

    def retraining(self, facts: Mapping[str, Any]) -> None:
        """Keep what the training sees of the data."""

    def trained(self, model: Any, seconds: float, facts: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        """Keep the network, and what its evaluator has to tell."""

    def tested(self, config: RunConfig, model: Any, measured: Mapping[str, Any], seconds: float) -> None:
        """Keep the result."""


class RecordIO(StageIO):
    """Keeps everything in a record and shows it."""

    def __init__(self, record: Record, display: Display, report: Report | None) -> None:
        """Write to `record`, show on `display`, and tell `report` the measures of every epoch."""
        self._record, self._display, self._report = record, display, report
        reset_peak()

    def watch(self, stage: str) -> list[Callback]:
        """See `StageIO`."""
        return [FiniteGuard(stage), Watcher(stage, self._record, self._display, self._report)]

    def say(self, line: str) -> None:
        """See `StageIO`."""
        self._display.say(line)

    def architecture(self) -> Architecture:
        """See `StageIO`."""
        return self._record.architecture()

    def network(self) -> dict[str, Tensor] | None:
        """See `StageIO`."""
        return weights_of(self._record) if self._record.finished("retrain") else None

    def searched(self, config: RunConfig, search: Search, found: Found, seconds: float) -> None:
        """See `StageIO`."""
        architecture = found.architecture
        if search.budget is not None:
            self._record.write_csv(records.COSTS, search.budget.rows())
        if search.engine is not None and (trials := search.engine.rows(search.image_size)):
            self._record.write_csv(records.TRIALS, trials)
        self._record.write_json(records.DECISIONS, decisions(config, search.strategy, found))
        self._record.write_json(records.ARCHITECTURE, architecture)
        strategy_numbers = dict(registry.declared(search.strategy, "numbers", {}))
        seen = {} if search.evaluator is None else _sizes(search.evaluator.datamodule.description())
        names = names_of(search.space, architecture)
        facts = {"search": strategy_numbers, "limits": found.limits, "notes": search.notes, "weights": search.weights}
        self._finish("search", seconds, names=names, **facts, **seen)

    def retraining(self, facts: Mapping[str, Any]) -> None:
        """See `StageIO`."""
        self._record.write_json(records.DATA, facts)

    def trained(self, model: Any, seconds: float, facts: Mapping[str, Any], numbers: Mapping[str, Any]) -> None:
        """See `StageIO`."""
        state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        write_atomic(self._record.path / records.MODEL, save(state))
        self._finish("retrain", seconds, **_sizes(facts), **numbers)

    def tested(self, config: RunConfig, model: Any, measured: Mapping[str, Any], seconds: float) -> None:
        """See `StageIO`."""
        record, peak, found = self._record, peak_bytes(), dict(measured)
        if confusion := found.pop("confusion", None):
            record.write_confusion(confusion)
        cost = profile(model, record.data().image_size)
        search, retrain = (record.status().stages[stage] for stage in ("search", "retrain"))
        searched = search.model_extra or {}
        architecture, loss = record.architecture(), found.pop("loss")
        result = Result(
            **found,
            params=cost.params,
            madds=cost.madds,
            search_seconds=search.seconds,
            retrain_seconds=retrain.seconds,
            peak_memory_bytes=max(search.peak_memory_bytes, retrain.peak_memory_bytes, peak),
            **{name: searched[name] for name in ("search", "limits", "names") if name in searched},
            architecture=architecture,
            label=label_of(config, architecture, searched.get("names", [])),
            record=str(record.path),
        )
        record.write_json(records.RESULT, result)
        record.finish_stage("test", seconds, peak, loss=loss)

    def _finish(self, stage: str, seconds: float, **facts: Any) -> None:
        self._record.finish_stage(stage, seconds, peak_bytes(), **facts)
        reset_peak()


def _sizes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How many images each part of the data has."""
    return {name: value for name, value in facts.items() if name.endswith("_images")}
