"""--max-trials holds for every strategy that trains networks one by one."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nasbench.pipeline import prepare, run
from nasbench.presets import resolve_config
from nasbench.progress import Display

TINY: dict[str, Any] = {
    **{"space_options": {"width": 0.05}, "image_size": 8, "train_images": 64, "batch_size": 16},
    **{"epochs": 1, "retrain_epochs": 1, "device": "cpu"},
}


@pytest.mark.parametrize(
    ("strategy", "options", "trained"),
    [
        ("random", {"trials": 3}, 2),
        ("random", {"trials": 1}, 0),  # a single one is not compared with anything
        ("nni.nas.strategy:Random", {}, 2),
        ("nni.nas.strategy:GridSearch", {}, 2),
        ("nni.nas.strategy:RegularizedEvolution", {"population_size": 5, "sample_size": 2}, 2),
    ],
)
def test_no_more_networks_are_trained_than_allowed(strategy: str, options: dict[str, Any], trained: int) -> None:
    search = prepare(resolve_config(TINY | {"strategy": strategy, "strategy_options": options, "max_trials": 2}))
    assert search.strategy is not None
    assert search.engine is not None
    search.strategy.run()
    assert len(list(search.engine.list_models())) == trained


def test_the_end_of_the_budget_is_told(tmp_path: Path) -> None:
    config = resolve_config(TINY | {"strategy": "random", "strategy_options": {"trials": 30}, "max_trials": 2})
    display = Display(Console(file=StringIO()))
    run(config, tmp_path, display)
    said = display.console.file.getvalue()  # type: ignore[attr-defined]
    assert "the search trained 2 networks, as many as --max-trials allows" in said
