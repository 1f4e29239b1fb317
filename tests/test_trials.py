"""What a run keeps of the networks that a search trained one by one, and NSGA-II, which searches for their front."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nasbench import registry
from nasbench.answered import Answers, Lookup
from nasbench.cli import app
from nasbench.data.arrays import Digits
from nasbench.errors import OptionError, RecordError
from nasbench.networks import build_space
from nasbench.pipeline import prepare, run
from nasbench.presets import resolve_config
from nasbench.profile import profile
from nasbench.record import TRIALS, Record
from nasbench.results.collect import collect, curves
from nasbench.results.figures import plot
from nasbench.results.pareto import front

SETTINGS: dict[str, Any] = {
    **{"space": "metapool_bench", "dataset": "digits", "device": "cpu", "train_images": 100, "batch_size": 16},
    **{"strategy": "nsga2", "strategy_options": {"population_size": 4}, "max_trials": 6},
    **{"epochs": 1, "retrain_epochs": 1},
}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A finished search by NSGA-II."""
    return run(resolve_config(SETTINGS), tmp_path_factory.mktemp("runs"))


def searched(measure: Any, trials: int, seed: int = 0, allows: Any = None, **options: Any) -> tuple[list[Any], Any]:
    """The architectures that NSGA-II asks the measure of, in order, and the strategy."""
    space = prepare(resolve_config(SETTINGS)).strategy.model_space
    strategy: Any = registry.build("strategy", "nsga2", options, seed=seed)
    seen: list[Any] = []

    def asked(architecture: Any) -> float:
        seen.append(tuple(architecture.values()))
        return float(measure(architecture))

    if allows:
        strategy.allows = allows
    strategy(space, Lookup(asked, trials))
    return seen, strategy


def by_stages(architecture: Any) -> float:
    """An accuracy that grows with what costs, but not in all stages."""
    worth = {"none": 0.0, "avg3": 0.2, "global": 1.0}
    found = [worth[candidate] for candidate in architecture.values()]
    return found[0] + found[2] + 0.5 * found[4] - 0.3 * found[1]


def hypervolume(points: Any, worst: tuple[float, float]) -> float:
    """The area that some (accuracy, cost) beat, down to the worst."""
    area, reached = 0.0, worst[0]
    for accuracy, cost in sorted(points, key=lambda point: point[1]):
        if accuracy > reached:
            area += (accuracy - reached) * (worst[1] - cost)
            reached = accuracy
    return area


def test_it_finds_a_better_front_than_chance() -> None:
    space = build_space(resolve_config(SETTINGS), 10, 16)
    labels = list(space.simplify())
    networks = [dict(zip(labels, v, strict=True)) for v in product(("none", "avg3", "global"), repeat=len(labels))]
    points = {tuple(a.values()): (by_stages(a), profile(space.freeze(a), 16).madds / 1e3) for a in networks}
    worst = (min(accuracy for accuracy, _ in points.values()) - 0.01, max(cost for _, cost in points.values()) + 1)
    whole = hypervolume(points.values(), worst)
    shares = []
    for seed in range(5):
        ours = hypervolume([points[a] for a in searched(by_stages, 60, seed, population_size=12)[0]], worst)
        drawn = np.random.default_rng(seed).choice(len(networks), 60, replace=False)
        random = hypervolume([points[tuple(networks[i].values())] for i in drawn], worst)
        shares.append((ours / whole, random / whole))
    ours, random = np.mean(shares, axis=0)
    assert ours > 0.97
    assert ours > random


def test_it_repeats_itself_and_trains_no_network_twice() -> None:
    runs = [searched(by_stages, 40, seed, population_size=8)[0] for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) == len(set(runs[0])) == 40


def test_it_ends_when_every_network_is_known() -> None:
    def allows(architecture: Any) -> bool:
        return set(architecture.values()) <= {"none", "avg3"}

    seen, strategy = searched(by_stages, 1000, allows=allows)
    assert 16 < len(seen) <= 2**5
    assert all("global" not in values for values in seen)
    assert allows(next(iter(strategy.list_models(limit=1))).sample)


def test_of_equally_accurate_networks_it_takes_the_cheapest() -> None:
    seen, strategy = searched(lambda architecture: 0.5, 20)
    costs = [profile(model.executable_model(), 16).madds for model in strategy.list_models()]
    assert len(costs) == len(seen)
    best = next(iter(strategy.list_models(limit=1))).executable_model()
    assert profile(best, 16).madds == min(costs)


def test_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="there are none"):
        registry.build("strategy", "nsga2", {}, seed=0)(Answers.of({"a": [1, 2]}), Lookup(lambda architecture: 0.0, 5))
    monkeypatch.setitem(sys.modules, "pymoo", None)
    with pytest.raises(OptionError, match=r'pip install "nasbench\[nsga2\]"'):
        registry.build("strategy", "nsga2", {}, seed=0)


def test_the_record_has_every_network(record: Record) -> None:
    trials = curves(record, TRIALS)
    assert list(trials["trial"]) == [1, 2, 3, 4, 5, 6]
    assert set(trials["epochs"]) == {1}
    architectures = [json.loads(text) for text in trials["architecture"]]
    space = build_space(record.config(), 10, 16)
    for architecture, row in zip(architectures, trials.itertuples(), strict=True):
        cost = profile(space.freeze(architecture), 16)
        assert (cost.params, cost.madds) == (row.params, row.madds)
    best = trials[trials["accuracy"] == trials["accuracy"].max()]
    (taken,) = (row for row in best.itertuples() if json.loads(row.architecture) == record.architecture())
    assert taken.madds == best["madds"].min()


def test_all_meta_images_measure_each_of_them(record: Record) -> None:
    images = (record.status().stages["search"].model_extra or {})["meta_images"]
    assert images % SETTINGS["batch_size"]
    hits = curves(record, TRIALS)["accuracy"] * images
    assert np.allclose(hits, hits.round(), atol=1e-4)
    data = Digits(stage="search", batch_size=16)
    data.setup()
    data.singly = True
    labels = np.concatenate([labels for _, labels in data.val_dataloader()])
    assert np.array_equal(labels, data.train_labels[data.splits()[1]])


def test_the_figure_has_the_front_and_what_was_taken(record: Record) -> None:
    (figure,) = plot(collect([record.path.parent]).frame, "trials").values()
    lines = {line.get_label(): np.column_stack(line.get_data()) for line in figure.axes[0].lines}
    trials = curves(record, TRIALS)
    assert len(lines["trained"]) == 6
    on = front(np.column_stack([trials["madds"], -trials["accuracy"]]).tolist())
    assert len(lines["front"]) == len(trials[on])
    assert lines["taken"].tolist()[0] in lines["front"].tolist()


def test_a_changed_trial_is_named_and_a_run_without_any_says_so(record: Record, tmp_path: Path) -> None:
    file = record.path / TRIALS
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"none", b"avg3", 1))
    told = CliRunner().invoke(app, ["verify", str(record.path)])
    with pytest.raises(RecordError, match=r"trials\.csv is damaged"):
        curves(record, TRIALS)
    file.write_bytes(whole)
    unsealed = Record(shutil.copytree(record.path, tmp_path / "unsealed"))
    for wrong in ((1, 1, "nan", 1, 1, "{}"), (1, 1, 0.5, 1, 1, "{")):
        unsealed.write_csv(TRIALS, [(2, 1, 0.5, 1, 1, "{}"), wrong])
        unsealed.seal([TRIALS])
        with pytest.raises(RecordError, match=r"trials\.csv is damaged"):
            plot(collect([unsealed.path]).frame, "trials")
    assert told.exit_code == 1
    assert TRIALS in told.stdout
    none = run(resolve_config(SETTINGS | {"strategy": "random", "strategy_options": {}}), tmp_path / "none")
    assert none.file(TRIALS) is None
    with pytest.raises(RecordError, match="train no networks one by one"):
        plot(collect([none.path]).frame, "trials")
