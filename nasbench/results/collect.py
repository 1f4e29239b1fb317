"""Run records into one table of plain values, one row a run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasbench.config import RunConfig
from nasbench.errors import NasbenchError
from nasbench.record import Record

if TYPE_CHECKING:
    import pandas as pd

RECORD_FILES = ("config.yaml", "status.json", "result.json")
OPTIONS = ("space_options", "strategy_options", "evaluator_options")
# What may differ between runs that are averaged over seeds: the machine, not the experiment.
MACHINE = ("data_root", "download", "workers", "device", "devices", "nodes")
# What every run of a fair comparison shares, whatever its space and strategy.
PROTOCOL = (
    "dataset",
    "image_size",
    "train_images",
    "batch_size",
    "retrain_epochs",
    "evaluator",
    "evaluator_options",
    "precision",
    "weights",
)
MAIN_SPACE = RunConfig.model_fields["space"].default  # named only where it is another one
# What the space takes where a run gives nothing; records keep only what was given.
SPACE_DEFAULTS: dict[str, dict[str, Any]] = {
    "cheap_resnet": {"depth": 56, "width": 1.0},
    "mbv2_metapool": {
        "width": 1.0,
        "candidates": "full",
        "position": "expanded",
        "downsampling": "stride",
        "depthwise": "conv",
    },
    "menet": {"model": "108-8x1", "width": 1.0, "candidates": "full"},
    "mobilenetv3_metapool": {"model": "large", "width": 1.0, "candidates": "full"},
    "shufflenetv2_metapool": {"width": 1.0, "candidates": "full"},
}
NAME = re.compile(r"[\w-]+")  # of an architecture, not a file or folder
LONGEST_OPTIONS = 40  # characters of a variant's name; longer options are named by a hash
COLUMNS = (
    "path",
    "name",
    "space",
    "strategy",
    "variant",
    "order",
    "choice",
    "candidates",
    "position",
    "width",
    "dataset",
    "classes",
    "image_size",
    "train_images",
    "preset",
    "seed",
    "epochs",
    "retrain_epochs",
    "batch_size",
    "precision",
    "top1",
    "top5",
    "params",
    "madds",
    "search_seconds",
    "retrain_seconds",
    "peak_memory_bytes",
    "fixed_by_threshold",
    "choices",
    "architecture",
    "started",
    "finished",
    "config_hash",
    "protocol",
)
RESULTS = ("top1", "top5", "params", "madds", "search_seconds", "retrain_seconds", "peak_memory_bytes")


@dataclass(frozen=True)
class Problem:
    """A record that could not be used.

    Attributes:
        path: its folder.
        reason: one line.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Collection:
    """What `collect` found.

    Attributes:
        frame: one row a finished run, columns `COLUMNS` and one for every option (`space_options.width`, …).
            Accuracies are fractions, times seconds, memory bytes, params and madds counts; `architecture` is JSON.
        problems: the records that were skipped.
    """

    frame: pd.DataFrame
    problems: list[Problem]


def collect(paths: Iterable[str | Path]) -> Collection:
    """Read any number of records.

    Args:
        paths: records, or folders with records at any depth.

    Returns:
        The finished runs, ordered by path; what is damaged or unfinished is among the problems.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    problems: list[Problem] = []
    seen: set[Path] = set()
    for given in map(Path, paths):
        found = sorted(find_records(given))
        if not found:
            problems.append(Problem(given, "no run record in it" if given.is_dir() else "no such folder"))
        for folder in found:
            if folder.resolve() in seen:
                continue
            seen.add(folder.resolve())
            try:
                rows.append(read_run(folder))
            except NasbenchError as e:
                problems.append(Problem(folder, " ".join(str(e).split())))
            except Exception as e:  # a file of another kind than it should be: whatever that raises
                problems.append(Problem(folder, f"damaged: {type(e).__name__}: {' '.join(str(e).split())}"))
    frame = pd.DataFrame(rows)
    extra = sorted(c for c in frame.columns if c not in COLUMNS)
    return Collection(frame.reindex(columns=[*COLUMNS, *extra]), problems)


def find_records(folder: Path) -> Iterator[Path]:
    """The folders at or below `folder` that are, or were meant to be, records."""
    for root, directories, files in os.walk(folder):
        if any(name in files for name in RECORD_FILES):
            directories.clear()
            yield Path(root)


def read_run(folder: Path) -> dict[str, Any]:
    """One finished record as flat values.

    Raises:
        NasbenchError: the record is damaged or unfinished; the message says which.
    """
    record = Record(folder)
    config = record.config()
    status = record.status()
    if not record.finished("test"):
        state = status.get("state")
        error = f" ({status['error']})" if status.get("error") else ""
        raise NasbenchError(f"unfinished: {state}{error}, stages done: {', '.join(status['stages']) or 'none'}")
    result = record.read_json("result.json")
    missing = [name for name in (*RESULTS, "architecture", "fixed_by_threshold") if name not in result]
    if missing:
        raise NasbenchError(f"result.json is damaged: it has no {', '.join(missing)}")
    for name in RESULTS:
        value = result[name]
        if not (isinstance(value, (int, float)) and not isinstance(value, bool)) and not (
            name == "top5" and value is None
        ):
            raise NasbenchError(f"result.json is damaged: {name} is {value!r}, not a number")
    for name in ("top1", "top5"):
        if result[name] is not None and not 0 <= result[name] <= 1:
            raise NasbenchError(f"result.json is damaged: {name} is {result[name]!r}, not a fraction from 0 to 1")
    if not isinstance(result["architecture"], Mapping):
        raise NasbenchError("result.json is damaged: its architecture is not a mapping")
    data = record.read_json("data.json")
    architecture = dict(result["architecture"])
    settings = config.model_dump(mode="json")
    options = {f"{group}.{name}": _flat(v) for group in OPTIONS for name, v in settings[group].items()}
    environment = record.read_json("environment.json")
    space, strategy = space_options(config), settings["strategy_options"]
    return {
        **{name: result[name] for name in (*RESULTS, "fixed_by_threshold")},
        **{name: settings[name] for name in ("space", "strategy", "dataset", "preset", "seed", "epochs")},
        **{name: settings[name] for name in ("retrain_epochs", "batch_size", "precision", "train_images")},
        "path": str(folder),
        "name": folder.name,
        "variant": variant(config, architecture),
        "order": strategy.get("order", 1) if config.strategy == "darts" else None,
        "choice": choice_name(strategy.get("choice"), architecture) if config.strategy == "fixed" else None,
        "candidates": candidates_name(space.get("candidates")),
        "position": space.get("position"),
        "width": space.get("width"),
        "classes": len(data["class_names"]),
        "image_size": data["image_size"],
        "choices": len(architecture),
        "architecture": json.dumps(architecture, ensure_ascii=False),
        "started": environment.get("started"),
        "finished": status.get("updated"),
        "config_hash": config_hash(config, architecture),
        "protocol": protocol(config),
        **options,
    }


def config_hash(config: RunConfig, architecture: Mapping[str, Any] | None = None) -> str:
    """Ten digits that two runs share when they differ in nothing but seed and machine.

    A `fixed` run is known by its architecture, however that was written down; neither the candidates that it did not
    choose nor the limits of a search that it did not make count. Without `architecture` only searches can be compared.
    """
    settings = config.model_dump(mode="json")
    for name in ("seed", "preset", *MACHINE):
        del settings[name]
    if not searches(config):
        del settings["epochs"], settings["max_trials"]
    settings["space_options"] = space_options(config)
    if config.strategy == "fixed":
        settings["space_options"].pop("candidates", None)
        settings["strategy_options"] = {"architecture": dict(architecture or {})}
    return _digest(settings)


def protocol(config: RunConfig) -> str:
    """Ten digits that runs share when they were trained and tested alike."""
    settings = config.model_dump(mode="json")
    return _digest({name: settings[name] for name in PROTOCOL})


def space_options(config: RunConfig) -> dict[str, Any]:
    """The options of the space, with its defaults under them."""
    return {**SPACE_DEFAULTS.get(config.space, {}), **config.model_dump(mode="json")["space_options"]}


def searches(config: RunConfig) -> bool:
    """Whether the strategy trains anything before the network that is tested."""
    return not (
        config.strategy == "fixed" or (config.strategy == "random" and config.strategy_options.get("trials", 1) == 1)
    )


def variant(config: RunConfig, architecture: Mapping[str, Any]) -> str:
    """A short name for what was trained, e.g. `global`, `se at output`, `pmpl`, `darts order 2 (ablation)`."""
    options, defaults = space_options(config), SPACE_DEFAULTS.get(config.space, {})
    if config.strategy == "fixed":
        parts = [choice_name(config.strategy_options.get("choice"), architecture)]
    else:
        parts = [config.strategy]
        if config.strategy == "darts":
            parts.append(f"order {config.strategy_options.get('order', 1)}")
        if "candidates" in options:
            parts.append(f"({candidates_name(options['candidates'])})")
    others = []
    for name, value in options.items():
        if name == "position" and value != "expanded":
            parts.append(f"at {value}")
        elif name not in ("width", "candidates", "position") and value != defaults.get(name):
            others.append(f"{name} {_flat(value)}")
    text = " ".join(others)
    parts += [text if len(text) <= LONGEST_OPTIONS else f"options {_digest(others)[:4]}"] if text else []
    where = "" if config.space == MAIN_SPACE else f" in {config.space.rpartition(':')[2]}"
    return " ".join(parts) + where


def choice_name(choice: Any, architecture: Mapping[str, Any]) -> str:
    """What a fixed architecture is called: its one candidate, or the name under which it was given."""
    different = {str(value) for value in architecture.values()}
    if len(different) == 1:
        return different.pop()
    if choice is None:
        return "default"
    named = isinstance(choice, str) and NAME.fullmatch(choice)
    return str(choice) if named else f"given {_digest(dict(architecture))[:4]}"


def candidates_name(candidates: Any) -> str | None:
    """A candidate set as one word: its name, or its members joined by `+`; `None` where it was not given."""
    if candidates is None:
        return None
    names = candidates.split(",") if isinstance(candidates, str) else list(candidates)
    return "+".join(str(name).strip() for name in names)


def architecture_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture of a row of the frame."""
    return dict(json.loads(row["architecture"]))


def option(row: Mapping[str, Any], name: str) -> Any:
    """A value of a row of the frame, `None` where the run has none (pandas says NaN)."""
    value = row.get(name)
    return None if value is None or value != value else value


def _flat(value: Any) -> Any:
    scalar = value is None or isinstance(value, (str, int, float, bool))
    return value if scalar else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]
