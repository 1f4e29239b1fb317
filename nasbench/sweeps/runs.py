"""Which runs of a sweep exist already, and how long the others may take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nasbench.config import RESULT, RUN, SETTING, RunConfig, digest
from nasbench.errors import NasbenchError, RecordError
from nasbench.record import METRICS, Record, find_records
from nasbench.sweeps.config import SweepConfig

# What of a setting does not change how long a step takes, or is accounted for.
UNTIMED = ("architecture", "epochs", "retrain_epochs", "strategy_options", "evaluator_options", "weights")


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
        """What runs share that give the same result."""
        return self.config.digest(*RESULT)

    @cached_property
    def setting(self) -> str:
        """Likewise, whatever the seed."""
        return self.config.digest(*SETTING)

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
            except (NasbenchError, OSError):
                continue  # damaged: as if it were not there
    return list(found.values())


def finished_run(config: RunConfig, runs: Iterable[Run]) -> Run | None:
    """A finished run with the result of a configuration."""
    wanted = config.digest(*RESULT)
    return next((run for run in runs if run.finished and run.result == wanted), None)


def broken_run(config: RunConfig, runs: Iterable[Run]) -> Run | None:
    """The run of exactly a configuration that has come farthest and that nobody is writing."""
    wanted = config.digest(*RESULT)
    alike = [run for run in runs if not run.finished and run.result == wanted]
    found = [run for run in alike if not run.config.differing(config, *RUN) and not _owned(run.record)]
    return max(found, key=lambda run: len(run.record.status().stages), default=None)


def parameters_of(config: RunConfig, sweep: SweepConfig) -> dict[str, Any] | None:
    """The parameters with which a tuner's sweep makes a configuration; `None` where it is none of its runs."""
    settings = {**config.model_dump(mode="json"), "strategy": config.method}
    parameters = {}
    for key in sweep.search:
        field, dot, option = key.partition(".")
        value = settings[field].get(option) if dot else settings[field]
        if value is None:
            return None
        parameters[key] = value
    try:
        return parameters if sweep.run_config(parameters).digest(*RESULT) == config.digest(*RESULT) else None
    except NasbenchError:
        return None


def held_out(record: Record) -> float | None:
    """Held-out accuracy at the end of the retraining: what a tuner learns from. The test images are not for tuning."""
    values = [r["value"] for r in record.curves(METRICS) if (r["stage"], r["name"]) == ("retrain", "val_top1")]
    return float(values[-1]) if values else None


def seconds_of(run: Run) -> float:
    """What a finished run took."""
    return sum(stage.seconds for stage in run.record.status().stages.values())


def expected_seconds(config: RunConfig, runs: Iterable[Run]) -> float | None:
    """How long a run is expected to take, by finished runs that are like it.

    Args:
        config: of the run.
        runs: the mean is taken over those that differ only in the seed; where there are none, over those with the
            same network, data and strategy, scaled by the epochs of search and retraining.

    Returns:
        Seconds, `None` where there is no such run.
    """
    timing, setting = _timing(config), config.digest(*SETTING)
    alike = [run for run in runs if run.finished and run.timing == timing]
    exact = [run for run in alike if run.setting == setting]
    if exact:
        return sum(map(seconds_of, exact)) / len(exact)
    scaled = [_scaled(run, config) for run in alike]
    return sum(scaled) / len(scaled) if scaled else None


def _timing(config: RunConfig) -> str:
    kept = {k: v for k, v in config.part(*SETTING).items() if k not in UNTIMED}
    return digest([kept, config.strategy_options.get("order"), config.searches])


def _scaled(run: Run, config: RunConfig) -> float:
    ratios = {
        "search": config.epochs / run.config.epochs if config.epochs and run.config.epochs else 1.0,
        "retrain": config.retrain_epochs / run.config.retrain_epochs,
    }
    return sum(s.seconds * ratios.get(name, 1.0) for name, s in run.record.status().stages.items())


def _owned(record: Record) -> bool:
    try:
        with record.owned():
            return False
    except RecordError:
        return True
