"""Which runs exist already: the one place where a run is known to be the same as another."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nasbench import packs, registry
from nasbench.config import RESULT, RUN, SETTING, RunConfig, digest
from nasbench.record import METRICS, Record, find_records

# What of a setting does not change how long a step takes, or is accounted for.
UNTIMED = ("architecture", "epochs", "retrain_epochs", "strategy_options", "evaluator_options", "weights", "retrain")


@dataclass(frozen=True)
class Known:
    """A readable record."""

    record: Record  # its folder
    config: RunConfig  # its configuration
    finished: bool  # whether its test is done
    result: str  # what runs share that give the same result
    setting: str  # likewise, whatever the seed
    timing: str  # what runs share whose steps take the same time

    @property
    def seconds(self) -> float:
        """What it took so far."""
        return sum(stage.seconds for stage in self.record.status().stages.values())


def known(folders: Iterable[Path]) -> list[Known]:
    """All readable records in some folders, in the order of their names; each is read once."""
    found: dict[Path, Known] = {}
    for path in (path for folder in folders for path in sorted(find_records(folder))):
        try:
            record = Record(path)
            config = record.config()
            digests = config.digest(*RESULT), config.digest(*SETTING), _timing(config)
            found.setdefault(path.resolve(), Known(record, config, record.finished("test"), *digests))
        except Exception:
            continue  # damaged: as if it were not there
    return list(found.values())


def finished(config: RunConfig, runs: Iterable[Known]) -> Known | None:
    """A finished run with the result of a configuration."""
    wanted = config.digest(*RESULT)
    return next((run for run in runs if run.finished and run.result == wanted), None)


def interrupted(config: RunConfig, runs: Iterable[Known]) -> Known | None:
    """The unfinished run of exactly a configuration that has come farthest and that nobody is writing."""
    wanted = config.digest(*RESULT)
    alike = [run for run in runs if not run.finished and run.result == wanted and not packs.is_inside(run.record.path)]
    found = [run for run in alike if not run.config.differing(config, *RUN) and not run.record.is_owned()]
    return max(found, key=lambda run: len(run.record.status().stages), default=None)


def held_out(record: Record) -> float | None:
    """Held-out accuracy at the end of the retraining: what a tuner learns from. The test images are not for tuning."""
    values = [r["value"] for r in record.curves(METRICS) if (r["stage"], r["name"]) == ("retrain", "val_top1")]
    return float(values[-1]) if values else None


def expected_seconds(config: RunConfig, runs: Iterable[Known]) -> float | None:
    """The mean seconds of finished runs that differ in the seed only, else of those alike, by epochs; `None`: none."""
    timing, setting = _timing(config), config.digest(*SETTING)
    alike = [run for run in runs if run.finished and run.timing == timing]
    seconds = [run.seconds for run in alike if run.setting == setting] or [_scaled(run, config) for run in alike]
    return sum(seconds) / len(seconds) if seconds else None


def _timing(config: RunConfig) -> str:
    """What a strategy's options change about its time, it tells in the label of its runs."""
    kept = {k: v for k, v in config.part(*SETTING).items() if k not in UNTIMED}
    is_ours = config.strategy in registry.entries("strategy")  # a record's own module is not imported for this
    words = registry.words("strategy", config.strategy or "", config.strategy_options) if is_ours else {}
    return digest([kept, words, config.searches])


def _scaled(run: Known, config: RunConfig) -> float:
    ratios = {
        "search": config.epochs / run.config.epochs if config.epochs and run.config.epochs else 1.0,
        "retrain": config.retrain_epochs / run.config.retrain_epochs,
    }
    return sum(s.seconds * ratios.get(name, 1.0) for name, s in run.record.status().stages.items())
