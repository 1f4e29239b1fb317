"""From what a user gives to complete settings: presets, defaults, spellings, and what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasbench import registry
from nasbench.config import RUN, RunConfig, make_config
from nasbench.errors import OptionError
from nasbench.pipeline import run
from nasbench.presets import PRESETS, complete, resolve_config
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.weights import fill, read_file


def test_a_configuration_made_by_hand_has_no_preset() -> None:
    by_hand = complete(RunConfig())
    assert by_hand.preset is None
    assert (by_hand.epochs, by_hand.strategy_options["fixing"]) == (30, "lead")  # the parts' own defaults
    assert resolve_config({}).preset == "quick"


@pytest.mark.parametrize("given", [{}, {"strategy": "fixed"}, {"space": "menet", "architecture": "228-12x1"}])
def test_what_is_complete_stays_as_it_is(given: dict[str, Any]) -> None:
    config = resolve_config(given)
    assert complete(config) == config
    assert resolve_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("candidates", ["none,se", "none, se", ["none", "se"], ("none", "se")])
def test_spellings_of_candidates_are_one_thing(candidates: Any) -> None:
    config = resolve_config({"space_options": {"candidates": candidates}})
    assert config.space_options["candidates"] == ["none", "se"]


def test_a_default_that_is_given_is_no_difference() -> None:
    usual = resolve_config({"strategy": "darts"})
    said = resolve_config(
        {"strategy": "darts", "strategy_options": {"order": 1}, "space_options": {"reduction": 32, "dropout": 0.2}}
    )
    assert usual == said
    output = {"position": "output"}
    eight = {**output, "attention_reduction": 8}
    assert resolve_config({"space_options": output}) == resolve_config({"space_options": eight})


@given(epochs=st.integers(1, 300), preset=st.sampled_from(sorted(PRESETS)), strategy=st.sampled_from(["pmpl", "darts"]))
def test_a_preset_s_warm_up_leaves_time_to_search(epochs: int, preset: str, strategy: str) -> None:
    config = resolve_config({"preset": preset, "epochs": epochs, "strategy": strategy})
    assert 0 <= config.strategy_options["warmup_epochs"] < epochs
    usual = resolve_config({"preset": preset, "strategy": strategy})
    assert usual.epochs is not None
    share = usual.strategy_options["warmup_epochs"] / usual.epochs
    assert abs(config.strategy_options["warmup_epochs"] - share * epochs) <= 1


def test_where_nothing_is_searched_there_is_no_limit_of_it() -> None:
    for settings in ({"strategy": "fixed"}, {"strategy": "random"}, {"architecture": "none"}):
        config = resolve_config({**settings, "epochs": 7})
        assert (config.epochs, config.max_trials, config.searches) == (None, None, False)
    assert resolve_config({"strategy": "random", "strategy_options": {"trials": 2}}).searches


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"evaluator_options": {"data": {}}}, "evaluator 'classification': data is not given as an option"),
        ({"evaluator_options": {"epochs": 2}}, "epochs is not given"),
        ({"evaluator_options": {"stage": "search"}}, "stage is not given"),
        ({"space_options": {"num_classes": 3}}, "num_classes is not given"),
        ({"space_options": {"image_size": 3}}, "image_size is not given"),
        ({"strategy": "random", "strategy_options": {"seed": 3}}, "seed is not given"),
        ({"dataset_options": {"batch_size": 3}}, "batch_size is not given"),
        ({"evaluator_options": {"learning_rate": float("inf")}}, "learning_rate"),
        ({"strategy_options": {"eta": float("nan")}}, "eta"),
        ({"strategy_options": {"fixing": "lead", "delta": 0.01}}, "'pmpl': delta=0.01 has no effect beside"),
        ({"strategy_options": {"fixing": "lead", "undecided": "largest_pi"}}, "undecided=largest_pi has no effect"),
        ({"strategy_options": {"rho": 2}}, "strategy 'pmpl': rho must be > 0 and < 1, not 2"),
        ({"architecture": "none", "strategy": "pmpl"}, "nothing is left to strategy 'pmpl'"),
        ({"architecture": "{"}, "not JSON"),
        ({"architecture": 3}, "a name or a mapping"),
        ({"strategy": "fixed", "strategy_options": {"chioce": 1}}, "did you mean 'choice'"),
        ({"preset": "quik"}, "did you mean 'quick'"),
        ({"space_options": 3}, "must be a mapping"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        resolve_config(options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_later_presets_and_defaults_do_not_change_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    written = resolve_config({}).model_dump(mode="json")
    strategy = registry.load("strategy", "pmpl")
    changed = {**strategy.presets, "quick": {**strategy.presets["quick"], "zeta": 0.7}}
    monkeypatch.setattr(strategy, "presets", changed)
    monkeypatch.setitem(PRESETS["quick"], "epochs", 99)
    assert resolve_config({}).strategy_options["zeta"] == 0.7
    assert make_config(written).model_dump(mode="json") == written


def test_the_roles_say_what_a_continued_run_shares() -> None:
    config = resolve_config({})
    for changes, differing in (
        ({"seed": 1}, ["seed"]),
        ({"devices": 2}, ["devices"]),
        ({"data_root": "elsewhere", "workers": 3, "download": True}, []),
        ({"preset": "cifar", **PRESETS["quick"], "train_images": None}, ["strategy_options", "space_options"]),
    ):
        other = resolve_config({**config.model_dump(mode="json"), **changes}) if "preset" not in changes else None
        if other is not None:
            assert config.differing(other, *RUN) == differing


def test_weights_that_hardly_fit_are_refused_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    wide = MobileNetV2MetaPooling(width=0.1, num_classes=7, image_size=8)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    same = MobileNetV2MetaPooling(width=0.1, num_classes=10, image_size=8)
    fit = fill(same, read_file(tmp_path / "wide.pth"))
    assert fit.convolutions == 1
    assert fit.used == fit.tensors - 2
    assert str(fit).endswith("left out: classifier.1.weight (10×1280 ≠ 7×1280), classifier.1.bias (10 ≠ 7)")
    other = MobileNetV2MetaPooling(width=1.0, num_classes=7, image_size=8)
    with pytest.raises(OptionError, match=r"fit too little: \d+ % of the convolutions.*--weights-partial"):
        fill(other, read_file(tmp_path / "wide.pth"))
    assert fill(other, read_file(tmp_path / "wide.pth"), partial=True).convolutions < 0.5


def test_a_run_keeps_what_became_of_its_weights(tmp_path: Path) -> None:
    torch.save(MobileNetV2MetaPooling(width=0.05, num_classes=7, image_size=8).state_dict(), tmp_path / "weights.pth")
    tiny = {"space_options": {"width": 0.05}, "image_size": 8, "train_images": 64, "batch_size": 16, "device": "cpu"}
    given = {**tiny, "strategy": "fixed", "retrain_epochs": 1, "weights": str(tmp_path / "weights.pth")}
    record = run(resolve_config(given), tmp_path / "runs")
    facts = record.status().stages["search"].model_extra or {}
    file = tmp_path / "weights.pth"
    assert any(note.startswith(f"weights {file}: ") and "1.weight (10×1280" in note for note in facts["notes"])
    kept = facts["weights"]
    assert kept["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert (kept["name"], kept["tensors"] - kept["used"], len(kept["left_out"])) == (str(file), 2, 2)


@pytest.mark.parametrize(
    ("photos", "subset", "epochs"), [(40, None, 30), (1600, None, 16), (9000, None, 5), (9000, 1000, 20)]
)
def test_of_fewer_photos_finetuning_takes_more_epochs(
    photos: int, subset: int | None, epochs: int, tmp_path: Path
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "list.txt").touch()
        for i in range(photos // 2):
            (tmp_path / name / f"{i}.jpg").touch()
    given = {"dataset": "imagefolder", "preset": "finetune", "data_root": tmp_path, "train_images": subset}
    # 20,000 photos in all; a fifth of the folder is for the test.
    config = resolve_config(given)
    assert config.retrain_epochs == epochs
    assert config.epochs == max(5, min(30, round(10_000 / min(0.8 * photos, subset or photos))))
    for name in ("cat", "dog"):
        (tmp_path / "train").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "train" / name)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "a.jpg").touch()
    of_all = resolve_config(given)
    assert of_all.retrain_epochs == max(5, min(30, round(20_000 / min(photos, subset or photos))))
    assert resolve_config({**given, "retrain_epochs": 7}).retrain_epochs == 7
    assert resolve_config({**given, "data_root": tmp_path / "nowhere"}).retrain_epochs == 10


def test_finetuning_has_a_recipe_of_its_own() -> None:
    config = resolve_config({"dataset": "imagefolder", "preset": "finetune", "dataset_options": {"jitter": 0.3}})
    assert config.dataset_options["crop_scale"] == 0.5
    assert config.dataset_options["jitter"] == 0.3
    recipe = {name: config.evaluator_options[name] for name in ("learning_rate", "label_smoothing", "milestones")}
    assert recipe == {"learning_rate": 0.01, "label_smoothing": 0.1, "milestones": None}
    usual = resolve_config({"dataset": "imagefolder", "preset": "quick"}).dataset_options
    assert (usual["crop_scale"], usual["jitter"]) == (0.08, 0.0)
    assert "crop_scale" not in resolve_config({"preset": "finetune"}).dataset_options
