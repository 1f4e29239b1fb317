"""What is left of a study to do: the one place where a run is known to be the same as one that exists already."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nasbench import packs, registry
from nasbench.config import RESULT, RUN, SETTING, RunConfig, digest
from nasbench.errors import DataError, NasbenchError
from nasbench.files import write_atomic
from nasbench.record import METRICS, Record, find_records
from nasbench.registry import describe_exception
from nasbench.studies.study import Planned, Study

RESULTS = "sweep.json"  # in the study's folder
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


@dataclass(frozen=True)
class Result:
    """What became of one run of a study."""

    label: str  # of the run
    parameters: Mapping[str, Any]  # of the run
    state: str  # `finished`, `failed`, `stopped early`, `cancelled` or `not finished`
    how: str = "from its record"  # or `run`, or `run again` where it had been broken off or had failed before
    error: str | None = None  # why it failed, one line
    record: Path | None = None  # its folder
    seconds: float | None = None  # it took, now or when it was run


@dataclass(frozen=True)
class Plan:
    """What is left of a study to do."""

    results: list[Result]  # of the runs that need no more work
    missing: list[Planned]  # the other runs of a grid; the runs of a tuner's study that were broken off
    proposals: int = 0  # how many runs a tuner shall propose beside these
    known: tuple[Mapping[str, Any], ...] = ()  # results of a tuner's study, as NNI's `import_data` takes them
    seconds: float | None = None  # that a run is expected to take that a tuner proposes


def check(runs: Iterable[Planned], here: bool = True) -> None:
    """Build what the runs need, once for each setting, so that mistakes show before the first of them starts.

    Where they are not made `here`, data may be missing here. NasbenchError: something is wrong; it names the run.
    """
    from nasbench.pipeline import prepare

    checked: dict[str, Planned] = {}
    for run in runs:
        if checked.setdefault(run.config.digest(*SETTING), run) is not run:
            continue
        try:
            prepare(run.config)
        except NasbenchError as e:
            if here or not isinstance(e, DataError):
                raise type(e)(f"run {run.label!r}: {e}") from e


def plan(study: Study, out: Path, others: Sequence[Path] = (), timed: Sequence[Path] = ()) -> Plan:
    """Find out what is left of a study to do; nothing is started.

    Finished records count in `out` and the folders `others`; what was broken off in `out` goes on. By those in `timed`
    only times are estimated.
    """
    like = known([out, *others, *timed])
    counted = [run for run in like if any(run.record.path.is_relative_to(folder) for folder in (out, *others))]
    records = [run for run in counted if run.record.path.is_relative_to(out)]
    stopped = _stopped_early(out)
    if study.search:
        return _plan_search(study, records, like, stopped)
    results: list[Result] = []
    missing: list[Planned] = []
    for run in study.runs():
        done = finished(run.config, counted)
        if done is not None:
            results.append(_finished(run, done))
        elif dict(run.parameters) in stopped:
            results.append(Result(run.label, run.parameters, "stopped early"))
        else:
            missing.append(_planned(run, records, like))
    return Plan(results, missing)


def _plan_search(
    study: Study, records: Sequence[Known], like: Sequence[Known], stopped: Sequence[Mapping[str, Any]]
) -> Plan:
    results: list[Result] = []
    broken: list[Planned] = []
    told: list[Mapping[str, Any]] = []
    for earlier in records:
        parameters = study.parameters_of(earlier.config)
        if parameters is None:
            continue
        run = _planned(study.run(parameters), [earlier], like)
        if earlier.finished:
            results.append(_finished(run, earlier))
            told.append({"parameter": parameters, "value": held_out(earlier.record)})
        elif parameters not in stopped and run.interrupted is not None:
            broken.append(run)
    results += [Result(study.label(given), given, "stopped early") for given in stopped]
    missing = broken[: max(0, study.trials - len(results))]
    proposals = max(0, study.trials - len(results) - len(missing))
    return Plan(results, missing, proposals, tuple(told), expected_seconds(study.samples()[0].config, like))


def _planned(run: Planned, records: Iterable[Known], like: Iterable[Known]) -> Planned:
    return replace(run, interrupted=interrupted(run.config, records), seconds=expected_seconds(run.config, like))


def _finished(run: Planned, earlier: Known) -> Result:
    return Result(run.label, run.parameters, "finished", record=earlier.record.path, seconds=earlier.seconds)


def run_missing(planned: Plan, out: Path, say: Callable[[str], None]) -> list[Result]:
    """Make what a grid lacks in turn, and tell which runs fail. NasbenchError: one can never work; none was started."""
    from nasbench.pipeline import run

    check(planned.missing)
    results = []
    for number, item in enumerate(planned.missing, 1):
        say(f"[{number}/{len(planned.missing)}] {item.label}")
        how = "run" if item.interrupted is None else "run again"
        start = time.monotonic()
        try:
            record = run(item.config, out if item.interrupted is None else item.interrupted.record.path)
            seconds = time.monotonic() - start
            result = Result(item.label, item.parameters, "finished", how, record=record.path, seconds=seconds)
        except Exception as e:  # one of many, whatever went wrong in it
            error = " ".join((str(e) if isinstance(e, NasbenchError) else describe_exception(e)).split())
            result = Result(item.label, item.parameters, "failed", how, error)
            say(f"failed: {item.label}: {error}")
        results.append(result)
    return results


def write_results(out: Path, study: Study, results: Iterable[Result]) -> None:
    """Note what became of the runs of a study in its folder."""
    runs = [{**asdict(result), "record": result.record and result.record.name} for result in results]
    content = {"name": study.name, "runs": runs}
    write_atomic(out / RESULTS, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")


def _stopped_early(out: Path) -> list[dict[str, Any]]:
    try:
        runs = json.loads((out / RESULTS).read_text(encoding="utf-8"))["runs"]
        return [dict(run["parameters"]) for run in runs if run["state"] == "stopped early"]
    except (OSError, ValueError, KeyError, TypeError):
        return []


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
    """Held-out accuracy at the end of the retraining, or of its best epoch where that counts: what a tuner learns from.

    The test images are not for tuning.
    """
    rows = [r for r in record.curves(METRICS) if (r["stage"], r["name"]) == ("retrain", "val_top1")]
    best = getattr(record.status().stages.get("retrain"), "best_epoch", None)
    values = [r["value"] for r in rows if best is None or int(r["epoch"]) == best]
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
