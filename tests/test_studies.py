"""Studies: what rows, seeds and grids mean, what is left to do, and making it in this process."""

from __future__ import annotations

import sys
from importlib import reload
from pathlib import Path
from typing import Any

import pytest
import yaml
from records import write_run
from sweeping import QUICK, command, enter_own_space, fates

from nasbench.config import read_config
from nasbench.errors import OptionError
from nasbench.facts import StageFacts
from nasbench.packs import write_pack
from nasbench.presets import resolve_config
from nasbench.record import Record
from nasbench.studies.plan import expected_seconds, known, plan, run_missing
from nasbench.studies.study import Study, make_study
from nasbench.studies.tables import ABLATION, ablation, table_study

ROOT = Path(__file__).parent.parent
GRID = {"strategy": ["pmpl", "darts"], "seed": [0, 1], "strategy_options.eta": [0.1, 0.2]}
SEARCH = {"strategy_options.rho": {"uniform": [0.1, 0.4]}, "strategy_options.eta": {"loguniform": [0.01, 0.3]}}


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's space, as the current one."""
    return enter_own_space(tmp_path, monkeypatch)


# What a grid means


def test_every_combination_seeds_slowest() -> None:
    runs = make_study({"grid": GRID}).runs()
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
    labels = [c.label for c in make_study({"grid": GRID, "exclude": exclude}).runs()]
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
    assert make_study({"grid": {"strategy_options.rho": given}}).grid["strategy_options.rho"] == values


def test_options_belong_to_the_class_with_which_they_were_given() -> None:
    base = {"strategy": "pmpl", "strategy_options": {"rho": 0.3}, "space_options": {"width": 0.1}}
    variants = {"pmpl": {"strategy_options": {"eta": 0.2}}, "random": {"strategy": "random"}}
    first, second = make_study({"base": base, "variants": variants}).runs()
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
        make_study(given)
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
        make_study(given).runs()
    assert message in str(raised.value)


# What is left to do


@pytest.fixture
def some_done(tmp_path: Path) -> tuple[Study, Path]:
    """A sweep of four runs: one finished, one broken off, one damaged, and one that was never started."""
    sweep = make_study({"base": {"strategy": "random", "epochs": 3, **QUICK}, "grid": {"seed": [0, 1, 2, 3]}})
    settings = {k: v for k, v in sweep.base.items() if k != "strategy"}
    write_run(tmp_path, 0.8, seed=0, strategy="random", **settings)
    broken = write_run(tmp_path, 0.8, seed=1, strategy="random", **settings)
    stages = Record(broken).status().stages
    Record(broken).set_status(state="interrupted", stages={"search": stages["search"]})
    damaged = write_run(tmp_path, 0.8, seed=2, strategy="random", **settings)
    (damaged / "config.yaml").write_text("seed: [")
    return sweep, tmp_path


def test_finished_runs_are_taken_and_broken_ones_go_on(some_done: tuple[Study, Path]) -> None:
    sweep, out = some_done
    planned = plan(sweep, out)
    assert [(r.label, r.state, r.how) for r in planned.results] == [("seed 0", "finished", "from its record")]
    assert [item.label for item in planned.missing] == ["seed 1", "seed 2", "seed 3"]
    assert [item.interrupted is not None for item in planned.missing] == [True, False, False]
    others = make_study({"base": {**sweep.base, "retrain_epochs": 4}, "grid": {"seed": [0, 1]}})
    assert plan(others, out).results == []


def test_where_a_run_was_made_does_not_matter(some_done: tuple[Study, Path]) -> None:
    sweep, out = some_done
    moved = make_study({"base": {**sweep.base, "device": "auto", "data_root": "/elsewhere"}, "grid": sweep.grid})
    assert [r.label for r in plan(moved, out).results] == ["seed 0"]
    # Going on, however, takes exactly the same settings.
    assert all(item.interrupted is None for item in plan(moved, out).missing)


def test_a_run_that_is_being_written_is_not_taken_over(some_done: tuple[Study, Path]) -> None:
    sweep, out = some_done
    broken = plan(sweep, out).missing[0].interrupted
    assert broken is not None
    with broken.record.owned():
        assert plan(sweep, out).missing[0].interrupted is None


LEAD = {"strategy_options": {"fixing": "lead"}}


def test_the_runs_of_a_search_are_known_by_their_settings(tmp_path: Path) -> None:
    sweep = make_study({"base": {**QUICK, "strategy": "pmpl", **LEAD}, "search": SEARCH, "trials": 5})
    mine = {"rho": 0.123456789012345, "eta": 0.05}
    write_run(tmp_path, 0.8, strategy="pmpl", strategy_options=mine, **QUICK)
    write_run(tmp_path, 0.8, strategy="pmpl", strategy_options=mine, **QUICK | {"batch_size": 16})
    (run, other) = sorted(known([tmp_path]), key=lambda r: -r.config.batch_size)
    found = sweep.parameters_of(run.config)
    assert found == {"strategy_options.rho": 0.123456789012345, "strategy_options.eta": 0.05}
    assert sweep.parameters_of(other.config) is None
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
    runs = known([tmp_path])

    base = {"strategy_options": {"fixing": "lead"}, "epochs": 10, "retrain_epochs": 20}

    def expected(**changes: Any) -> float | None:
        return expected_seconds(resolve_config({**base, **changes}), runs)

    assert expected(seed=7) == pytest.approx(141.5)
    assert expected(epochs=20, retrain_epochs=10) == pytest.approx(201 + 20 + 1)
    assert expected(strategy_options={"fixing": "lead", "rho": 0.3}) == pytest.approx(141.5)
    assert expected(strategy="darts", strategy_options={}) is None
    assert expected(strategy_options={"fixing": "evidence"}) is None
    assert expected(batch_size=32) is None
    assert expected(space_options={"width": 0.5}) is None


def test_a_searchs_time_is_told_by_what_its_label_tells(tmp_path: Path) -> None:
    write_run(tmp_path, strategy="darts", epochs=10, strategy_options={"order": 2, "eta": 0.1})
    (run,) = known([tmp_path])
    for options, is_alike in (({"order": 2, "eta": 0.2}, True), ({"order": 1, "eta": 0.1}, False)):
        config = resolve_config({"strategy": "darts", "epochs": 10, "strategy_options": options})
        assert (expected_seconds(config, [run]) is not None) == is_alike


def test_the_modules_that_records_name_are_not_imported(own_space: Path) -> None:
    (own_space / "own_strategy.py").write_text("from strategies.random import Random as Own")
    path = write_run(own_space, strategy="random")
    config = (path / "config.yaml").read_text()
    (own_space / "own_strategy.py").write_text("raise SystemExit('run')")
    (path / "config.yaml").write_text(config.replace("strategy: random", "strategy: own_strategy:Own"))
    assert [run.config.strategy for run in known([own_space])] == ["own_strategy:Own"]


# Making it in this process


def test_a_failure_does_not_stop_the_others_and_goes_on(own_space: Path) -> None:
    said: list[str] = []
    study, out = fates("raise", "well"), own_space / "out"
    results = run_missing(plan(study, out), out, said.append)
    assert [(r.label, r.state, r.how) for r in results] == [
        ("fate raise", "failed", "run"),
        ("fate well", "finished", "run"),
    ]
    assert "RuntimeError: no such luck (own_space.py:" in (results[0].error or "")
    assert said[0] == "[1/2] fate raise"
    assert said[1].startswith("failed: fate raise: RuntimeError: no such luck")
    assert plan(study, out).results[0].record == results[1].record
    (own_space / "own_space.py").write_text((own_space / "own_space.py").read_text().replace("== 'raise'", "== ''"))
    reload(sys.modules["own_space"])
    again = run_missing(plan(study, out), out, said.append)
    assert [(r.label, r.state, r.how) for r in again] == [("fate raise", "finished", "run again")]
    assert len(list(out.glob("20*"))) == 2


def test_nothing_is_trained_where_a_run_can_never_work(own_space: Path) -> None:
    study = make_study({**fates("well").model_dump(), "grid": {"space_options.fate": ["well", 3]}})
    with pytest.raises(OptionError, match=r"run 'fate 3': .*fate=3"):
        run_missing(plan(study, own_space / "out"), own_space / "out", print)
    warmup = {**QUICK, "epochs": 3, "strategy_options": {"warmup_epochs": 3}, "space_options": {"width": 0.05}}
    with pytest.raises(OptionError, match="run 'pmpl, seed 0': warmup_epochs is 3, but"):
        run_missing(plan(table_study("table3", warmup, [0]), own_space / "out"), own_space / "out", print)
    assert not (own_space / "out").exists()


# The papers' tables


def test_what_a_table_lacks_is_named_until_it_is_there(tmp_path: Path) -> None:
    base = {"dataset": "digits", "preset": "quick", "retrain_epochs": 3}

    def missing(seeds: int, **changes: Any) -> list[str]:
        return [run.label for run in plan(table_study("table3", {**base, **changes}, range(seeds)), tmp_path).missing]

    runs = table_study("table3", base, range(2)).runs()
    assert [run.config.seed for run in runs] == [0] * 8 + [1] * 8
    configs = [run.config for run in runs[:8]]
    assert [config.method for config in configs] == ["fixed"] * 3 + ["random", "pmpl", "pmpl", "darts", "darts"]
    assert [c.strategy_options["order"] for c in configs[-2:]] == [1, 2]
    candidates = ["none", "avg3", "global"]
    assert all(c.retrain_epochs == 3 and c.space_options["candidates"] == candidates for c in configs)
    assert [c.strategy_options["fixing"] for c in configs[4:6]] == ["lead", "evidence"]
    assert configs[6].strategy_options["eta"] == 0.1  # the preset's
    for config in configs:
        given = {name: value for name, value in config.model_dump().items() if value is not None}
        write_run(tmp_path, **given)
    assert missing(1) == []
    assert missing(2) == [run.label for run in runs[8:]]
    assert len(missing(1, retrain_epochs=4)) == 8  # another recipe
    assert missing(1, strategy="pmpl", strategy_options={"eta": 0.01}) == ["pmpl, seed 0", "evidence, seed 0"]
    assert missing(1, strategy_options={"eta": 0.01}) == [
        f"{row}, seed 0" for row in ("pmpl", "evidence", "darts1", "darts2")
    ]


def test_runs_elsewhere_count_where_they_are_finished_and_packs_are_only_read(tmp_path: Path) -> None:
    study = table_study("table3", {"preset": "quick"}, [0], ("none", "global"))
    done = write_run(tmp_path / "mine", space_options={"candidates": "ablation"}, preset="quick")
    other = write_run(
        tmp_path / "mine", architecture="global", space_options={"candidates": "ablation"}, preset="quick"
    )
    Record(other).set_status(state="interrupted", stages={})
    packed = {path.name: {f.name: f.read_bytes() for f in path.iterdir() if f.is_file()} for path in (done, other)}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.records.xz").write_bytes(write_pack(packed))
    for planned in (plan(study, tmp_path / "out"), plan(study, tmp_path / "new", others=[tmp_path / "mine"])):
        assert [r.label for r in planned.results] == ["none, seed 0"]
        assert [(run.label, run.interrupted) for run in planned.missing] == [("global, seed 0", None)]


@pytest.mark.parametrize(
    ("name", "rows"),
    [("fashion_mnist", [row for row in ABLATION if row != "evidence"]), ("fashion_mnist_patient", ["pmpl"])],
)
def test_the_experiments_know_their_kept_runs(name: str, rows: list[str]) -> None:
    folder = ROOT / "experiments"
    study = table_study("table3", read_config(folder / f"{name}.yaml"), [0, 1, 2], rows)
    planned = plan(study, folder / "absent", others=[folder / "records"])
    assert (len(planned.results), planned.missing) == (3 * len(rows), [])


def test_strategy_options_are_for_every_row_whose_strategy_takes_them() -> None:
    def options(base: dict[str, Any], name: str) -> dict[str, Any]:
        runs = table_study("table3", base, [0]).runs()
        return {run.label.partition(",")[0]: run.config.strategy_options.get(name) for run in runs}

    given = {"strategy_options": {"eta": 0.07, "trials": 3}}
    assert options(given, "eta") == {
        **dict.fromkeys(("none", "local", "global", "random")),
        **dict.fromkeys(("pmpl", "evidence", "darts1", "darts2"), 0.07),
    }
    assert options(given, "trials")["random"] == 3
    assert options({"strategy": "pmpl", "strategy_options": {"eta": 0.07}}, "eta")["darts1"] != 0.07


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"strategy_options": {"etta": 0.1}}, "no row of table3 takes 'etta'"),
        ({"strategy_options": {"order": 2}}, "no row of table3 takes 'order'"),  # the rows say it
        ({"strategy": "random", "strategy_options": {"eta": 0.1}}, "no row of table3 takes 'eta'"),
        ({"strategy_options": [1]}, "strategy_options must be a mapping"),
        ({"space": "menet"}, "the rows of table3 are networks of mbv2_metapool, not of menet"),
        ({"architecture": "global"}, "architecture: every run of table3 has its own"),
        ({"seed": 3}, "seed: every run of table3 has its own"),
        ({"epoch": 3}, "did you mean 'epochs'"),
    ],
)
def test_settings_that_no_row_heeds_are_refused(base: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as raised:
        table_study("table3", base, [0])
    assert message in str(raised.value)


def test_tables_of_several_widths_need_every_width(tmp_path: Path) -> None:
    study = table_study("table2", {}, [0])
    assert [run.config.space_options["width"] for run in study.runs()] == [1.0] * 4 + [0.75] * 4 + [0.5] * 4
    write_run(tmp_path, space_options={"width": 0.75, "candidates": "ablation"})
    assert "none 0.75, seed 0" not in [run.label for run in plan(study, tmp_path).missing]
    assert len(plan(study, tmp_path).missing) == 11


def test_the_ablation_is_table_3_without_its_last_row() -> None:
    base = {"dataset": "digits", "preset": "quick", "epochs": 5, "train_images": 100}
    runs = ablation(base, [0, 1]).runs()
    assert [run.config for run in runs] == [
        run.config for run in table_study("table3", base, [0, 1]).runs() if not run.label.startswith("darts2")
    ]
    assert [run.label for run in runs][:7] == [f"{row}, seed 0" for row in ABLATION]


def test_the_ablation_of_another_space(own_space: Path) -> None:
    configs = [
        run.config for run in ablation({"space": "own_space:Space", "space_options": {"fate": "bad"}}, [0]).runs()
    ]
    assert {config.space for config in configs} == {"own_space:Space"}
    assert all(config.space_options == {"fate": "bad"} for config in configs)


def test_the_table_says_what_failed(
    own_space: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (own_space / "own_evaluator.py").write_text(
        "from nasbench.evaluators.classification import Classification\n"
        "class Own(Classification):\n"
        "    def evaluate(self, model):\n"
        "        raise RuntimeError('no such luck')\n"
    )
    settings = {**QUICK, "evaluator": "own_evaluator:Own", "space_options": {"width": 0.05}}
    (own_space / "tiny.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["table", "table4", "--run", "--seeds", "1", "--config", "tiny.yaml", "--format", "md"]
    assert command(arguments, monkeypatch) == 2
    out, err = capfd.readouterr()
    assert "Failed, and so left out: sk, seed 0: RuntimeError: no such luck (own_evaluator.py:4)." in out
    assert "6 run(s) of table4 failed" in err.splitlines()[-1]
    settings["weights"] = "absent.pt"
    (own_space / "tiny.yaml").write_text(yaml.safe_dump(settings))
    assert command([*arguments, "--out", "new"], monkeypatch) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "run 'none, seed 0': weights absent.pt cannot be read" in err.splitlines()[-1]
    assert not (own_space / "new").exists()
