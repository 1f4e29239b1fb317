"""Runs whose numbers are no longer finite stop, and say where."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback

from nasbench import cli
from nasbench.errors import NonFiniteError
from nasbench.evaluators.classification import Classification
from nasbench.finite import FiniteGuard
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import Record
from nasbench.resume import Resumption
from nasbench.strategies.pmpl import PMPL, ProgressiveModule
from tests.test_supernet import DIGITS, evaluator, search, small

TINY: dict[str, Any] = {
    **{"space_options": {"width": 0.05}, "image_size": 8, "train_images": 96, "batch_size": 16},
    **{"epochs": 2, "retrain_epochs": 2, "device": "cpu"},
}
WARM = {"strategy_options": {"warmup_epochs": 0}}


def failed(folder: Path) -> tuple[str, list[str]]:
    """The error of the one record in a folder, which failed, and its finished stages."""
    (path,) = folder.iterdir()
    status = Record(path).status()
    assert status.state == "failed"
    return str(status.error), list(status.stages)


@pytest.mark.parametrize(
    ("settings", "stages", "said"),
    [
        (WARM | {"evaluator_options": {"learning_rate": 1e6}}, [], "search stopped at step"),
        ({"strategy": "nni.nas.strategy:DARTS", "evaluator_options": {"learning_rate": 1e12}}, [], "search stopped"),
        ({"strategy": "random", "evaluator_options": {"learning_rate": 1e12}}, ["search"], "retrain stopped at step"),
        (
            {"strategy": "nni.nas.strategy:Random", "max_trials": 1, "evaluator_options": {"learning_rate": 1e12}},
            [],
            "search stopped",
        ),
        (
            {
                **{"strategy": "fixed", "strategy_options": {"choice": "none"}, "evaluator": "online_distillation"},
                "evaluator_options": {"learning_rate": 1e12, "students": 2},
            },
            ["search"],
            "retrain stopped",
        ),
    ],
    ids=["theta", "nni-darts", "retrain", "nni-random", "distillation"],
)
def test_a_run_that_diverges_fails_in_one_line(
    settings: dict[str, Any], stages: list[str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteError, match=r"is not finite; try a lower learning rate"):
        run(resolve_config(TINY | settings), tmp_path)
    error, finished = failed(tmp_path)
    assert error.startswith(said)
    assert "\n" not in error
    assert finished == stages


def test_the_command_line_prints_one_line_and_exits_with_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small_run = "run --strategy random -p width=0.05 --image-size 8 --train-images 96 --batch-size 16 --device cpu"
    arguments = [*small_run.split(), "--retrain-epochs", "1", "-e", "learning_rate=1e12", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["nasbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 1
    assert re.match(r"error: retrain stopped at step \d+: .* is not finite", last)


class Planting(Callback):
    """Puts a NaN into a tensor of the network when an epoch begins."""

    def __init__(self, name: str, epoch: int = 1) -> None:
        self.name, self.epoch = name, epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            with torch.no_grad():
                pl_module.state_dict()[self.name].view(-1)[0] = float("nan")


@pytest.mark.parametrize("name", ["_model.0.weight", "_model.1.running_var"])
def test_a_planted_nan_is_named_and_the_last_good_checkpoint_stays(name: str, tmp_path: Path) -> None:
    made = Classification(data=DIGITS, epochs=3, device="cpu")
    made.observe([FiniteGuard("retrain"), Planting(name)])
    Resumption(tmp_path, "retrain").follow(made)
    # Nothing that a NaN in there could reach is trained.
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), Constant())
    with pytest.raises(NonFiniteError, match=rf"retrain stopped at step \d+: {re.escape(name)} is not finite"):
        made.evaluate(network)
    (last,) = tmp_path.glob("retrain-*.ckpt")
    kept = torch.load(last, weights_only=True)
    assert kept["epoch"] == 0
    assert all(t.isfinite().all() for t in kept["state_dict"].values())


class Constant(torch.nn.Module):
    """Logits that take nothing from the image."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias.expand(len(x), 10)


def test_what_is_not_finite_is_not_tested() -> None:
    made = Classification(data=DIGITS, epochs=1, device="cpu")
    made.observe([FiniteGuard("retrain")])
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 64, 10))
    made.evaluate(network)
    with torch.no_grad():
        network[1].bias[3] = torch.inf
    with pytest.raises(NonFiniteError, match=r"test stopped at step 3: _model.1.bias is not finite"):
        made.test()


def test_an_architecture_parameter_that_is_not_finite_ends_the_search() -> None:
    class Spoilt(ProgressiveModule):
        def _train_alphas(self, train: Any, meta: Any) -> None:
            with torch.no_grad():
                self.alphas["block02.enhancer"][1] = torch.inf

    strategy = PMPL()
    strategy.module_class = Spoilt
    made = evaluator()
    made.observe([FiniteGuard("search")])
    with pytest.raises(NonFiniteError, match="search stopped at step 3: "):
        search(strategy, small(), made)
    assert not strategy.decisions


def test_nothing_is_decided_on_what_is_not_finite() -> None:
    class Spoilt(ProgressiveModule):
        def after_step(self) -> None:
            with torch.no_grad():
                next(self.model.parameters()).fill_(torch.nan)
            super().after_step()

    strategy = PMPL(rho=1e-9)
    strategy.module_class = Spoilt
    with pytest.raises(NonFiniteError, match="search stopped at step 1"):
        search(strategy, small(), evaluator())
    assert not strategy.decisions
