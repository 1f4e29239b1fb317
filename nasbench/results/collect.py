import json
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from nasbench.config import GIVEN, KINDS, SETTING, Role, RunConfig, digest
from nasbench.errors import NasbenchError, RecordError
from nasbench.facts import Result
from nasbench.record import DECISIONS, HEADERS, RESULT, Record, find_records, finite
from nasbench.results.cells import Kind

K = TypeVar("K", bound=Hashable)

LONGEST = 500  # characters of a reason
RunRow = Mapping[str, Any]  # a row of the frame
# What was measured of every run: what a reader calls it, and what kind of number it is.
MEASURES: dict[str, tuple[str, Kind]] = {
    "top1": ("top-1", "percent"),
    "top5": ("top-5", "percent"),
    "params": ("params", "millions"),
    "madds": ("M-adds", "millions"),
    "search_seconds": ("search", "seconds"),
    "retrain_seconds": ("retraining", "seconds"),
    "peak_memory_bytes": ("peak memory", "bytes"),
}
SHOWN = (
    *("space", "dataset", "train_images", "preset", "seed", "epochs", "retrain_epochs", "batch_size", "precision"),
)
COLUMNS = (
    *("path", "name", "strategy", "label", "candidates", "width", "classes", "image_size", *SHOWN, *MEASURES),
    *("architecture", "started", "finished", "setting", "protocol"),
)


@dataclass(frozen=True)
class Problem:
    """A record that could not be used."""

    path: Path  # its folder
    reason: str  # one line


@dataclass(frozen=True)
class Collection:
    """What `collect` found."""

    # One row a finished run, columns `COLUMNS`, one for every option (`space_options.width`, …) and one for every
    # number of the strategy's own (`search.fixed_by_threshold`, …). Accuracies are fractions, times seconds, memory
    # bytes, params and madds counts; `architecture` is JSON.
    frame: pd.DataFrame
    problems: list[Problem]  # the records that were skipped


def collect(paths: Iterable[str | Path]) -> Collection:
    """Read the records at or below these paths: finished runs by path, and problems. RecordError: there is no path."""
    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for given in map(Path, paths):
        found = sorted(find_records(given))
        if not found:
            if not given.exists():
                raise RecordError(f"{given} does not exist: give records, packs, or folders with either")
            problems.append(Problem(given, "no run record in it"))
        for folder in found:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                rows.append(read_run(folder))
            except NasbenchError as e:
                problems.append(Problem(folder, " ".join(str(e).split())[:LONGEST]))
    frame = pd.DataFrame(rows)
    extra = sorted(c for c in frame.columns if c not in COLUMNS)
    return Collection(frame.reindex(columns=[*COLUMNS, *extra]), problems)


def read_run(folder: Path) -> dict[str, Any]:
    """One finished record as flat values. Raises NasbenchError: it is damaged or unfinished; the message says which."""
    record = Record(folder)
    config, status = record.config(), record.status()
    if "test" not in status.stages:
        error = f" ({status.error})" if status.error else ""
        raise NasbenchError(f"unfinished: {status.state}{error}, stages done: {', '.join(status.stages) or 'none'}")
    result, data, settings = record.result(), record.data(), flat_settings(config)
    if result.architecture.keys() != record.decisions().keys():
        raise RecordError(f"{folder} is damaged: {RESULT} and {DECISIONS} have different labels")
    options = {name: _flat(value) for name, value in settings.items() if "_options." in name}
    candidates, width = (config.space_options.get(name) for name in ("candidates", "width"))
    return {
        **{name: settings[name] for name in SHOWN},
        **{name: getattr(result, name) for name in (*MEASURES, "label")},
        "path": str(folder),
        "name": folder.name,
        "strategy": config.method,
        "candidates": "+".join(map(str, candidates)) if isinstance(candidates, list) else candidates,
        "width": width if isinstance(width, (int, float)) else None,
        "classes": len(data.class_names),
        "image_size": data.image_size,
        "architecture": json.dumps(result.architecture, ensure_ascii=False),
        "started": record.environment().started,
        "finished": status.updated,
        "setting": setting(config, result),
        "protocol": config.digest(Role.RECIPE),
        **options,
        **{f"search.{name}": value for name, value in result.search.items()},
    }


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """All settings, options and limits as `space_options.width`."""
    settings = config.model_dump(mode="json")
    groups = [*(f"{kind}_options" for kind in KINDS), "limits"]
    return settings | {f"{group}.{name}": value for group in groups for name, value in settings.pop(group).items()}


def curves(record: Record, name: str) -> pd.DataFrame:
    """`SEARCH`, `METRICS` or `TRIALS`, empty where there is none.

    Raises RecordError: it is damaged, or a number in it is not finite.
    """
    counts = ("epoch", "step", "fixed", "trial", "epochs", "params", "madds")
    kinds: dict[str, Callable[[str], Any]] = {**dict.fromkeys(counts, int)}
    kinds |= dict.fromkeys(("pi", "value", "accuracy"), finite)
    try:
        rows = [[kinds.get(key, str)(text) for key, text in row.items()] for row in record.curves(name)]
    except ValueError as e:
        raise RecordError(f"{record.path / name} is damaged: {e}") from e
    return pd.DataFrame(rows, columns=HEADERS[name])


def setting(config: RunConfig, result: Result) -> str:
    """Ten digits that runs share which are averaged over seeds; a given architecture is known by itself."""
    if config.strategy is not None:
        return config.digest(*SETTING)
    network = [config.space, result.label, config.space_options.get("width"), result.architecture]
    return digest([config.part(Role.RECIPE), network])


def grouped(rows: Iterable[RunRow], key: Callable[[RunRow], K]) -> dict[K, list[RunRow]]:
    """Rows of the frame by what they have in common, in the order in which that first occurs."""
    groups: dict[K, list[RunRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def is_searched(row: RunRow) -> bool:
    """Whether a strategy has chosen the architecture of a row of the frame."""
    return bool(row["strategy"] != GIVEN)


def architecture_of(row: RunRow) -> dict[str, Any]:
    """The architecture of a row of the frame."""
    return dict(json.loads(row["architecture"]))


def option(row: RunRow, name: str) -> Any:
    """A value of a row of the frame, `None` where the run has none (pandas says NaN)."""
    value = row.get(name)
    return None if value is None or value != value else value


def _flat(value: Any) -> Any:
    scalar = value is None or isinstance(value, (str, int, float, bool))
    return value if scalar else json.dumps(value, ensure_ascii=False, sort_keys=True)
