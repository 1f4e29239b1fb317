"""Successive halving against its definition, on measures that are known for any number of epochs, and for real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasbench.answered import Answers, Lookup
from nasbench.errors import OptionError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import METRICS
from nasbench.rehearsal import rehearse
from nasbench.strategies.successive_halving import SuccessiveHalving, rungs

DIGITS: dict[str, Any] = {
    **{"dataset": "digits", "space_options": {"width": 0.05}, "device": "cpu", "train_images": 100, "batch_size": 20},
    **{"strategy": "successive_halving", "strategy_options": {"trials": 4, "reduction": 2}},
    **{"epochs": 2, "retrain_epochs": 1},
}


class Trained(Answers):
    """Networks 0, 1, … of which the measure after some epochs is known; the evaluator says how many it trains for."""

    evaluator: Any

    def freeze(self, sample: Any) -> Trained:
        """See `Answers`."""
        frozen = Trained(self.mutables, dict(sample))
        frozen.evaluator = self.evaluator
        return frozen


def searched(measure: Any, budget: int = 100, epochs: int = 9, **options: Any) -> tuple[list[Any], list[Any], Any]:
    """What is trained, as (network, epochs); the networks of `list_models`; the evaluator's epochs at the end."""
    space = Trained.of({"network": list(range(1000))})
    space.evaluator = SimpleNamespace(epochs=epochs)
    seen = []

    def asked(architecture: Any) -> float:
        seen.append((architecture["network"], space.evaluator.epochs))
        return float(measure(*seen[-1]))

    strategy = SuccessiveHalving(seed=3, **options)
    strategy(space, Lookup(asked, budget))
    return seen, [model.sample["network"] for model in strategy.list_models()], space.evaluator.epochs


@given(st.integers(1, 300), st.integers(2, 5), st.integers(1, 300))
def test_every_rung_has_a_share_of_the_networks_and_as_many_times_the_epochs(n: int, eta: int, epochs: int) -> None:
    found = rungs(n, eta, epochs)
    assert found[0][0] == n
    assert found[-1][1] == epochs
    assert [count for count, _ in found] == [n // eta**k for k in range(len(found))]
    assert [each for _, each in found] == [round(epochs / eta ** (len(found) - 1 - k)) for k in range(len(found))]
    assert all(each >= 1 for _, each in found)
    assert len(found) == 1 or found[-1][0] >= 2
    # One rung more would train a single network, or none for a whole epoch.
    assert n // eta ** len(found) < 2 or epochs < eta ** len(found)


def test_the_best_of_every_rung_are_trained_anew_for_longer() -> None:
    seen, models, epochs = searched(lambda network, epochs: network)
    first, second = seen[:9], seen[9:]
    assert [each for _, each in first] == [3] * 9
    assert second == [(network, 9) for network in sorted((n for n, _ in first), reverse=True)[:3]]
    assert models == [network for network, _ in second]
    assert epochs == 9


def test_what_was_good_after_few_epochs_only_is_not_the_answer() -> None:
    seen, models, _ = searched(lambda network, epochs: 10_000 + network if epochs < 9 else -network)
    best = sorted((n for n, epochs in seen if epochs == 3), reverse=True)[:3]
    assert models == sorted(best)


def test_the_budget_may_end_it_in_any_rung() -> None:
    seen, models, epochs = searched(lambda network, epochs: network, budget=4)
    assert [each for _, each in seen] == [3] * 4
    assert models[0] == max(network for network, _ in seen)
    assert len(searched(lambda network, epochs: network, budget=9)[1]) == 9  # none of the next rung
    assert len(searched(lambda network, epochs: network, budget=10)[1]) == 1
    assert epochs == 9


def test_trainings_are_counted_in_whole_ones() -> None:
    options = {"trials": 9, "reduction": 3}
    assert SuccessiveHalving.trainings(options, 9) == pytest.approx(9 / 3 + 3)
    assert SuccessiveHalving.trainings(options, 1) == 9


def test_the_evaluator_trains_for_the_epochs_of_the_rung(tmp_path: Path) -> None:
    record = run(resolve_config(DIGITS), tmp_path)
    rows = [row for row in record.curves(METRICS) if row["stage"] == "search" and row["name"] == "train_loss"]
    assert [row["epoch"] for row in rows] == ["1"] * 4 + ["1", "2"] * 2
    assert record.status().state == "finished"
    assert record.result().label == "successive_halving of 4 (full)"


def test_the_time_is_foreseen() -> None:
    assert rehearse(resolve_config(DIGITS)).networks == 4  # four of one epoch, two of two


def test_who_cannot_train_for_fewer_epochs_is_refused() -> None:
    with pytest.raises(OptionError, match="fewer epochs"):
        SuccessiveHalving()(Answers.of({"network": [1, 2]}), Lookup(lambda architecture: 0.0, 5))
