"""What a run takes is known beforehand: its memory, its time, its disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from sweeping import command
from torch import Tensor, nn

from nasbench import memory, pipeline, rehearsal, resume
from nasbench.config import RunConfig
from nasbench.networks import build_space
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.rehearsal import TRIED, rehearse

TINY = {"image_size": 8, "train_images": 400, "batch_size": 16, "epochs": 5, "retrain_epochs": 4, "device": "cpu"}
GIB = 2**30


class Clock:
    """Time that passes only when a network computes: a second for a training batch, a quarter for any other."""

    now = 0.0


class Ticking(ModelSpace):
    """One choice, between networks of one layer."""

    def __init__(self, num_classes: int = 10, error: str = "") -> None:
        super().__init__()
        layers = {str(k): nn.Conv2d(3, num_classes, k, padding=k // 2) for k in (1, 3)}
        self.layer = LayerChoice(OrderedDict(layers), label="layer")
        self.error = error

    def forward(self, x: Tensor) -> Any:
        Clock.now += 1.0 if self.training else 0.25
        if self.error and len(x) > 4:  # the estimate takes fewer
            raise torch.OutOfMemoryError(self.error)
        return self.layer(x).mean((2, 3))


def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `Clock` measure the stages."""
    for module in (pipeline, rehearsal, resume):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: Clock.now))


def config(**changes: Any) -> RunConfig:
    return resolve_config({**TINY, "space": f"{__name__}:Ticking", **changes})


@given(st.integers(0, 500))
def test_the_epochs_that_are_tried_stand_for_all(epochs: int) -> None:
    shared = rehearsal._shared(epochs)
    assert sum(shared) == epochs
    assert len(shared) == min(epochs, TRIED)
    assert all(shared)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "darts", "strategy_options": {"warmup_epochs": 2}},
        {"strategy": "darts", "strategy_options": {}},
        {"strategy": "random"},
        {"strategy": "random", "strategy_options": {"trials": 3}},
        {"strategy": "fixed", "architecture": "3"},
    ],
    ids=lambda changes: f"{changes['strategy']}{len(changes.get('strategy_options', {}))}",
)
def test_the_time_is_that_of_the_run(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_time(monkeypatch)
    foreseen = rehearse(config(**changes))
    record = run(config(**changes), tmp_path)
    stages = record.status().stages
    assert {s: foreseen.seconds.get(s, 0.0) for s in stages} == pytest.approx({s: f.seconds for s, f in stages.items()})
    assert foreseen.seconds["retrain"] > 4 * 300 / 16


def test_networks_that_are_trained_one_by_one_count_each(monkeypatch: pytest.MonkeyPatch) -> None:
    own_time(monkeypatch)
    options: dict[str, Any] = {"strategy": "nni.nas.strategy:RegularizedEvolution", "strategy_options": {}}
    one, seven = (rehearse(config(**options, max_trials=n)) for n in (1, 7))
    assert seven.seconds["search"] == pytest.approx(7 * one.seconds["search"])
    assert (one.networks, seven.networks) == (1, 7)


def test_what_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1)
    monkeypatch.setattr(rehearsal, "run_stages", lambda *args: pytest.fail("it was tried"))
    arguments = ["run", "--dataset", "digits", "--preset", "quick", "--dry-run"]
    assert command(arguments, monkeypatch) == 0
    assert "it does not fit, so nothing was tried: a smaller --batch-size" in capsys.readouterr().out


def test_a_run_that_does_not_fit_says_so_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1)
    run(config(strategy="darts", epochs=1, retrain_epochs=1), tmp_path)
    assert "warning: this takes about" in capsys.readouterr().err


def test_a_search_whose_memory_nobody_can_tell_is_tried() -> None:
    options: dict[str, Any] = {"strategy": "nni.nas.strategy:RandomOneShot", "strategy_options": {}}
    assert rehearse(config(**options)).seconds["search"] > 0


def test_memory_that_runs_out_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--space", f"{__name__}:Ticking", "-p", "error=CUDA out of memory. Tried to allocate 2 GiB"]
    small = ["--image-size", "8", "--train-images", "96", "--device", "cpu", "--preset", "quick"]
    assert command(["run", *settings, *small, "--strategy", "darts", "--out", str(tmp_path)], monkeypatch) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "error: out of memory (CUDA out of memory. Tried to allocate 2 GiB): a smaller --batch-size or --image-size, a "
        "narrower space or fewer candidates take less"
    )


def test_a_rehearsal_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert rehearse(config(strategy="darts")).disk_bytes > 0
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_of_memory_changes_nothing() -> None:
    settings = resolve_config({"space": "mbv2_metapool", "space_options": {"width": 0.25}, "dataset": "digits"})
    space = build_space(settings, 10, 32)
    before = {name: value.clone() for name, value in space.state_dict().items()}
    drawn = torch.get_rng_state()
    memory.of_training(space, 32, 64)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in space.state_dict().items())
    assert all(p.grad is None for p in space.parameters())


MEASURE = """
import json, sys
from nasbench import memory, pipeline, rehearsal, resume
from nasbench.presets import resolve_config
config = resolve_config(json.loads(sys.argv[1]))
real, memory.free_bytes = memory.free_bytes, lambda: 1  # so that it is estimated with care
search = pipeline.prepare(config)
estimated, _ = pipeline.memory_of(config, search)
memory.free_bytes = real
del search
print(json.dumps([estimated, rehearsal.rehearse(config).memory_bytes]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"space": "mbv2_metapool", "strategy": "pmpl", "image_size": 64, "space_options": {"width": 0.5}},
        {"space": "mbv2_metapool", "strategy": "darts", "image_size": 96},
        {"space": "cheap_resnet", "strategy": "darts", "image_size": 32},
        {"space": "menet", "strategy": "darts", "image_size": 64},
        {"space": "mobile", "strategy": "darts", "image_size": 32},
    ],
    ids=lambda settings: settings["space"],
)
def test_the_memory_of_a_supernet_is_foreseen_within_a_quarter(settings: dict[str, Any]) -> None:
    told = json.dumps({"dataset": "digits", "preset": "quick", "retrain_epochs": 1, "device": "cpu", **settings})
    done = subprocess.run([sys.executable, "-c", MEASURE, told], capture_output=True, text=True, check=True)
    estimated, measured = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 < estimated / measured < 1.25, (estimated / GIB, measured / GIB)
