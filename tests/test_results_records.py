"""Reading records, and the helper that writes synthetic ones for the other tests of the results layer."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from nasbench.cli import app
from nasbench.config import resolve_config
from nasbench.record import Record
from nasbench.registry import parameters
from nasbench.results.collect import SPACE_DEFAULTS, collect, config_hash, protocol
from nasbench.results.reproduce import command

LABELS = [f"block{i:02d}.enhancer" for i in range(1, 18)]
NAMES = ("none", "avg3", "global")


def write_run(
    folder: Path,
    top1: float = 0.9,
    *,
    seed: int = 0,
    strategy: str = "fixed",
    architecture: Mapping[str, str] | str = "none",
    started: str | None = None,
    steps: int = 0,
    **settings: Any,
) -> Path:
    """A finished record with invented results; `steps` > 0 also writes a search and learning curves."""
    options = {"choice": architecture} if strategy == "fixed" else {}
    settings["strategy_options"] = {**options, **settings.get("strategy_options", {})}
    record = Record.create(folder, resolve_config({**settings, "strategy": strategy, "seed": seed}))
    if isinstance(architecture, str):
        architecture = dict.fromkeys(LABELS, architecture)
    if started is not None:
        record.write_json("environment.json", {**record.read_json("environment.json"), "started": started})
    record.write_json("data.json", {"class_names": [str(i) for i in range(10)], "image_size": 16})
    record.write_json("architecture.json", architecture)
    pi = {"none": 0.2, "avg3": 0.2, "global": 0.6}
    searched = {"step": steps // 2, "pi": pi, "by": "threshold", "train_loss": 0.5}
    given = {"step": None, "pi": None, "by": strategy, "train_loss": None}
    record.write_json("decisions.json", dict.fromkeys(architecture, searched if steps else given))
    if steps:
        rows = [
            (step, label, name, pi[name] if step > steps // 2 else 1 / 3, int(step > steps // 2))
            for step in range(steps)
            for label in architecture
            for name in NAMES
        ]
        record.write_csv("search.csv", ("step", "label", "candidate", "pi", "fixed"), rows)
    curves = [(stage, e, e, n, 1 - 1 / (e + 1)) for stage, n in CURVES for e in range(1, 4)]
    record.write_csv("metrics.csv", ("stage", "epoch", "step", "name", "value"), curves)
    for stage in ("search", "retrain", "test"):
        record.finish_stage(stage, seconds=1.5, peak_memory_bytes=2**20)
    result = {
        "top1": top1,
        "top5": min(1.0, top1 + 0.05),
        "params": 1000 + sum(map(len, architecture.values())),
        "madds": 2_000_000,
        "search_seconds": 3.5,
        "retrain_seconds": 7.25,
        "peak_memory_bytes": 2**20,
        "fixed_by_threshold": len(architecture) if steps else 0,
        "architecture": architecture,
        "record": str(record.path),
    }
    record.write_json("result.json", result)
    record.set_status(state="finished")
    return record.path


CURVES = (("search", "train_top1"), ("retrain", "train_loss"), ("retrain", "val_top1"))


def test_a_run_becomes_one_flat_row(tmp_path: Path) -> None:
    write_run(tmp_path, 0.9375, seed=3, space_options={"width": 0.5, "candidates": ["none", "se"]}, architecture="se")
    frame, problems = (found := collect([tmp_path])).frame, found.problems
    assert not problems
    (row,) = frame.to_dict("records")
    assert (row["top1"], row["seed"], row["width"], row["position"]) == (0.9375, 3, 0.5, "expanded")
    assert (row["candidates"], row["choice"], row["variant"]) == ("none+se", "se", "se")
    assert (row["classes"], row["image_size"], row["dataset"], row["preset"]) == (10, 16, "digits", "quick")
    assert row["space_options.width"] == 0.5
    assert json.loads(row["architecture"]) == dict.fromkeys(LABELS, "se")


def test_records_at_any_depth_are_found_once(tmp_path: Path) -> None:
    path = write_run(tmp_path / "a" / "b")
    assert len(collect([tmp_path, path, tmp_path / "a"]).frame) == 1


def _no_config(path: Path) -> None:
    (path / "config.yaml").unlink()


def _not_yaml(path: Path) -> None:
    (path / "config.yaml").write_text("a: [")


def _unknown_setting(path: Path) -> None:
    (path / "config.yaml").write_text("colour: green\n")


def _cut_result(path: Path) -> None:
    (path / "result.json").write_text('{"top1": 0.')


def _wrong_result(path: Path) -> None:
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "top1": "high"}))


def _percent(path: Path) -> None:
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "top1": 94.2}))


def _lacking_result(path: Path) -> None:
    (path / "result.json").write_text("{}")


def _unfinished(path: Path) -> None:
    (path / "status.json").write_text('{"state": "interrupted", "stages": {"search": {}}}')


def _failed(path: Path) -> None:
    (path / "status.json").write_text('{"state": "failed", "error": "out of memory", "stages": {}}')


def _status_is_a_list(path: Path) -> None:
    (path / "status.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_config, "no config.yaml"),
        (_not_yaml, "not YAML"),
        (_unknown_setting, "colour"),
        (_cut_result, "result.json is damaged"),
        (_wrong_result, "top1 is 'high'"),
        (_percent, "not a fraction"),
        (_lacking_result, "has no top1"),
        (_unfinished, "unfinished: interrupted, stages done: search"),
        (_failed, "out of memory"),
        (_status_is_a_list, "damaged"),
    ],
)
def test_a_damaged_record_is_named_and_skipped(tmp_path: Path, damage: Any, reason: str) -> None:
    good, bad = write_run(tmp_path), write_run(tmp_path, seed=1)
    damage(bad)
    found = collect([tmp_path])
    assert list(found.frame["path"]) == [str(good)]
    assert [problem.path for problem in found.problems] == [bad]
    assert reason in found.problems[0].reason
    assert "\n" not in found.problems[0].reason


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    found = collect([tmp_path / "nowhere", tmp_path])
    assert found.frame.empty
    assert [p.reason for p in found.problems] == ["no such folder", "no run record in it"]


def test_the_hash_knows_a_configuration_whatever_the_seed_the_machine_and_the_way_it_was_written() -> None:
    everywhere = dict.fromkeys(LABELS, "global")
    base: dict[str, Any] = {"strategy": "fixed", "strategy_options": {"choice": "global"}}
    first = config_hash(resolve_config({**base, "seed": 1, "epochs": 3}), everywhere)
    mapping = {**base, "strategy_options": {"choice": everywhere}, "device": "cuda", "workers": 3}
    assert config_hash(resolve_config(mapping), everywhere) == first
    assert config_hash(resolve_config({**base, "retrain_epochs": 99}), everywhere) != first
    assert config_hash(resolve_config(base), dict.fromkeys(LABELS, "none")) != first
    pmpl = {"strategy": "pmpl"}
    assert config_hash(resolve_config(pmpl)) != config_hash(resolve_config({**pmpl, "strategy_options": {"eta": 0.5}}))
    assert protocol(resolve_config(pmpl)) == protocol(resolve_config(base))


def test_the_defaults_are_those_of_the_space() -> None:
    from nasbench.results.rows import ABLATION
    from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
    from nasbench.spaces.operations.enhancers import CANDIDATE_SETS

    known = parameters(MobileNetV2MetaPooling)
    for name, default in SPACE_DEFAULTS["mbv2_metapool"].items():
        assert known[name].default == default
    assert CANDIDATE_SETS["ablation"] == ABLATION


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"strategy": "pmpl", "strategy_options": {"eta": 1e-05, "rho": 0.3}, "preset": "cifar", "seed": 7},
        {"strategy": "fixed", "strategy_options": {"choice": {"block01.enhancer": "none"}}, "dataset": "cifar10"},
        {"space_options": {"candidates": ["none", "se"], "width": 0.5}, "precision": "bf16", "train_images": 1000},
        {"dataset": "imagefolder", "skip_broken": True, "space_options": {"strides": "original"}},
        {"space_options": {"position": "output"}, "strategy": "random", "batch_size": 32, "image_size": 28},
    ],
)
def test_the_command_of_a_run_gives_its_configuration(given: dict[str, Any]) -> None:
    config = resolve_config(given)
    words = shlex.split(command(config))
    printed = CliRunner().invoke(app, [*words[1:], "--print-config"])
    assert printed.exit_code == 0, printed.output
    assert yaml.safe_load(printed.output) == config.model_dump(mode="json")


def test_several_seeds_are_a_loop() -> None:
    text = command(resolve_config({}), [0, 2])
    assert text.startswith("for seed in 0 2; do nasbench run ")
    assert text.endswith(" --seed $seed; done")
