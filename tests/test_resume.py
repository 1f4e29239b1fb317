"""An interrupted run goes on as if it had not been interrupted, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from nasbench.cli import app as command
from nasbench.commands.shared import seconds
from nasbench.data.folders import ImageFolder
from nasbench.errors import OptionError, RecordError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import Record
from nasbench.stages import RecordIO
from nasbench.studies.plan import held_out
from nasbench.watch import Watcher

TINY: dict[str, Any] = {
    "dataset": "digits",
    "preset": "quick",
    "device": "cpu",
    "space_options": {"width": 0.05},
    "train_images": 160,
    "batch_size": 16,
    "epochs": 4,
    "retrain_epochs": 3,
}
SAME = ("architecture.json", "decisions.json", "search.csv", "metrics.csv", "model.safetensors", "confusion.csv")


class LostPowerError(Exception):
    """The process ends here."""


def interrupted(settings: dict[str, Any], folder: Path, stage: str, step: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of a run that ended in a stage, after so many steps."""
    step_done = Watcher.on_train_batch_end

    def until(self: Any, *arguments: Any) -> None:
        step_done(self, *arguments)
        if (self._name, self._steps) == (stage, step):
            raise LostPowerError

    with monkeypatch.context() as patched:
        patched.setattr(Watcher, "on_train_batch_end", until)
        with pytest.raises(LostPowerError):
            run(resolve_config(settings), folder)
    (record,) = folder.iterdir()
    return record


def assert_alike(one: Path, other: Path) -> None:
    for name in SAME:
        assert (one / name).exists() == (other / name).exists(), name
        if (one / name).exists():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = Record(one).result(), Record(other).result()
    machine = {"search_seconds": 0.0, "retrain_seconds": 0.0, "peak_memory_bytes": 0, "record": ""}
    assert first.model_copy(update=machine) == second.model_copy(update=machine)


EVIDENCE = {"fixing": "evidence", "warmup_epochs": 1}
LEAD = {"fixing": "lead", "eta": 0.1, "rho": 0.05, "warmup_epochs": 1}


@pytest.mark.parametrize(
    ("settings", "stage", "step"),
    [
        ({"strategy_options": LEAD}, "search", 27),  # in the last of four epochs of eight steps
        ({"strategy_options": EVIDENCE}, "search", 20),
        ({"strategy_options": {**EVIDENCE, "supernets": 2}}, "search", 19),
        ({"strategy_options": EVIDENCE, "epochs": 10}, "search", 72),  # of 80
        ({"strategy": "darts", "strategy_options": {"order": 2}}, "search", 9),
        ({"strategy": "darts_pt", "strategy_options": {"warmup_epochs": 0}}, "search", 27),  # some layers are decided
        *(({"strategy": name}, "search", 20) for name in ("gdas", "drnas", "proxyless")),
        *(({"strategy": name, "strategy_options": {"networks": 5}}, "search", 20) for name in ("spos", "enas")),
        ({"architecture": "global", "evaluator_options": {"ema": 0.9}}, "retrain", 25),
        ({"architecture": "none", "evaluator_options": {"warmup_epochs": 2}}, "retrain", 11),
        ({"architecture": "none", "evaluator": "online_distillation"}, "retrain", 11),
    ],
)
def test_what_goes_on_equals_what_was_never_interrupted(
    settings: dict[str, Any], stage: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TINY | settings
    broken = interrupted(settings, tmp_path / "broken", stage, step, monkeypatch)
    assert len(list((broken / "checkpoints").glob(f"{stage}-*.ckpt"))) == 1
    trained: list[int] = []
    step_done = Watcher.on_train_batch_end

    def counted(self: Any, *arguments: Any) -> None:
        step_done(self, *arguments)
        trained.extend([1] if self._name == stage else [])

    monkeypatch.setattr(Watcher, "on_train_batch_end", counted)
    whole = run(resolve_config(settings), tmp_path / "whole").path
    steps = len(trained)
    run(resolve_config(settings), broken)
    assert_alike(whole, broken)
    epoch = steps // settings["epochs" if stage == "search" else "retrain_epochs"]
    left = len(trained) - steps
    assert left == steps - (step - 1) // epoch * epoch  # not all over again
    assert left <= 0.2 * steps or step < 0.9 * steps or stage == "retrain"
    assert not list((broken / "checkpoints").glob("*-*.ckpt"))


def test_a_training_that_ends_early_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Steps that get too long: the held-out loss rises from the first epoch on.
    options = {"early_stopping": 2, "learning_rate": 2.0, "warmup_epochs": 5, "ema": 0.5}
    settings = TINY | {"architecture": "none", "retrain_epochs": 6, "evaluator_options": options}
    whole = run(resolve_config(settings), tmp_path / "whole")
    facts = whole.status().stages["retrain"].model_extra or {}
    assert (facts["epochs"], facts["best_epoch"]) == (3, 1)
    steps = int(whole.curves("metrics.csv")[-1]["step"]) // 3
    broken = interrupted(settings, tmp_path / "broken", "retrain", 2 * steps + 1, monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(RecordIO, "tested", lost)
        with pytest.raises(LostPowerError):
            run(resolve_config(settings), broken)
    again = run(resolve_config(settings), broken)
    assert_alike(whole.path, broken)
    assert facts.items() <= (again.status().stages["retrain"].model_extra or {}).items()
    (accuracy,) = [r["value"] for r in whole.curves("metrics.csv") if (r["name"], r["epoch"]) == ("val_top1", "1")]
    assert held_out(whole) == float(accuracy)
    told = CliRunner().invoke(command, ["show", str(broken)]).output
    assert "trained for 3 of 6 epochs; the weights are those of epoch 1" in told


def test_of_photos_that_other_processes_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(30):
            pixels = drawn.integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{number}.png")
    settings = {"dataset": "imagefolder", "data_root": tmp_path / "photos", "image_size": 16, "batch_size": 8}
    given = {"architecture": "none", "workers": 2, "retrain_epochs": 3, "preset": "quick", "device": "cpu"}
    settings |= {**given, "space_options": {"width": 0.05}}
    whole = run(resolve_config(settings), tmp_path / "whole").path
    broken = interrupted(settings, tmp_path / "broken", "retrain", 11, monkeypatch)
    run(resolve_config(settings), broken)
    assert_alike(whole, broken)
    seen = []
    for workers in (0, 2):
        data = ImageFolder(data_root=tmp_path / "photos", image_size=16, batch_size=8, workers=workers)
        data.setup()
        torch.manual_seed(workers)
        seen.append(torch.cat([pictures for pictures, _ in data.train_dataloader()]))
    assert seen[0].equal(seen[1])  # whoever reads them


def test_a_damaged_checkpoint_is_named_and_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TINY | {"architecture": "none"}
    broken = interrupted(settings, tmp_path, "retrain", 10, monkeypatch)
    (kept,) = (broken / "checkpoints").glob("retrain-*.ckpt")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(RecordError, match="is damaged: remove it, and the stage retrain begins anew"):
        run(resolve_config(settings), broken)
    kept.unlink()
    assert run(resolve_config(settings), broken).status().state == "finished"


def test_a_run_ends_in_time_and_goes_on_by_its_record(tmp_path: Path) -> None:
    settings = TINY | {"architecture": "none", "retrain_epochs": 5}
    with pytest.raises(KeyboardInterrupt):
        run(resolve_config(settings), tmp_path, stop_after=1e-3)
    (record,) = tmp_path.iterdir()
    assert Record(record).status().state == "interrupted"
    assert [row["epoch"] for row in Record(record).curves("metrics.csv")][-1] == "1"
    told = CliRunner().invoke(command, ["resume", str(record)])
    assert told.exit_code == 0
    assert [row["epoch"] for row in Record(record).curves("metrics.csv")][-1] == "5"
    assert Record(record).status().state == "finished"


@pytest.mark.parametrize("time", ["", "5", "-1m", "m", "nanm", "infh", "5 minutes"])
def test_what_is_no_time_is_refused(time: str) -> None:
    with pytest.raises(OptionError, match="is no time"):
        seconds(time)
    assert (seconds(None), seconds("90s"), seconds("1.5h")) == (None, 90, 5400)


EVOLUTION = {"population_size": 2, "sample_size": 2, "mutation_prob": 0.2}


@pytest.mark.parametrize(
    ("settings", "networks"),
    [
        ({"strategy": "random", "strategy_options": {"trials": 4}}, 4),
        ({"strategy": "nni.nas.strategy:RegularizedEvolution", "strategy_options": EVOLUTION, "max_trials": 4}, 4),
        ({"strategy": "successive_halving", "strategy_options": {"trials": 4, "reduction": 2}}, 6),
    ],
)
def test_no_network_that_a_search_has_trained_is_trained_again(
    settings: dict[str, Any], networks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TINY | settings | {"epochs": 2, "retrain_epochs": 1}
    whole = run(resolve_config(settings), tmp_path / "whole").path
    broken = tmp_path / "broken"
    trained: list[str] = []
    announced = Watcher.on_train_start

    def until_third(self: Any, *arguments: Any) -> None:
        announced(self, *arguments)
        trained.append(self._name)
        if len(trained) == 3:
            raise LostPowerError

    monkeypatch.setattr(Watcher, "on_train_start", until_third)
    with pytest.raises(BaseException):  # noqa: B017, PT011  (NNI makes another of it)
        run(resolve_config(settings), broken)
    (record,) = broken.iterdir()
    run(resolve_config(settings), record)
    assert trained == ["search"] * (networks + 1) + ["retrain"]
    assert_alike(whole, record)


@pytest.mark.parametrize("evaluator", ["classification", "online_distillation"])
def test_what_was_killed_between_training_and_test_is_only_tested(
    evaluator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TINY | {"architecture": "none", "evaluator": evaluator}
    whole = run(resolve_config(settings), tmp_path / "whole").path
    with monkeypatch.context() as patched:
        patched.setattr(RecordIO, "tested", lost)
        with pytest.raises(LostPowerError):
            run(resolve_config(settings), tmp_path / "broken")
    (broken,) = (tmp_path / "broken").iterdir()
    assert list(Record(broken).status().stages) == ["search", "retrain"]
    with monkeypatch.context() as patched:
        patched.setattr(Watcher, "on_train_start", lost)
        run(resolve_config(settings), broken)
    assert_alike(whole, broken)
    assert {path.name for path in (broken / "checkpoints").iterdir()} == {"best.ckpt"}


def lost(*arguments: Any) -> None:
    raise LostPowerError


@pytest.mark.slow
def test_two_processes_go_on_with_their_own_random_numbers(tmp_path: Path) -> None:
    settings = TINY | {"architecture": "none", "devices": 2}
    whole = run(resolve_config(settings), tmp_path / "whole").path
    with pytest.raises(KeyboardInterrupt):
        run(resolve_config(settings), tmp_path / "broken", stop_after=1e-3)  # after the first epoch
    (broken,) = (tmp_path / "broken").iterdir()
    assert list((broken / "checkpoints").glob("retrain-*.ckpt"))
    run(resolve_config(settings), broken)
    assert_alike(whole, broken)
