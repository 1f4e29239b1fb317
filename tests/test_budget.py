"""What a search may take holds for every strategy: networks, epochs and minutes."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from nni.nas.execution import SequentialExecutionEngine
from rich.console import Console

from nasbench.errors import OptionError
from nasbench.pipeline import prepare, run
from nasbench.presets import resolve_config
from nasbench.progress import Display
from nasbench.record import METRICS, TRIALS
from nasbench.resume import Resumption
from nasbench.trials import Engine, TimeLimit

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


@pytest.mark.parametrize(
    ("strategy", "options", "trained"),
    [
        ("random", {"trials": 9}, [2, 2]),
        ("evolution", {"population_size": 2, "sample_size": 2}, [2, 2]),
        ("successive_halving", {"trials": 4, "reduction": 2}, [1, 1, 1, 1]),  # two epochs for the best are too many
        ("nni.nas.strategy:RegularizedEvolution", {"population_size": 5, "sample_size": 2}, [2, 2]),
        ("darts", {}, [2]),
    ],
)
def test_no_more_epochs_are_trained_than_allowed(
    strategy: str, options: dict[str, Any], trained: list[int], tmp_path: Path
) -> None:
    given = TINY | {"strategy": strategy, "strategy_options": options, "epochs": 2, "max_epochs": 5}
    display = Display(Console(file=StringIO(), width=200))
    record = run(resolve_config(given), tmp_path, display)
    said = display.console.file.getvalue()  # type: ignore[attr-defined]
    if strategy == "darts":
        assert {r["epoch"] for r in record.curves(METRICS) if r["stage"] == "search"} == {"1", "2"}
        assert "the search trained" not in said
    else:
        assert [int(row["epochs"]) for row in record.curves(TRIALS)] == trained
        assert f"the search trained {sum(trained)} epochs; another network would be more than --max-epochs" in said


def test_a_budget_of_epochs_shortens_the_trainings_of_a_preset_and_contradicts_no_epochs() -> None:
    short = resolve_config({"preset": "quick", "strategy": "pmpl", "max_epochs": 6})
    whole = resolve_config({"preset": "quick", "strategy": "pmpl"})
    assert (whole.epochs, short.epochs) == (12, 6)
    assert short.strategy_options["warmup_epochs"] == round(whole.strategy_options["warmup_epochs"] / 2)
    assert resolve_config({"preset": "quick", "strategy": "pmpl", "max_epochs": 60}).epochs == 12
    with pytest.raises(OptionError, match="max_epochs=6 does not suffice for one training of epochs=7"):
        resolve_config({"max_epochs": 6, "epochs": 7})
    with pytest.raises(OptionError, match="max_epochs=1 does not suffice for one training of epochs=2"):
        prepare(resolve_config(TINY | {"strategy": "darts", "strategy_options": {"epochs": 2}, "max_epochs": 1}))
    for given in ({"max_minutes": 0}, {"max_minutes": float("nan")}, {"max_epochs": 0}):
        with pytest.raises(OptionError, match="max_"):
            resolve_config(given)


@pytest.mark.parametrize("strategy", ["darts", "evolution"])
def test_a_search_ends_where_another_epoch_or_network_would_take_too_long(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that goes on by 25 s an epoch or network: three of them fit into 90 s, four do not."""
    done = [0]
    kind, end = (TimeLimit, "on_train_epoch_end") if strategy == "darts" else (Engine, "_run_single_model")
    whole = getattr(kind, end)

    def counted(self: Any, *arguments: Any) -> None:
        done[0] += 1 if strategy == "darts" else 0
        whole(self, *arguments)
        done[0] += 0 if strategy == "darts" else 1

    monkeypatch.setattr(kind, end, counted)
    monkeypatch.setattr(Resumption, "seconds", property(lambda self: 25.0 * done[0]))
    given = TINY | {"strategy": strategy, "epochs": 8 if strategy == "darts" else 1, "max_minutes": 1.5}
    display = Display(Console(file=StringIO(), width=200))
    record = run(resolve_config(given), tmp_path, display)
    said = display.console.file.getvalue()  # type: ignore[attr-defined]
    if strategy == "darts":
        assert {r["epoch"] for r in record.curves(METRICS) if r["stage"] == "search"} == {"1", "2", "3"}
        assert "the search trained 3 of 8 epochs; another would take longer than --max-minutes" in said
    else:
        assert len(record.curves(TRIALS)) == 3
        assert "the search trained 3 network(s); another would take longer than --max-minutes" in said
    assert record.status().state == "finished"


def test_one_network_is_trained_however_short_the_time(tmp_path: Path) -> None:
    record = run(resolve_config(TINY | {"strategy": "evolution", "max_minutes": 1e-6}), tmp_path)
    assert len(record.curves(TRIALS)) == 1


def test_time_that_an_earlier_process_took_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five networks of 25 s each, which fit into 132 s, three are trained before an interruption."""
    done, whole = [0], SequentialExecutionEngine._run_single_model

    def interrupted(self: Any, model: Any) -> None:
        if done[0] == 3:
            done[0] += 1000
            raise KeyboardInterrupt
        whole(self, model)
        done[0] += 1

    monkeypatch.setattr(SequentialExecutionEngine, "_run_single_model", interrupted)
    monkeypatch.setattr(Resumption, "seconds", property(lambda self: 25.0 * (done[0] % 1000)))
    config = resolve_config(TINY | {"strategy": "evolution", "max_minutes": 2.2})
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path)
    record = run(config, next(tmp_path.iterdir()))
    assert len(record.curves(TRIALS)) == 5
