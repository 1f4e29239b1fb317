"""Studies as NNI experiments: what a tuner is told, how the machine is shared out, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeping import QUICK, command, enter_own_space, fates

from nasbench.errors import OptionError
from nasbench.nni_bridge.experiment import Allocation, check_algorithms
from nasbench.nni_bridge.sweep import allocate, prepare_sweep
from nasbench.nni_bridge.tuner import Resumed
from nasbench.presets import resolve_config
from nasbench.studies.study import make_study, read_study

ROOT = Path(__file__).parent.parent


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's space, as the current one."""
    return enter_own_space(tmp_path, monkeypatch)


def test_every_run_is_checked_before_anything_starts(own_space: Path) -> None:
    base = {**QUICK, "epochs": 4}
    with pytest.raises(OptionError, match=r"run 'rho 2': strategy 'pmpl': rho must be > 0 and < 1"):
        prepare_sweep(make_study({"base": base, "grid": {"strategy_options.rho": [0.2, 2]}}))
    with pytest.raises(OptionError, match=r"run 'rho 1.5': strategy 'pmpl': rho must be"):
        prepare_sweep(make_study({"base": base, "search": {"strategy_options.rho": {"uniform": [0.1, 1.5]}}}))
    with pytest.raises(OptionError, match=r"run 'fate 3': .*fate=3"):
        prepare_sweep(make_study({**fates("well").model_dump(), "grid": {"space_options.fate": ["well", 3]}}))
    assert prepare_sweep(fates("well", "raise")).threads >= 1


# Tuners


SEARCH = {"strategy_options.rho": {"uniform": [0.1, 0.4]}, "strategy_options.eta": {"loguniform": [0.01, 0.3]}}


def test_a_search_is_nnis() -> None:
    sweep = make_study({"search": SEARCH, "assessor": {"name": "Medianstop", "options": {"start_step": 2}}})
    assert sweep.runs() == []
    assert sweep.search_space()["strategy_options.eta"] == {"_type": "loguniform", "_value": [0.01, 0.3]}
    assert [tuple(c.parameters.values()) for c in sweep.samples()] == [(0.1, 0.01), (0.4, 0.01), (0.1, 0.3)]
    for tuner in ("TPE", "Random", "Evolution", "GridSearch", "Anneal"):
        if tuner != "Anneal":  # hyperopt is not among the packages that nasbench installs
            check_algorithms(sweep.model_copy(update={"tuner": make_study({"tuner": tuner}).tuner}))


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
        check_algorithms(make_study({"search": SEARCH, **given}))
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


# The command


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
    assert sum("seed" in line for line in out.splitlines()) == 21
    assert "darts1, seed 5" in out
    assert "21 to run" in err
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
        sweep = read_study(path)
        check_algorithms(sweep)
        assert len(sweep.runs() or sweep.samples()) > 1
