"""Ours inside NNI, and NNI's inside ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nni.nas.strategy
import pytest
import torch
from nni.nas.experiment import NasExperiment
from nni.nas.experiment.config import NasExperimentConfig

from nasbench.architecture import resolve
from nasbench.evaluators.classification import Classification
from nasbench.nni_bridge import log
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.strategies.pmpl import PMPL
from nasbench.strategies.random import Random

TINY: dict[str, Any] = {"image_size": 8, "train_images": 64, "batch_size": 16, "epochs": 1, "retrain_epochs": 1}


def space() -> MobileNetV2MetaPooling:
    return MobileNetV2MetaPooling(width=0.05, image_size=8, num_classes=10)


def evaluator(stage: str = "search") -> Any:
    data = {"image_size": 8, "train_images": 64, "batch_size": 16}
    return Classification(dataset="digits", data=data, stage=stage, epochs=1, device="cpu")


@pytest.fixture
def _quiet() -> Any:
    log.silence()


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("strategy", [PMPL(eta=0.1), nni.nas.strategy.DARTS()], ids=["pmpl", "nni-darts"])
def test_one_shot_in_a_plain_nas_experiment(strategy: Any) -> None:
    experiment = NasExperiment(space(), evaluator(), strategy)
    experiment.run()
    (found,) = experiment.export_top_models(formatter="dict")
    experiment.stop()
    assert resolve(space(), found)


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize(("strategy", "count"), [(Random(seed=3), 1), (Random(trials=2), 2)])
def test_picking_strategies_in_a_plain_nas_experiment(strategy: Any, count: int) -> None:
    config = NasExperimentConfig("sequential", "simplified", "local")
    experiment = NasExperiment(space(), evaluator("retrain"), strategy, config)
    experiment.run()
    found = experiment.export_top_models(count, formatter="dict")
    experiment.stop()
    assert len(found) == count
    assert all(resolve(space(), a) for a in found)


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
def test_regularized_evolution_in_a_real_multi_trial_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # trials run in the current folder
    strategy = nni.nas.strategy.RegularizedEvolution(population_size=2, sample_size=2)
    experiment = NasExperiment(space(), evaluator("retrain"), strategy)
    experiment.config.max_trial_number = 3
    experiment.config.trial_concurrency = 1
    experiment.config.experiment_working_directory = tmp_path / "experiments"
    try:
        experiment.run(port=18000 + os.getpid() % 2000)
        trained = list(strategy.list_models(sort=True))
        assert len(trained) == 3
        metrics = [m.metric for m in trained]
        assert metrics == sorted(metrics, reverse=True)
        assert all(0 <= m <= 1 for m in metrics)
        assert resolve(space(), dict(trained[0].sample))
    finally:
        experiment.stop()


# NNI's strategies and spaces in our pipeline


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("nni.nas.strategy:DARTS", {}),
        ("nni.nas.strategy:GumbelDARTS", {"temperature": 2.0}),
        ("nni.nas.strategy:Proxyless", {}),
        ("nni.nas.strategy:RegularizedEvolution", {"population_size": 2, "sample_size": 2}),
        ("nni.nas.strategy:TPE", {}),
    ],
)
def test_strategies_of_nni(strategy: str, options: dict[str, Any], tmp_path: Path) -> None:
    settings = TINY | {"space_options": {"width": 0.05}, "strategy": strategy, "strategy_options": options}
    done = run(resolve_config(settings | {"max_trials": 3}), tmp_path)
    assert done.status().state == "finished"
    assert len(done.architecture()) == 17


SMALL_MOBILENET = {
    "base_widths": [8] * 8 + [16],
    "width_multipliers": [0.5, 1.0],
    "expand_ratios": [1, 2],
    "stride": [1, 1, 2, 2, 2, 1, 1, 1, 1],
}


@pytest.mark.parametrize(
    ("name", "options"), [("MobileNetV3Space", SMALL_MOBILENET), ("DARTS", {"width": 4, "num_cells": 3})]
)
def test_hub_spaces_go_through_pmpl(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    settings = TINY | {"space": f"nni.nas.hub.pytorch:{name}", "space_options": options, "train_images": 128}
    # With so low a threshold even NNI's mixed operations get fixed at once.
    chosen = {"strategy_options": {"fixing": "lead", "warmup_epochs": 0, "eta": 0.1, "rho": 0.02}, "image_size": 16}
    done = run(resolve_config(settings | chosen), tmp_path)
    decisions = done.decisions()
    assert done.status().state == "finished"
    assert decisions.keys() == done.architecture().keys()
    if name == "MobileNetV3Space":
        architecture = done.architecture()
        fixed = {label: d for label, d in decisions.items() if d.by == "threshold"}
        assert len(fixed) > 10
        assert any(label.endswith("_ks") for label in fixed)  # a mixed operation, not a layer choice
        for label, d in fixed.items():
            assert d.pi
            assert d.pi[str(architecture[label])] == max(d.pi.values())


def test_user_classes_are_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "from nni.nas.nn.pytorch import LayerChoice, ModelSpace\n"
        "from nasbench.strategies.pmpl import PMPL\n"
        "class Space(ModelSpace):\n"
        "    def __init__(self, channels: int = 4, num_classes: int = 2):\n"
        "        super().__init__()\n"
        "        self.stem = nn.Conv2d(3, channels, 3)\n"
        "        self.pool = LayerChoice({'average': nn.AdaptiveAvgPool2d(1), 'maximum': nn.AdaptiveMaxPool2d(1)},"
        " label='pool')\n"
        "        self.head = nn.Linear(channels, num_classes)\n"
        "    def forward(self, x):\n"
        "        return self.head(self.pool(self.stem(x)).flatten(1))\n"
        "class Patient(PMPL):\n"
        "    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    settings = TINY | {"space": "mine:Space", "space_options": {"channels": 6}, "strategy": "mine:Patient"}
    done = run(resolve_config(settings), tmp_path / "runs")
    assert done.result().params == 3 * 6 * 9 + 6 + 6 * 10 + 10
    assert set(done.architecture()) == {"pool"}
    assert torch.is_tensor(next(iter(__import__("nasbench").load_model(done.path, trust=True).parameters())))
