"""Sweeps: what a grid means, what a tuner is told, and what is left to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from records import write_run
from sweeping import QUICK, enter_own_space, fates

from nasbench.cli import main
from nasbench.errors import OptionError
from nasbench.nni_bridge.experiment import check_algorithms
from nasbench.nni_bridge.tuner import Resumed
from nasbench.presets import resolve_config
from nasbench.record import Record, StageFacts
from nasbench.results.collect import collect
from nasbench.results.training import missing
from nasbench.studies.metapooling import spec
from nasbench.sweeps.allocation import Allocation, allocate
from nasbench.sweeps.config import SweepConfig, ablation, make_sweep, read_sweep
from nasbench.sweeps.plan import check, plan
from nasbench.sweeps.runs import expected_seconds, find_runs, parameters_of

ROOT = Path(__file__).parent.parent
GRID = {"strategy": ["pmpl", "darts"], "seed": [0, 1], "strategy_options.eta": [0.1, 0.2]}


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's space, as the current one."""
    return enter_own_space(tmp_path, monkeypatch)


# What a grid means


def test_every_combination_seeds_slowest() -> None:
    runs = make_sweep({"grid": GRID}).runs()
    assert [c.label for c in runs[:4]] == [
        "pmpl, seed 0, eta 0.1",
        "pmpl, seed 0, eta 0.2",
        "darts, seed 0, eta 0.1",
        "darts, seed 0, eta 0.2",
    ]
    assert len(runs) == 8
    last = runs[-1]
    assert last.parameters == {"strategy": "darts", "seed": 1, "strategy_options.eta": 0.2}
    assert (last.config.strategy, last.config.seed, last.config.strategy_options["eta"]) == ("darts", 1, 0.2)


def test_exclusion() -> None:
    exclude = [{"strategy": "darts", "strategy_options.eta": [0.1, 0.3]}, {"seed": 1, "strategy": "pmpl"}]
    labels = [c.label for c in make_sweep({"grid": GRID, "exclude": exclude}).runs()]
    assert labels == [
        "pmpl, seed 0, eta 0.1",
        "pmpl, seed 0, eta 0.2",
        "darts, seed 0, eta 0.2",
        "darts, seed 1, eta 0.2",
    ]


@pytest.mark.parametrize(
    ("given", "values"),
    [
        ({"from": 0.1, "to": 0.3, "step": 0.1}, [0.1, 0.2, 0.3]),
        ({"from": 0, "to": 5, "step": 2}, [0, 2, 4]),
        ({"from": 0.5, "to": 1, "count": 3}, [0.5, 0.75, 1.0]),
        ({"from": 0.001, "to": 0.1, "count": 3, "scale": "log"}, [0.001, 0.01, 0.1]),
    ],
)
def test_ranges(given: dict[str, Any], values: list[float]) -> None:
    assert make_sweep({"grid": {"strategy_options.rho": given}}).grid["strategy_options.rho"] == values


def test_options_belong_to_the_class_with_which_they_were_given() -> None:
    base = {"strategy": "pmpl", "strategy_options": {"rho": 0.3}, "space_options": {"width": 0.1}}
    variants = {"pmpl": {"strategy_options": {"eta": 0.2}}, "random": {"strategy": "random"}}
    first, second = make_sweep({"base": base, "variants": variants}).runs()
    assert (first.config.strategy_options["rho"], first.config.strategy_options["eta"]) == (0.3, 0.2)
    assert second.config.strategy_options == {"trials": 1}
    assert second.config.space_options["width"] == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gird": {}}, "did you mean 'grid'"),
        ({"seed": 1}, "belong under base"),
        ({"grid": {"sed": [0]}}, "did you mean 'seed'"),
        ({"grid": {"strategy_options": [{}]}}, "name the option that varies"),
        ({"grid": {"seed.x": [0]}}, "only options have a dot"),
        ({"grid": {"seed": []}}, "seed has no values"),
        ({"grid": {"seed": 3}}, "must be a list of values or a range"),
        ({"grid": {"seed": {"from": 0, "to": 3}}}, "either step or count"),
        ({"grid": {"seed": {"from": 3, "to": 0, "step": 1}}}, "to a larger one"),
        ({"grid": {"seed": {"from": 0, "to": 3, "stepp": 1}}}, "did you mean 'step'"),
        ({"grid": {"epochs": {"from": 0, "to": 3, "count": 2, "scale": "log"}}}, "log needs from > 0"),
        ({"base": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"variants": {"a": {"stratgy": "pmpl"}}}, "did you mean 'strategy'"),
        ({"grid": {"seed": [0]}, "exclude": [{"strategy": "pmpl"}]}, "unknown varied setting 'strategy'"),
        ({"search": {"strategy_options.rho": {"unifrm": [0, 1]}}}, "did you mean 'uniform'"),
        ({"search": {"strategy_options.rho": {"uniform": [0]}}}, "uniform takes 2 values, not 1"),
        ({"search": {"strategy_options.rho": {}}}, "exactly one distribution"),
        ({"grid": {"seed": [0]}, "search": {"strategy_options.rho": {"uniform": [0.1, 0.2]}}}, "either a search or"),
        ({"trials": 0}, "trials"),
        ({"concurrency": 0}, "concurrency"),
        ({"tuner": {"nme": "TPE"}}, "tuner.name: field required"),
    ],
)
def test_what_is_wrong_with_a_sweep(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=r"^sweep: ") as raised:
        make_sweep(given)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": {"seed": [0, 0]}}, "the runs 'seed 0' and 'seed 0' are the same"),
        ({"grid": {"strategy_options.rho": [0.2, 0.20]}}, "are the same"),
        ({"variants": {"a": {}, "b": {"seed": 0}}}, "the runs 'a' and 'b' are the same"),
        ({"grid": {"seed": [0, -1]}}, "run 'seed -1': seed: input should be greater"),
        ({"grid": {"seed": [0]}, "exclude": [{"seed": 1}]}, "no combination of the grid has seed=1"),
        ({"grid": {"seed": [0]}, "exclude": [{"seed": 0}]}, "every combination of the grid is excluded"),
        ({"grid": {"seed": {"from": 0, "to": 9999, "step": 1}, "epochs": [1, 2]}}, "20000 combinations"),
    ],
)
def test_what_is_wrong_with_its_runs(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        make_sweep(given).runs()
    assert message in str(raised.value)


def test_every_run_is_checked_before_anything_starts(own_space: Path) -> None:
    base = {**QUICK, "epochs": 4}
    with pytest.raises(OptionError, match=r"run 'rho 2': strategy 'pmpl': rho must be > 0 and < 1"):
        check(make_sweep({"base": base, "grid": {"strategy_options.rho": [0.2, 2]}}))
    with pytest.raises(OptionError, match=r"run 'rho 1.5': strategy 'pmpl': rho must be"):
        check(make_sweep({"base": base, "search": {"strategy_options.rho": {"uniform": [0.1, 1.5]}}}))
    with pytest.raises(OptionError, match=r"run 'fate 3': .*fate=3"):
        check(make_sweep({**fates("well").model_dump(), "grid": {"space_options.fate": ["well", 3]}}))
    assert check(fates("well", "raise")).threads >= 1


def test_the_ablation_is_what_table_3_lacks() -> None:
    base = {"dataset": "digits", "preset": "quick", "epochs": 5, "train_images": 100}
    sweep = ablation(base, [0, 1])
    lacking = [m for m in missing("table3", collect([]).frame, base, [0, 1]) if m.row != spec("table3").rows[-1].label]
    assert [c.config for c in sweep.runs()] == [resolve_config(m.overrides) for m in lacking]
    assert [c.label for c in sweep.runs()][:6] == [
        f"{row}, seed 0" for row in ("none", "local", "global", "random", "pmpl", "darts")
    ]


def test_the_ablation_of_another_space() -> None:
    configs = [c.config for c in ablation({"space": "own:Space", "space_options": {"depth": 3}}, [0]).runs()]
    assert {c.space for c in configs} == {"own:Space"}
    assert all(c.space_options == {"depth": 3} for c in configs)


# Tuners


SEARCH = {"strategy_options.rho": {"uniform": [0.1, 0.4]}, "strategy_options.eta": {"loguniform": [0.01, 0.3]}}


def test_a_search_is_nnis() -> None:
    sweep = make_sweep({"search": SEARCH, "assessor": {"name": "Medianstop", "options": {"start_step": 2}}})
    assert sweep.runs() == []
    assert sweep.search_space()["strategy_options.eta"] == {"_type": "loguniform", "_value": [0.01, 0.3]}
    assert [tuple(c.parameters.values()) for c in sweep.samples()] == [(0.1, 0.01), (0.4, 0.01), (0.1, 0.3)]
    for tuner in ("TPE", "Random", "Evolution", "GridSearch", "Anneal"):
        if tuner != "Anneal":  # hyperopt is not among the packages that nasbench installs
            check_algorithms(sweep.model_copy(update={"tuner": make_sweep({"tuner": tuner}).tuner}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tuner": "Evoluton"}, "did you mean 'Evolution'"),
        ({"tuner": "Medianstop"}, "unknown tuner of NNI 'Medianstop'"),
        ({"tuner": "Hyperband"}, "unknown tuner of NNI 'Hyperband'"),
        ({"assessor": "medianstopp"}, "did you mean 'Medianstop'"),
        ({"tuner": {"name": "TPE", "options": {"sed": 1}}}, "tuner TPE: "),
        ({"assessor": {"name": "Medianstop", "options": {"start_step": -1}}}, "assessor Medianstop: "),
        ({"tuner": "SMAC"}, "needs a package that is not installed"),
    ],
)
def test_what_is_wrong_with_an_algorithm(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        check_algorithms(make_sweep({"search": SEARCH, **given}))
    assert message in str(raised.value)


def test_a_tuner_that_goes_on_has_broken_runs_first_and_learns_from_all() -> None:
    space = {"x": {"_type": "uniform", "_value": [0.0, 1.0]}}
    best = [{"parameter": {"x": 0.9 + i / 1000}, "value": 1.0 - i / 1000} for i in range(10)]
    worse = [{"parameter": {"x": i / 100}, "value": 0.1} for i in range(40)]
    options = {"optimize_mode": "maximize", "seed": 0}
    tuner = Resumed("TPE", options, [*best, *worse], [{"x": 0.25}, {"x": 0.75}])
    tuner.update_search_space(space)
    proposed = tuner.generate_multiple_parameters(list(range(12)))
    assert proposed[:2] == [{"x": 0.25}, {"x": 0.75}]
    assert len(proposed) == 12
    assert sum(p["x"] > 0.7 for p in proposed[2:]) >= 8  # TPE draws where the known results are good
    again = Resumed("TPE", options, [], [proposed[2]])
    fresh = Resumed("TPE", options, [], [])
    for one in (again, fresh):
        one.update_search_space(space)
    drawn = fresh.generate_multiple_parameters([0, 1])
    assert again.generate_multiple_parameters([0, 1, 2])[1:] == drawn
    again = Resumed("TPE", options, [], [drawn[0]])
    again.update_search_space(space)
    assert again.generate_multiple_parameters([0, 1]) == drawn  # what the seed gives again is not run again
    tuner.receive_trial_result(0, proposed[0], {"default": 0.5})
    tuner.receive_trial_result(5, proposed[5], {"default": 0.9})
    for parameter_id in range(12):
        tuner.trial_end(parameter_id, True)


# The machine


@pytest.mark.parametrize(
    ("devices", "runs", "concurrency", "gpus", "expected"),
    [
        (["cpu"], 12, None, 0, Allocation(4, 2, 0)),
        (["auto"], 12, 2, 0, Allocation(2, 4, 0)),
        (["auto"], 3, 100, 0, Allocation(3, 2, 0)),
        (["cpu"], 12, None, 4, Allocation(4, 2, 0)),
        (["auto", "cpu"], 12, None, 4, Allocation(4, 2, 1)),
        (["cuda"], 12, 2, 4, Allocation(2, 4, 1)),
        (["cuda"], 12, 8, 4, Allocation(4, 2, 1)),
        (["auto"], 12, 8, 1, Allocation(1, 8, 0)),  # NNI never gives away the only GPU
    ],
)
def test_sharing_out(
    devices: list[str],
    runs: int,
    concurrency: int | None,
    gpus: int,
    expected: Allocation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    configs = [resolve_config({"device": device}) for device in devices]
    assert allocate(configs, runs, concurrency, gpus, cores=8) == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert allocate(configs, runs, concurrency, gpus, cores=8).threads == 1


def test_a_gpu_by_its_number_is_refused() -> None:
    with pytest.raises(OptionError, match="device cuda:1: a sweep gives each run its GPU"):
        allocate([resolve_config({"device": "cuda:1"})], 2, None, 2)


# What is left to do


@pytest.fixture
def some_done(tmp_path: Path) -> tuple[SweepConfig, Path]:
    """A sweep of four runs: one finished, one broken off, one damaged, and one that was never started."""
    sweep = make_sweep({"base": {"strategy": "random", "epochs": 3, **QUICK}, "grid": {"seed": [0, 1, 2, 3]}})
    settings = {k: v for k, v in sweep.base.items() if k != "strategy"}
    write_run(tmp_path, 0.8, seed=0, strategy="random", **settings)
    broken = write_run(tmp_path, 0.8, seed=1, strategy="random", **settings)
    stages = Record(broken).status().stages
    Record(broken).set_status(state="interrupted", stages={"search": stages["search"]})
    damaged = write_run(tmp_path, 0.8, seed=2, strategy="random", **settings)
    (damaged / "config.yaml").write_text("seed: [")
    return sweep, tmp_path


def test_finished_runs_are_taken_and_broken_ones_go_on(some_done: tuple[SweepConfig, Path]) -> None:
    sweep, out = some_done
    planned = plan(sweep, out)
    assert [(r.label, r.state, r.how) for r in planned.results] == [("seed 0", "finished", "from its record")]
    assert [item.run.label for item in planned.todo] == ["seed 1", "seed 2", "seed 3"]
    assert [item.broken is not None for item in planned.todo] == [True, False, False]
    others = make_sweep({"base": {**sweep.base, "retrain_epochs": 4}, "grid": {"seed": [0, 1]}})
    assert plan(others, out).results == []


def test_where_a_run_was_made_does_not_matter(some_done: tuple[SweepConfig, Path]) -> None:
    sweep, out = some_done
    moved = make_sweep({"base": {**sweep.base, "device": "auto", "data_root": "/elsewhere"}, "grid": sweep.grid})
    assert [r.label for r in plan(moved, out).results] == ["seed 0"]
    # Going on, however, takes exactly the same settings.
    assert all(item.broken is None for item in plan(moved, out).todo)


def test_a_run_that_is_being_written_is_not_taken_over(some_done: tuple[SweepConfig, Path]) -> None:
    sweep, out = some_done
    broken = plan(sweep, out).todo[0].broken
    assert broken is not None
    with broken.record.owned():
        assert plan(sweep, out).todo[0].broken is None


def test_the_runs_of_a_search_are_known_by_their_settings(tmp_path: Path) -> None:
    sweep = make_sweep({"base": {**QUICK, "strategy": "pmpl"}, "search": SEARCH, "trials": 5})
    mine = {"rho": 0.123456789012345, "eta": 0.05}
    write_run(tmp_path, 0.8, strategy="pmpl", strategy_options=mine, **QUICK)
    write_run(tmp_path, 0.8, strategy="pmpl", strategy_options=mine, **QUICK | {"batch_size": 16})
    (run, other) = sorted(find_runs([tmp_path]), key=lambda r: -r.config.batch_size)
    found = parameters_of(run.config, sweep)
    assert found == {"strategy_options.rho": 0.123456789012345, "strategy_options.eta": 0.05}
    assert parameters_of(other.config, sweep) is None
    planned = plan(sweep, tmp_path)
    assert planned.proposals == 4
    assert planned.known == ({"parameter": found, "value": 0.75},)  # held out, not the test's 0.8


def test_expected_times(tmp_path: Path) -> None:
    for seed in (0, 1):
        path = write_run(tmp_path, strategy="pmpl", seed=seed, epochs=10, retrain_epochs=20)
        Record(path).set_status(
            stages={
                name: StageFacts(seconds=seconds, peak_memory_bytes=0)
                for name, seconds in (("search", 100 + seed), ("retrain", 40), ("test", 1))
            }
        )
    runs = find_runs([tmp_path])

    def expected(**changes: Any) -> float | None:
        return expected_seconds(resolve_config({"epochs": 10, "retrain_epochs": 20, **changes}), runs)

    assert expected(seed=7) == pytest.approx(141.5)
    assert expected(epochs=20, retrain_epochs=10) == pytest.approx(201 + 20 + 1)
    assert expected(strategy_options={"rho": 0.3}) == pytest.approx(141.5)
    assert expected(strategy="darts") is None
    assert expected(batch_size=32) is None
    assert expected(space_options={"width": 0.5}) is None


# The command


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["nasbench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


@pytest.mark.parametrize("seeds", [["--seeds", "0", "1", "5"], ["--seeds", "0", "--seeds=1", "--seeds", "5"]])
def test_several_seeds_after_one_flag(
    seeds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump({**QUICK, "epochs": 4, "space_options": {"width": 0.05}}))
    monkeypatch.chdir(tmp_path)
    more = ["--config", "tiny.yaml", "--dry-run", "--out", "new"]
    assert command(["sweep", *seeds, "ablation", *more], monkeypatch) == 0
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if line.startswith("pmpl")] != []
    assert sum("seed" in line for line in out.splitlines()) == 18
    assert "darts, seed 5" in out
    assert "18 to run" in err
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.yaml"], "config absent.yaml cannot be read"),
        (["ablation", "--host", "192.168.0.1"], "host must be 127.0.0.1"),
        (["ablation", "--seeds", "x"], "--seeds"),
        (["ablation", "--dataset", "digit"], "did you mean 'digits'"),
        (["ablation", "--space", "tests.toys:TwoScales"], "run '"),
        (["sweep.yaml", "--preset", "quick"], "--preset is for the ablation"),
        (["sweep.yaml"], "run 'rho 3': strategy 'pmpl': rho must be > 0 and < 1"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep.yaml").write_text(
        "base: {epochs: 4, train_images: 100}\ngrid: {strategy_options.rho: [0.2, 3]}\n"
    )
    assert command(["sweep", *arguments], monkeypatch) == 2
    out, err = capfd.readouterr()
    assert (out, len(err.splitlines())) == ("", 1), err
    assert message in err
    assert [p.name for p in tmp_path.iterdir()] == ["sweep.yaml"]


def test_the_examples_of_the_documentation_are_sweeps(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "sweeps.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    assert len(blocks) >= 2
    for i, block in enumerate(blocks):
        path = tmp_path / f"example{i}.yaml"
        path.write_text(block)
        sweep = read_sweep(path)
        check_algorithms(sweep)
        assert len(sweep.runs() or sweep.samples()) > 1
