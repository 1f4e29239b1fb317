"""A run in small, which tells beforehand what the whole takes: every stage for a few steps, in a folder that goes."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nni.nas.strategy  # noqa: F401  (before nni.nas.oneshot, which imports it in a circle)
import numpy as np
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from pytorch_lightning import Callback
from torch.utils._pytree import tree_leaves

from nasbench import registry
from nasbench.architecture import Architecture
from nasbench.config import RunConfig
from nasbench.derive import Found
from nasbench.disk import needed
from nasbench.distributed import world_size
from nasbench.memory import peak_bytes, reset_peak
from nasbench.pipeline import memory_of, prepare, run_stages
from nasbench.presets import complete
from nasbench.quiet import quiet_libraries
from nasbench.record import LOG
from nasbench.stages import Search, StageIO
from nasbench.weights import read

STEPS = 6  # of training in each epoch that is tried, and batches of each measurement
TRIED = 2  # epochs of each kind: the first has costs that the others have not


@dataclass(frozen=True)
class Forecast:
    """What a run will take, on one machine."""

    memory_bytes: int  # at the peak, of all processes
    free_memory_bytes: int  # 0 where nobody knows
    disk_bytes: int  # at most
    seconds: dict[str, float]  # by stage; empty where the memory does not suffice, so that nothing was tried
    networks: int | None = None  # that the search trains one by one, 1 where it has no limit; `None`: it trains none


def rehearse(config: RunConfig) -> Forecast:
    """Try a run: a few steps of the search before and after its warm-up, of the training, and of both measurements.

    Several processes are tried as one that has its share of every batch; what they tell each other is not counted.
    Raises NasbenchError: whatever is wrong with the configuration or the data.
    """
    begun = time.perf_counter()
    config, world, processes = complete(config), world_size(config), config.devices
    config = config.model_copy(update={"devices": 1, "nodes": 1, "batch_size": config.batch_size // world})
    weights = read(config)
    whole = prepare(config, weights)
    seconds = {"preparation": time.perf_counter() - begun}
    (memory, free), disk = memory_of(config, whole), needed(whole.space)
    if free and processes * memory > free:
        return Forecast(processes * memory, free, disk, {})
    del whole  # and with it the data, which would be there twice
    io, (small, epochs) = _Rehearsal(), _in_small(config)
    reset_peak()
    search = prepare(small, weights)
    with TemporaryDirectory() as folder, quiet_libraries(Path(folder) / LOG):
        run_stages(small, io, search, folder, weights)
    for stage, clock in io.clocks.items():
        seconds[stage] = sum(count * each for count, each in zip(epochs[stage], clock.epochs, strict=False))
    seconds["test"] = io.clocks["retrain"].test_seconds
    networks = None
    if io.trains_singly:
        trainings = _trainings(config)
        seconds["search"] *= trainings
        networks = math.ceil(trainings)
    if config.max_minutes:
        seconds["search"] = min(seconds["search"], 60 * config.max_minutes)
    return Forecast(processes * peak_bytes(), free, disk, seconds, networks)


def _trainings(config: RunConfig) -> float:
    """How many networks the search trains one by one, in trainings of all epochs; 1 where nothing limits them."""
    told = registry.declared(registry.load("strategy", config.strategy or ""), "trainings", None)
    epochs = config.epochs or 1
    own = told and told(config.strategy_options, epochs)
    limits = (config.max_trials, config.max_epochs and config.max_epochs / epochs, own)
    return min((float(limit) for limit in limits if limit), default=1.0)


def _in_small(config: RunConfig) -> tuple[RunConfig, dict[str, list[int]]]:
    """The configuration of the rehearsal; by stage, how many epochs of the run each epoch of it stands for."""
    options = dict(config.strategy_options)
    every = options.get("epochs") or config.epochs or 1
    warm = min(options.get("warmup_epochs", 0), every - 1)
    search, retrain = [*_shared(warm), *_shared(every - warm)], _shared(config.retrain_epochs)
    in_small = {"epochs": None, "warmup_epochs": min(warm, TRIED)}
    options |= {name: value for name, value in in_small.items() if name in options}
    if "trials" in options:  # of two all have all epochs; a single one is not trained by all strategies
        options["trials"] = min(options["trials"], 2)
    trained = dict(config.evaluator_options)
    if trained.get("warmup_epochs"):  # which takes no other time than the rest
        trained["warmup_epochs"] = min(trained["warmup_epochs"], len(retrain) - 1)
    small = {"epochs": len(search), "retrain_epochs": len(retrain), "strategy_options": options, "max_trials": 1}
    small |= {"evaluator_options": trained, "max_epochs": None, "max_minutes": None}
    return config.model_copy(update=small), {"search": search, "retrain": retrain}


def _shared(epochs: int) -> list[int]:
    """For how many of so many epochs each one stands that is tried: the last for all that are left."""
    return [1] * min(epochs, TRIED - 1) + [epochs - TRIED + 1] * (epochs >= TRIED)


class _Rehearsal(StageIO):
    """Keeps nothing but what was found, and the times."""

    def __init__(self) -> None:
        self.clocks: dict[str, _Clock] = {}
        self.trains_singly = False
        self._found: Architecture = {}

    def watch(self, stage: str) -> list[Callback]:
        self.clocks[stage] = _Clock()
        return [self.clocks[stage]]

    def architecture(self) -> Architecture:
        return self._found

    def searched(self, config: RunConfig, search: Search, found: Found, seconds: float) -> None:
        self._found = found.architecture
        one_shot = isinstance(search.strategy, OneShotStrategy)
        self.trains_singly = not one_shot and "search" in self.clocks and bool(self.clocks["search"].epochs)


class _Batches:
    """The first batches of one pass, and how long the whole would take."""

    def __init__(self) -> None:
        self._begun, self._ends, self._all = time.perf_counter(), list[float](), 0

    def end(self, loaders: Any) -> None:
        """Note the end of a batch of some loaders, which take turns until the longest is through."""
        self._ends.append(time.perf_counter())
        self._all = max(map(len, tree_leaves(loaders)))

    @property
    def left(self) -> float:
        """Seconds that the batches would take that were left out."""
        if not self._ends:
            return 0.0
        between = np.diff(self._ends) if len(self._ends) > 1 else [self._ends[0] - self._begun]
        return max(0, self._all - len(self._ends)) * float(np.median(between))


class _Clock(Callback):
    """Shortens the epochs of one training and the test, and tells what they would take in full."""

    def __init__(self) -> None:
        self.epochs: list[float] = []  # seconds of each in full, validation included
        self.test_seconds = 0.0  # likewise

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        trainer.limit_train_batches = trainer.limit_val_batches = trainer.limit_test_batches = STEPS

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._begun, self._training, self._validation = time.perf_counter(), _Batches(), _Batches()

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self._training.end(trainer.train_dataloader)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._validation = _Batches()

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        self._validation.end(trainer.val_dataloaders)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(time.perf_counter() - self._begun + self._training.left + self._validation.left)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        self._testing = _Batches()
        self._begun = time.perf_counter()

    def on_test_batch_end(self, trainer: Any, *args: Any) -> None:
        self._testing.end(trainer.test_dataloaders)

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:
        self.test_seconds = time.perf_counter() - self._begun + self._testing.left
