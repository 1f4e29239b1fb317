"""Records of version 1, as they were written then, brought up to date."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from records import LABELS, NAMES, PAPER, write_run

from nasbench import record as records
from nasbench.config import Role
from nasbench.errors import RecordError
from nasbench.migrate import migrate
from nasbench.record import Record
from nasbench.results.collect import collect, setting

FOUND = {label: NAMES[i % 3] for i, label in enumerate(LABELS)}
PATIENT = {"eta": 0.1, "rho": 0.2, "warmup_epochs": 3}  # what preset quick said of PMPL
DATA = {"dataset": "digits", "class_names": [str(i) for i in range(10)], "image_size": 16, "mean": [0.3], "std": [0.4]}


def write_old(
    folder: Path, architecture: dict[str, str], by: str, space: dict[str, Any] | None = None, **settings: Any
) -> Path:
    """A finished record of version 1: only what was given or preset, `fixed` a strategy, no version."""
    folder.mkdir(parents=True)
    config = {
        "space": "mbv2_metapool",
        "space_options": {"width": 0.25, "candidates": "ablation", **(space or {})},
        "strategy_options": {},
        "evaluator": "classification",
        "evaluator_options": {"learning_rate": 0.05},
        "dataset": "digits",
        "data_root": "data",
        "download": False,
        "image_size": None,
        "train_images": None,
        "batch_size": 64,
        "workers": 0,
        "preset": "quick",
        "epochs": 12,
        "retrain_epochs": 15,
        "max_trials": 20,
        "seed": 1,
        "device": "auto",
        "precision": "32",
        "weights": None,
        **settings,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    searched = {"step": 2, "pi": {"none": 0.2, "avg3": 0.2, "global": 0.6}, "by": by, "train_loss": 0.5}
    why = searched if by in ("threshold", "limit") else {"step": None, "pi": None, "by": by, "train_loss": None}
    took = {"seconds": 1.5, "peak_memory_bytes": 2**20}
    files: dict[str, Any] = {
        "architecture.json": architecture,
        "decisions.json": dict.fromkeys(architecture, why),
        "data.json": {**DATA, "train_images": 90, "held_out_images": 10},
        "environment.json": {"started": "2026-01-01", "packages": {"torch": "2"}},
        "status.json": {
            "stages": {
                "search": {**took, **DATA, "train_images": 80, "meta_images": 20},
                "retrain": {**took, **DATA, "train_images": 90, "held_out_images": 10},
                "test": {**took, "loss": 0.25},
            },
            "error": None,
            "state": "finished",
            "updated": "2026-01-02",
        },
        "result.json": {
            **{
                "top1": 0.9,
                "top5": 0.9 + 0.05,
                "params": 1000 + sum(map(len, architecture.values())),
                "madds": 2_000_000,
            },
            **{"search_seconds": 3.5, "retrain_seconds": 7.25, "peak_memory_bytes": 2**20},
            "fixed_by_threshold": len(architecture) if by == "threshold" else 0,
            "architecture": architecture,
            "record": str(folder),
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def everywhere(name: str) -> dict[str, str]:
    return dict.fromkeys(LABELS, name)


ABLATION: dict[str, Any] = {"candidates": "ablation"}
OUTPUT: dict[str, Any] = {"candidates": "none,se", "position": "output"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one candidate": (
        {
            "architecture": everywhere("avg3"),
            "by": "fixed",
            "strategy": "fixed",
            "strategy_options": {"choice": "local"},
        },
        {"architecture": "local", "space_options": ABLATION},
    ),
    "named": (
        {"architecture": PAPER, "by": "fixed", "strategy": "fixed", "strategy_options": {"choice": "paper"}},
        {"architecture": "paper", "space_options": ABLATION},
    ),
    "a mapping": (
        {"architecture": FOUND, "by": "fixed", "strategy": "fixed", "strategy_options": {"choice": FOUND}},
        {"architecture": FOUND, "space_options": ABLATION},
    ),
    "a file": (
        {"architecture": FOUND, "by": "fixed", "strategy": "fixed", "strategy_options": {"choice": "../found.json"}},
        {"architecture": FOUND, "space_options": ABLATION},
    ),
    "attention": (
        {
            **{"architecture": everywhere("se"), "by": "fixed", "space": OUTPUT},
            **{"strategy": "fixed", "strategy_options": {"choice": "se"}},
        },
        {"architecture": "se", "space_options": OUTPUT},
    ),
    "whole numbers": (
        {
            **{"architecture": everywhere("none"), "by": "fixed", "space": {"width": 1, "dropout": 0}},
            **{"strategy": "fixed", "strategy_options": {"choice": "none"}},
        },
        {"architecture": "none", "space_options": {**ABLATION, "width": 1, "dropout": 0}},
    ),
    "PMPL": (
        {"architecture": FOUND, "by": "threshold", "strategy": "pmpl", "strategy_options": PATIENT},
        {
            **{"strategy": "pmpl", "architecture": FOUND, "steps": 4, "space_options": ABLATION},
            "strategy_options": {**PATIENT, "fixing": "lead"},
        },
    ),
    "DARTS": (
        {
            **{"architecture": FOUND, "by": "limit", "strategy": "darts"},
            "strategy_options": {"eta": 0.1, "warmup_epochs": 3, "order": 2},
        },
        {"strategy": "darts", "strategy_options": {"order": 2}, "architecture": FOUND, "space_options": ABLATION},
    ),
    "random": (
        {"architecture": FOUND, "by": "random", "strategy": "random"},
        {"strategy": "random", "architecture": FOUND, "space_options": ABLATION},
    ),
}
REASONS = {"fixed": "given", "random": "drawn at random"}


@pytest.mark.parametrize("case", CASES)
def test_an_old_record_means_what_it_meant(case: str, tmp_path: Path) -> None:
    old, new = CASES[case]
    path, same = write_old(tmp_path / "old", **old), Record(write_run(tmp_path / "new", seed=1, **new))
    with pytest.raises(RecordError, match="nasbench migrate"):
        Record(path).config()
    assert migrate(tmp_path) == [path]
    record = Record(path)
    roles = set(Role) - {Role.PLACE}
    assert record.config().differing(same.config(), *roles) == []
    assert record.config().data_root == Path("data")
    result = record.result().model_copy(update={"names": [], "record": "", "search": {}})
    assert result == same.result().model_copy(update={"names": [], "record": "", "search": {}})
    assert setting(record.config(), record.result()) == setting(same.config(), same.result())
    assert {d.by for d in record.decisions().values()} == {REASONS.get(old["by"], old["by"])}
    assert record.result().search == {"threshold": {"fixed_by_threshold": 17}, "limit": {"fixed_by_threshold": 0}}.get(
        old["by"], {}
    )
    assert record.data().model_extra == {"train_images": 90, "held_out_images": 10}
    stages = record.status().stages
    assert {name: stage.seconds for name, stage in stages.items()} == dict.fromkeys(records.STAGES, 1.5)
    assert (stages["retrain"].model_extra, stages["test"].model_extra) == (
        {"train_images": 90, "held_out_images": 10},
        {"loss": 0.25},
    )
    assert not collect([tmp_path]).problems


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    for number, (old, _) in enumerate(CASES.values()):
        write_old(tmp_path / str(number), **old)
    assert len(migrate(tmp_path)) == len(CASES)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert migrate(tmp_path) == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (old, _) in enumerate(CASES.values()):
        write_old(tmp_path / "cut" / str(number), **old)
        write_old(tmp_path / "whole" / str(number), **old)
        for name in (records.DECISIONS, records.RESULT, records.STATUS):
            with monkeypatch.context() as patch:
                write = Record.write_json

                def stop(record: Record, file: str, content: Any, name: str = name, write: Any = write) -> None:
                    if file == name:
                        raise OSError("no space left on device")
                    write(record, file, content)

                patch.setattr(Record, "write_json", stop)
                with pytest.raises(RecordError, match="no space left"):
                    migrate(tmp_path / "cut" / str(number))
    migrate(tmp_path)
    for path in (tmp_path / "whole").rglob("*.*"):
        other = tmp_path / "cut" / path.relative_to(tmp_path / "whole")
        assert other.read_text().replace("/cut/", "/whole/") == path.read_text()


@pytest.mark.parametrize("spelling", ["none,se", "none, se", ["none", "se"], " none ,se"])
def test_every_spelling_of_candidates_is_one_setting(spelling: Any, tmp_path: Path) -> None:
    old = {"architecture": everywhere("se"), "by": "threshold", "strategy": "pmpl", "strategy_options": PATIENT}
    path = write_old(tmp_path / "old", space={"candidates": spelling}, **old)
    migrate(tmp_path)
    new = write_run(
        tmp_path,
        strategy="pmpl",
        strategy_options=PATIENT,
        architecture=everywhere("se"),
        seed=7,
        space_options={"candidates": "none,se"},
    )
    found, expected = ({setting(r.config(), r.result())} for r in map(Record, (path, new)))
    assert found == expected


def test_what_is_damaged_or_newer_is_named(tmp_path: Path) -> None:
    path = write_old(tmp_path / "old", **CASES["random"][0])
    (path / "result.json").write_text("[]")
    with pytest.raises(RecordError, match=f"{path} is damaged and cannot be brought up to date"):
        migrate(tmp_path)
    (path / "status.json").write_text('{"schema_version": 3}')
    with pytest.raises(RecordError, match=rf"{path} was written by a newer nasbench \(version 3"):
        migrate(tmp_path)
