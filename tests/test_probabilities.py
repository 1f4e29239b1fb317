"""π of a search, ours or NNI's: read without draws, and told as it is."""

from __future__ import annotations

import math
import re
from io import StringIO
from pathlib import Path
from typing import Any

import nni.nas.strategy
import pytest
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from rich.console import Console

from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.progress import Display
from nasbench.record import SEARCH, Record
from nasbench.results.collect import collect
from nasbench.results.figures import plot
from nasbench.show import summary
from nasbench.strategies.pmpl import reachable_lead
from nasbench.watch import probabilities
from tests.test_supernet import evaluator, small

TINY: dict[str, Any] = {
    **{"space_options": {"width": 0.05}, "image_size": 8, "train_images": 64, "batch_size": 16},
    **{"epochs": 1, "retrain_epochs": 1, "device": "cpu"},
}


def test_record_table_and_figure_agree_about_a_search_by_draws(tmp_path: Path) -> None:
    settings = TINY | {"strategy": "nni.nas.strategy:GumbelDARTS"}
    done = run(resolve_config(settings | {"strategy_options": {"arc_learning_rate": 0.01}}), tmp_path)
    architecture, decisions = done.architecture(), done.decisions()
    last: dict[str, dict[str, float]] = {}
    for row in done.curves(SEARCH):
        last.setdefault(row["label"], {})[row["candidate"]] = float(row["pi"])
    for label, candidate in architecture.items():
        pi = decisions[label].pi or {}
        assert max(pi, key=lambda name: pi[name]) == max(last[label], key=lambda name: last[label][name]) == candidate
        assert last[label] == pytest.approx(pi, rel=1e-5)
        assert decisions[label].by == "limit"
    figure = next(iter(plot(collect([tmp_path]).frame, "alphas").values()))
    assert [axes.get_title() for axes in figure.axes[:17]] == [
        f"{label.removesuffix('.enhancer')}: {candidate}*" for label, candidate in architecture.items()
    ]


def test_reading_pi_draws_nothing() -> None:
    strategy = nni.nas.strategy.GumbelDARTS()
    strategy.initialize(RawFormatModelSpace.from_model(small(), evaluator()), SequentialExecutionEngine())
    module = strategy.oneshot_module
    module.set_model(strategy.supernet)
    before = torch.get_rng_state()
    first, second = probabilities(module), probabilities(module)
    assert first == second
    assert torch.equal(before, torch.get_rng_state())
    alpha = dict(strategy.supernet.named_parameters())["features.1.enhancer._arch_alpha"]
    assert list(first["block01.enhancer"].values()) == pytest.approx(alpha.softmax(0).tolist())
    module.export_probs()  # NNI's own draws again
    assert not torch.equal(before, torch.get_rng_state())


def test_a_choice_without_the_largest_pi_is_not_said_to_have_it(tmp_path: Path) -> None:
    settings = TINY | {"strategy": "nni.nas.strategy:RandomOneShot"}
    done = run(resolve_config(settings), tmp_path)
    assert {d.by for d in done.decisions().values()} == {"found by nni.nas.strategy:RandomOneShot"}
    assert done.curves(SEARCH) == []


def test_a_lead_that_cannot_be_reached() -> None:
    assert reachable_lead(24, 0.003, 8) == pytest.approx(0.019, abs=5e-4)
    for candidates in (2, 3, 8, 13):
        gap = math.log((1 + 0.2 * (candidates - 1)) / (1 - 0.2))  # the gap in α that is a lead of 0.2
        assert reachable_lead(1, gap / 2, candidates) == pytest.approx(0.2)
    assert reachable_lead(10**6, 1.0, 8) == 1.0


def shown(config: Any, out: Path) -> tuple[str, str]:
    """What a run says while it goes on, and its summary."""
    said, told = StringIO(), StringIO()
    record = run(config, out, Display(Console(file=said)))
    Console(file=told, width=200).print(summary(record))
    return said.getvalue(), told.getvalue()


def test_a_search_that_learns_nothing_says_so_before_and_after(tmp_path: Path) -> None:
    hopeless = {"strategy_options": {"fixing": "lead", "eta": 1e-3, "warmup_epochs": 0}}
    said, told = shown(resolve_config(TINY | hopeless), tmp_path / "a")
    assert "warning: 17 of 17 layers cannot be fixed: in 3 steps at η = 0.001 a candidate can lead by 0.00" in said
    assert re.search(r"0 of 17 fixed; π within 0\.00\d+ of uniform: the choice is arbitrary", told)
    for row in re.findall(r"^block.*$", told, re.MULTILINE):
        chosen, runner_up = re.findall(r"0\.\d+", row)[:2]
        # As many digits as tell them apart; on maps of one pixel all averages are one, and six digits may not.
        assert chosen > runner_up or (chosen == runner_up and tied(tmp_path / "a", row.split()[0]))


def tied(folder: Path, label: str) -> bool:
    """Whether six digits do not tell the two largest π of a layer apart."""
    pi = sorted((Record(folder).decisions()[label].pi or {}).values())
    return f"{pi[-1]:.6f}" == f"{pi[-2]:.6f}"


def test_a_search_that_learns_something_raises_no_doubt(tmp_path: Path) -> None:
    said, told = shown(
        resolve_config(TINY | {"strategy_options": {"fixing": "lead", "eta": 0.5, "warmup_epochs": 0}}), tmp_path / "a"
    )
    assert "warning" not in said
    assert "arbitrary" not in told
