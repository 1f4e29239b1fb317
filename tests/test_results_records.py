"""Records as rows of a table, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from records import LABELS, write_run

from nasbench.config import Role
from nasbench.errors import RecordError
from nasbench.presets import resolve_config
from nasbench.record import Record
from nasbench.results.collect import collect, setting


def test_a_run_becomes_one_flat_row(tmp_path: Path) -> None:
    write_run(tmp_path, 0.9375, seed=3, space_options={"width": 0.5, "candidates": ["none", "se"]}, architecture="se")
    frame, problems = (found := collect([tmp_path])).frame, found.problems
    assert not problems
    (row,) = frame.to_dict("records")
    assert (row["top1"], row["seed"], row["width"]) == (0.9375, 3, 0.5)
    assert (row["candidates"], row["strategy"], row["label"]) == ("none+se", "fixed", "se")
    assert (row["classes"], row["image_size"], row["dataset"], row["preset"]) == (10, 16, "digits", "quick")
    assert (row["space_options.width"], row["space_options.position"]) == (0.5, "expanded")
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
    status = Record(path).status()
    Record(path).set_status(state="interrupted", stages={"search": status.stages["search"]})


def _failed(path: Path) -> None:
    Record(path).set_status(state="failed", error="out of memory", stages={})


def _status_is_a_list(path: Path) -> None:
    (path / "status.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_no_config, "no config.yaml"),
        (_not_yaml, "not YAML"),
        (_unknown_setting, "colour"),
        (_cut_result, "result.json is damaged"),
        (_wrong_result, "top1: input should be a valid number"),
        (_percent, "top1: input should be less than or equal to 1"),
        (_lacking_result, "top1: field required"),
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


def test_a_folder_without_records_is_named_and_one_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    found = collect([tmp_path])
    assert found.frame.empty
    assert [p.reason for p in found.problems] == ["no run record in it"]
    with pytest.raises(RecordError, match="nowhere does not exist"):
        collect([tmp_path, tmp_path / "nowhere"])


def test_the_setting_is_known_whatever_the_seed_the_machine_and_the_way_it_was_written(tmp_path: Path) -> None:
    def of(architecture: Any = None, found: Any = "none", **settings: Any) -> str:
        strategy = {} if architecture else {"strategy": "pmpl"}
        record = Record(write_run(tmp_path, architecture=architecture or found, **{**strategy, **settings}))
        return setting(record.config(), record.result())

    everywhere = dict.fromkeys(LABELS, "global")
    first = of("global", seed=1)
    assert of(everywhere, device="cuda", workers=3) == first
    assert of("global", space_options={"candidates": "none, global"}) == first
    assert of("global", retrain_epochs=99) != first
    assert of("none") != first
    searched = of()
    assert of(found=everywhere) == searched
    assert of(strategy_options={"eta": 0.5}) != searched
    for spelling in ("none,se", "none, se", ["none", "se"]):
        assert of(space_options={"candidates": spelling}) == of(space_options={"candidates": "none,se"}) != searched
    recipes = [resolve_config({"strategy": "pmpl"}), resolve_config({"architecture": "global"})]
    assert recipes[0].digest(Role.RECIPE) == recipes[1].digest(Role.RECIPE)
