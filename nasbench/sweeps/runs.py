"""Which runs of a sweep exist already, and how long the others may take."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nasbench.config import RunConfig
from nasbench.errors import NasbenchError
from nasbench.record import Record, same_run
from nasbench.results.collect import MACHINE, find_records, searches
from nasbench.sweeps.config import SweepConfig

# What does not change how long a step takes, or is accounted for.
UNTIMED = ("seed", "preset", "epochs", "retrain_epochs", "strategy_options", "evaluator_options", "weights", *MACHINE)


@dataclass(frozen=True)
class Run:
    """A readable record.

    Attributes:
        record: its folder.
        config: its configuration.
        finished: whether its test is done.
    """

    record: Record
    config: RunConfig
    finished: bool

    @cached_property
    def result(self) -> str:
        """See `same_result`."""
        return same_result(self.config)

    @cached_property
    def setup(self) -> str:
        """Likewise, whatever the seed."""
        return _setup(self.config)

    @cached_property
    def timing(self) -> str:
        """What runs share whose steps take the same time."""
        return _timing(self.config)


def find_runs(folders: Iterable[Path]) -> list[Run]:
    """All readable records in some folders, in the order of their names."""
    found: dict[Path, Run] = {}
    for folder in folders:
        for path in sorted(find_records(folder)):
            try:
                record = Record(path)
                found.setdefault(path.resolve(), Run(record, record.config(), record.finished("test")))
            except (NasbenchError, OSError, KeyError, TypeError):
                continue  # damaged: as if it were not there
    return list(found.values())


def same_result(config: RunConfig) -> str:
    """What two configurations share when they give the same result: all but the machine and the preset's name."""
    settings = config.model_dump(mode="json")
    return json.dumps({k: v for k, v in settings.items() if k not in (*MACHINE, "preset")}, sort_keys=True)


def finished_run(config: RunConfig, runs: Iterable[Run]) -> Run | None:
    """A finished run with the result of a configuration."""
    wanted = same_result(config)
    return next((run for run in runs if run.finished and run.result == wanted), None)


def broken_run(config: RunConfig, runs: Iterable[Run]) -> Run | None:
    """The run of exactly a configuration that has come farthest and that nobody is writing."""
    wanted = same_result(config)
    alike = [run for run in runs if not run.finished and run.result == wanted]
    found = [run for run in alike if not same_run(run.config, config) and not _owned(run.record)]
    return max(found, key=lambda run: len(run.record.status()["stages"]), default=None)


def parameters_of(config: RunConfig, sweep: SweepConfig) -> dict[str, Any] | None:
    """The parameters with which a tuner's sweep makes a configuration; `None` where it is none of its runs."""
    settings = config.model_dump(mode="json")
    parameters = {}
    for key in sweep.search:
        field, dot, option = key.partition(".")
        value = settings[field].get(option) if dot else settings[field]
        if value is None:
            return None
        parameters[key] = value
    try:
        return parameters if same_result(sweep.run_config(parameters)) == same_result(config) else None
    except NasbenchError:
        return None


def held_out(record: Record) -> float | None:
    """Held-out accuracy at the end of the retraining: what a tuner learns from. The test images are not for tuning."""
    values = [r["value"] for r in record.read_csv("metrics.csv") if (r["stage"], r["name"]) == ("retrain", "val_top1")]
    return float(values[-1]) if values else None


def seconds_of(run: Run) -> float:
    """What a finished run took."""
    return sum(float(facts["seconds"]) for facts in run.record.status()["stages"].values())


def completed(config: RunConfig) -> RunConfig:
    """The configuration as the record of its run will have it."""
    from nasbench.pipeline import with_named_options

    return with_named_options(config, config.strategy_options.get("choice")) if config.strategy == "fixed" else config


def expected_seconds(config: RunConfig, runs: Iterable[Run]) -> float | None:
    """How long a run is expected to take, by finished runs that are like it.

    Args:
        config: of the run.
        runs: the mean is taken over those that differ only in the seed; where there are none, over those with the
            same network, data and strategy, scaled by the epochs of search and retraining.

    Returns:
        Seconds, `None` where there is no such run.
    """
    timing, setup = _timing(config), _setup(config)
    alike = [run for run in runs if run.finished and run.timing == timing]
    exact = [run for run in alike if run.setup == setup]
    if exact:
        return sum(map(seconds_of, exact)) / len(exact)
    scaled = [_scaled(run, config) for run in alike]
    return sum(scaled) / len(scaled) if scaled else None


def _setup(config: RunConfig) -> str:
    return same_result(config.model_copy(update={"seed": 0}))


def _timing(config: RunConfig) -> str:
    settings = config.model_dump(mode="json")
    kept: Mapping[str, Any] = {k: v for k, v in settings.items() if k not in UNTIMED}
    kind = config.strategy_options.get("order", 1) if config.strategy == "darts" else None
    return json.dumps([kept, kind, searches(config)], sort_keys=True)


def _scaled(run: Run, config: RunConfig) -> float:
    stages = run.record.status()["stages"]
    ratios = {
        "search": config.epochs / run.config.epochs if searches(config) else 1.0,
        "retrain": config.retrain_epochs / run.config.retrain_epochs,
    }
    return sum(float(facts["seconds"]) * ratios.get(stage, 1.0) for stage, facts in stages.items())


def _owned(record: Record) -> bool:
    lock = FileLock(record.path / ".lock", timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
