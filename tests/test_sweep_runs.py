"""Real sweeps as NNI experiments: failures, kills, Ctrl-C, tuners, assessors, and the ablation."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweeping import QUICK, enter_own_space, fates, leftovers, running, sweep_file, wait_for

from nasbench.nni_bridge.portal import NNI_FOLDER, group_of, members
from nasbench.nni_bridge.sweep import MANAGER, prepare_sweep, run_sweep
from nasbench.record import Record
from nasbench.results.collect import collect
from nasbench.results.tables import build
from nasbench.studies.plan import plan
from nasbench.studies.study import make_study
from nasbench.studies.tables import ABLATION, shared_setting, spec, table_study


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's space, as the current one."""
    return enter_own_space(tmp_path, monkeypatch)


def test_runs_that_fail_do_not_stop_the_others(own_space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    sweep = fates("raise", "record", concurrency=2)
    said: list[str] = []
    out = own_space / "out"
    allocation = prepare_sweep(sweep)
    results = run_sweep(sweep, allocation, out, said.append)
    assert [(r.label, r.state, r.how) for r in results] == [
        ("fate raise", "failed", "run"),
        ("fate record", "finished", "run"),
    ]
    assert "RuntimeError: no such luck (own_space.py:" in (results[0].error or "")
    assert any(line.startswith("failed    fate raise: RuntimeError: no such luck") for line in said)
    record = results[1].record
    assert record is not None
    assert record.resolve().parent == out
    environment, threads = eval((own_space / "inherited").read_text())
    assert environment["OMP_NUM_THREADS"] == str(threads) == str(allocation.threads)
    assert "OMP_NUM_THREADS" not in os.environ
    assert "NODE_OPTIONS" not in environment
    assert not any(name.startswith("NASBENCH_PORTAL") for name in environment)
    assert leftovers(str(out)) == []
    summary = json.loads((out / "sweep.json").read_text())["runs"]
    assert [run["state"] for run in summary] == ["failed", "finished"]
    assert summary[1]["record"] == record.name
    again = plan(sweep, out)
    assert [r.label for r in again.results] == ["fate record"]
    assert [item.interrupted is not None for item in again.missing] == [True]


def told(folder: Path, key: str) -> list[Any]:
    """What `sweep.json` says of every run."""
    return [run[key] for run in json.loads((folder / "sweep.json").read_text())["runs"]]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_to_the_same_table(own_space: Path) -> None:
    """SIGKILL while one run is finished and one is under way; what is left running is stopped by the next start."""
    sweep = make_study(
        {**fates("well", "wait").model_dump(), "grid": {"space_options.fate": ["well", "wait"], "seed": [0, 1]}}
    )
    name = sweep_file(own_space, sweep)
    with running("sweep", name, "--out", "out", cwd=own_space) as first:
        first.line("finished  fate well, seed 0")
        first.line("started   fate wait, seed 0")
        note = own_space / "out" / NNI_FOLDER / MANAGER
        noted = json.loads(note.read_text())
        folder = own_space / "out"
        wait_for(lambda: any("fate: wait" in path.read_text() for path in folder.glob("20*/config.yaml")))
        first.process.kill()
        first.process.wait()
        os.kill(noted["pid"], signal.SIGSTOP)  # else it would notice within a second
    assert group_of(noted["id"]) == noted["pid"]
    assert len(members(noted["pid"])) >= 3  # manager, tuner and a trial
    (own_space / "go").touch()
    with running("sweep", name, "--out", "out", cwd=own_space) as second:
        assert second.end() == 0, second.said
    assert any(line.startswith("stopping what an earlier sweep left running") for line in second.said)
    assert members(noted["pid"]) == []
    assert leftovers(str(own_space / "out")) == []
    with running("sweep", name, "--out", "undisturbed", cwd=own_space) as third:
        assert third.end() == 0
    results = {}
    for folder in ("out", "undisturbed"):
        runs = json.loads((own_space / folder / "sweep.json").read_text())["runs"]
        results[folder] = [
            (r["label"], r["state"], Record(own_space / folder / r["record"]).result().top1) for r in runs
        ]
        assert len(list((own_space / folder).glob("20*"))) == 4
    assert results["out"] == results["undisturbed"]
    assert told(own_space / "out", "how") == ["from its record", "run again", "run", "run"]


@pytest.mark.slow
def test_a_manager_whose_sweep_was_killed_stops_by_itself(own_space: Path) -> None:
    name = sweep_file(own_space, fates("wait", "well"))
    with running("sweep", name, "--out", "out", cwd=own_space) as sweep:
        sweep.line("started   fate wait")
        group = json.loads((own_space / "out" / NNI_FOLDER / MANAGER).read_text())["pid"]
        sweep.process.kill()
        sweep.end()
    wait_for(lambda: not members(group), 60)
    assert leftovers(str(own_space / "out")) == []
    assert not any("well" in (p / "config.yaml").read_text() for p in (own_space / "out").glob("20*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(number: int, own_space: Path) -> None:
    name = sweep_file(own_space, fates("wait", "well"))
    with running("sweep", name, "--out", "out", cwd=own_space) as sweep:
        address = sweep.line("portal: ")
        sweep.line("started   fate wait")
        (record,) = wait_for(
            lambda: (
                [p.parent for p in (own_space / "out").glob("20*/search.csv")]
                or [p.parent for p in (own_space / "out").glob("20*/data.json")]
            )
        )
        with running("sweep", name, "--out", "out", cwd=own_space) as other:
            assert other.end() == 2
        assert any("another sweep is running in out" in line for line in other.said)
        sweep.process.send_signal(number)
        assert sweep.end(60) == 130
    port = int(address.split(":")[2].partition("/")[0])
    assert leftovers(str(own_space / "out"), f"--port {port}") == []
    assert Record(record).status().state == "interrupted"
    assert [r["state"] for r in json.loads((own_space / "out" / "sweep.json").read_text())["runs"]] == [
        "not finished"
    ] * 2
    (own_space / "go").touch()
    with running("sweep", name, "--out", "out", cwd=own_space) as again:
        assert again.end() == 0
    assert [r["how"] for r in json.loads((own_space / "out" / "sweep.json").read_text())["runs"]] == [
        "run again",
        "run",
    ]


@pytest.mark.slow
def test_a_run_without_a_word_and_one_that_is_no_run(own_space: Path) -> None:
    name = sweep_file(own_space, fates("killed", "well", concurrency=2))
    with running("sweep", name, "--out", "out", cwd=own_space) as sweep:
        assert sweep.end() == 1
    assert "failed    fate killed: killed without a word" in "\n".join(sweep.said)
    assert any(line.startswith("fate well") and "finished" in line for line in sweep.printed)
    assert sweep.said[-1] == "1 of 2 run(s) did not finish; the same command runs them again"
    assert (own_space / "out" / "report" / "index.html").is_file()


@pytest.mark.slow
def test_a_tuner_learns_and_goes_on(tmp_path: Path) -> None:
    """TPE with median stop; stopped after two trials, it is told of them when it goes on."""
    space = {"strategy_options.eta": {"loguniform": [0.01, 0.3]}, "strategy_options.rho": {"uniform": [0.05, 0.3]}}
    given = {
        "base": {
            **QUICK,
            "strategy": "pmpl",
            "space_options": {"width": 0.05},
            "strategy_options": {"warmup_epochs": 0},
        },
        "search": space,
        "tuner": {"name": "TPE", "options": {"seed": 3}},
        "assessor": {"name": "Medianstop", "options": {"start_step": 9}},
        "trials": 2,
    }
    sweep = make_study(given)
    allocation = prepare_sweep(sweep)
    first = run_sweep(sweep, allocation, tmp_path, print)
    assert [r.state for r in first] == ["finished"] * 2
    for result in first:
        assert result.record is not None
        options = Record(result.record).config().strategy_options
        assert result.parameters == {f"strategy_options.{k}": options[k] for k in ("eta", "rho")}
    # One more, and one of the two broken off.
    record = Record(first[0].record)  # type: ignore[arg-type]
    record.set_status(state="interrupted", stages={"search": record.status().stages["search"]})
    more = make_study({**given, "trials": 3})
    second = run_sweep(more, allocation, tmp_path, print)
    assert sorted(r.how for r in second) == ["from its record", "run", "run again"]
    assert all(r.state == "finished" for r in second)
    assert [r.parameters for r in second if r.how == "run again"] == [first[0].parameters]
    assert len(list(tmp_path.glob("20*"))) == 3
    logs = "".join(p.read_text() for p in tmp_path.glob(".nni/*/log/dispatcher.log"))
    assert "Replayed 1 FINISHED trials" in logs
    assert "Traceback" not in logs


@pytest.mark.slow
def test_an_assessor_stops_a_bad_run_early(own_space: Path) -> None:
    sweep = fates("good", "bad", concurrency=1, assessor={"name": "Medianstop", "options": {"start_step": 2}})
    sweep = sweep.model_copy(update={"base": {**sweep.base, "retrain_epochs": 8}})
    name = sweep_file(own_space, sweep)
    for hows in (["run", "run"], ["from its record"] * 2):
        with running("sweep", name, "--out", "out", cwd=own_space) as started:
            assert started.end() == 0, started.said
        assert told(own_space / "out", "state") == ["finished", "stopped early"]
        assert told(own_space / "out", "how") == hows
    (record,) = [p for p in (own_space / "out").glob("20*") if "fate: bad" in (p / "config.yaml").read_text()]
    assert Record(record).status().state == "interrupted"


@pytest.mark.slow
def test_the_ablation_by_the_command(tmp_path: Path) -> None:
    """One seed of the real ablation, tiny: a record a row, which Table 3 knows."""
    settings = {**QUICK, "epochs": 4, "retrain_epochs": 1, "space_options": {"width": 0.05}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["ablation", "--dataset", "digits", "--seeds", "3", "--config", "tiny.yaml", "--concurrency", "2"]
    with running("sweep", *arguments, cwd=tmp_path) as sweep:
        assert sweep.end(600) == 0, sweep.said
    out = tmp_path / "runs" / "ablation"
    frame = collect([out]).frame
    assert len(frame) == len(ABLATION)
    study = table_study("table3", {"dataset": "digits", **settings}, [3])
    table = build("table3", frame, shared_setting(study))
    filled = [row for row in table.rows if row["top1"].value]
    assert [row["row"].value for row in filled] == [row.title for row in spec("table3").rows if row.key in ABLATION]
    assert sum("all three, PMPL by evidence" in line for line in sweep.printed) == 1
    assert [run.label for run in plan(study, out).missing] == ["darts2, seed 3"]
    with running("sweep", *arguments, cwd=tmp_path) as again:
        assert again.end() == 0
    assert not any(line.startswith("portal") for line in again.said)
    assert sum("from its record" in line for line in again.printed) == len(ABLATION)
