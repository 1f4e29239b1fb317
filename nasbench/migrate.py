import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nasbench import packs
from nasbench.config import KINDS, RunConfig, make_config
from nasbench.errors import NasbenchError, RecordError
from nasbench.facts import SCHEMA, Decision, Result, Status
from nasbench.files import write_atomic
from nasbench.gained import with_gained
from nasbench.record import ARCHITECTURE, CONFIG, DECISIONS, RESULT, STATUS, Record, find_records

# What version 1 did not write down: the defaults of that time, which stay here as they were.
_EIGHT = ["none", "avg3", "avg5", "avg7", "max3", "max5", "max7", "global"]
_SETS = {"full": _EIGHT, "ablation": ["none", "avg3", "global"]}
_METAPOOL = {"width": 1.0, "candidates": "full", "strides": "fit"}
_SUPERNET = {"eta": 3e-4, "zeta": None, "warmup_epochs": 0, "epochs": None, "meta_fraction": None}
_TRAINING = {
    **{"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 4e-5, "label_smoothing": 0.0, "gradient_clip": None},
    **{"milestones": None, "ema": None, "channels_last": True},
}
_TEACHER = {"students": 4, "teacher": "fusion", "temperature": 4.0, "distillation_weight": 1.0, "teacher_weight": 1.0}
DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "space": {
        "cheap_resnet": {"depth": 56, "width": 1.0, "strides": "fit"},
        "mbv2_metapool": {
            **_METAPOOL,
            **{"position": "expanded", "reduction": 32, "dropout": 0.2, "downsampling": "stride"},
            **{"depthwise": "conv", "attention_reduction": None},
        },
        "menet": {"model": "108-8x1", **_METAPOOL, "groups": [1, 2, 3, 4, 8], "reduction": 32},
        "mobilenetv3_metapool": {"model": "large", **_METAPOOL, "reduction": 32, "dropout": 0.2},
        "shufflenetv2_metapool": {**_METAPOOL, "reduction": 32},
    },
    "strategy": {
        "pmpl": {"rho": 0.2, **_SUPERNET},
        "darts": {"order": 1, **_SUPERNET},
        "random": {"trials": 1},
    },
    "evaluator": {"classification": _TRAINING, "online_distillation": {**_TEACHER, **_TRAINING}},
    "dataset": {},
}
_REASONS = {"fixed": "given", "random": "drawn at random"}


def migrate(folder: Path) -> list[Path]:
    """Bring records of earlier versions at or below a folder up to date, in place; returns those, or RecordError."""
    changed = []
    for path in find_records(folder):
        if packs.is_inside(path):
            continue
        try:
            status = json.loads((path / STATUS).read_text(encoding="utf-8"))
            version = status.get("schema_version", 1)
        except (OSError, ValueError, AttributeError) as e:
            raise RecordError(f"{path / STATUS} is damaged: {e}") from e
        if version == SCHEMA:
            continue
        if version != 1:
            raise RecordError(f"{path} was written by a newer nasbench (version {version} of the record)")
        try:
            _from_1(path, status)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as e:
            raise RecordError(f"{path} is damaged and cannot be brought up to date: {' '.join(str(e).split())}") from e
        changed.append(path)
    return changed


def _from_1(path: Path, status: Mapping[str, Any]) -> None:
    architecture = _read(path / ARCHITECTURE)
    settings = yaml.safe_load((path / CONFIG).read_text(encoding="utf-8"))
    # What was interrupted on the way has files of both versions.
    config = with_gained(make_config(settings) if "architecture" in settings else _config_1(settings, architecture))
    files: dict[str, Any] = {}
    names, label = _called(config, architecture) if architecture else ([], "")
    decisions = _read(path / DECISIONS)
    numbers: dict[str, Any] = {}
    if decisions is not None:
        known = {"threshold", "limit", *_REASONS.values()}
        for decision in decisions.values():
            by = decision["by"]
            if by not in known and not by.startswith("found by "):
                decision["by"] = _REASONS.get(by, f"found by {by}")
        decisions = {label: Decision(**decision) for label, decision in decisions.items()}
        reasons = [d.by for d in decisions.values()]
        if set(reasons) <= {"threshold", "limit"}:
            numbers = {"fixed_by_threshold": reasons.count("threshold")}
        files[DECISIONS] = decisions
    stages = {
        stage: {k: v for k, v in facts.items() if k not in ("dataset", "class_names", "image_size", "mean", "std")}
        for stage, facts in status.get("stages", {}).items()
    }
    if "search" in stages:
        stages["search"] |= {"names": names, "search": numbers}
    result = _read(path / RESULT)
    if result is not None and "label" not in result:
        del result["fixed_by_threshold"]
        files[RESULT] = Result(**result, search=numbers, names=names, label=label)
    files[STATUS] = Status(**{**status, "stages": stages, "schema_version": SCHEMA})
    write_atomic(path / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    record = Record(path)
    for name, content in files.items():  # the status, which says the version, comes last
        record.write_json(name, content)


def _config_1(settings: Mapping[str, Any], architecture: Mapping[str, Any] | None) -> RunConfig:
    new = {k: v for k, v in settings.items() if v is not None}
    new["dataset_options"] = {"meta_fraction": 0.2}
    if new["strategy"] == "fixed":
        choice = new["strategy_options"].get("choice")
        name = choice if isinstance(choice, str) and not {"/", "."} & set(choice) else None
        if name is None and architecture is None:
            raise KeyError("the architecture that was given is lost")
        new |= {"strategy": None, "strategy_options": {}, "architecture": name or dict(architecture or {})}
    for kind in KINDS:
        if new.get(kind) is not None:
            defaults, given = DEFAULTS[kind].get(new[kind], {}), new.get(f"{kind}_options") or {}
            # An option of 1 and one of 1.0 were the same, and so they shall be written.
            plain = {k: float(v) if type(v) is int and type(defaults.get(k)) is float else v for k, v in given.items()}
            new[f"{kind}_options"] = {**defaults, **plain}
    space = new["space_options"]
    if "candidates" in space:
        space["candidates"] = _candidates_1(space["candidates"], new["space"] == "menet")
    if space.get("attention_reduction", 0) is None:
        space["attention_reduction"] = {"expanded": 24, "output": 8}[space["position"]]
    if new["strategy"] is None or (new["strategy"] == "random" and new["strategy_options"]["trials"] == 1):
        new |= {"epochs": None, "max_trials": None}
    return make_config(new)


def _candidates_1(given: Any, gated: bool) -> list[str]:
    if isinstance(given, str) and given in _SETS:
        none, *others = _SETS[given]
        return [none, *(["me"] if gated else []), *others]
    return [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)


def _called(config: RunConfig, architecture: dict[str, Any]) -> tuple[list[str], str]:
    """Names and label of a record, see `Result`; of a space that is not registered, only what can be seen."""
    from nasbench.networks import build_space, label_of, names_of, native
    from nasbench.quiet import quiet_libraries
    from nasbench.registry import trusting

    try:
        with quiet_libraries(), trusting(False):
            names = names_of(build_space(config, *native(config)), architecture)
            return names, label_of(config, architecture, names)
    except NasbenchError:
        different = {str(value) for value in architecture.values()}
        names = list(different) if len(different) == 1 else []
        return names, config.strategy or next(iter(names), "given")


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
