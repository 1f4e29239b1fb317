"""One run in several processes: the same search as in one, the same architecture everywhere, and clean ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasbench.data.base import SharedBatches
from nasbench.distributed import broadcast, node_rank
from nasbench.errors import DataError, OptionError
from nasbench.networks import load_model
from nasbench.pipeline import build_evaluator
from nasbench.presets import resolve_config
from nasbench.record import Record
from tests.ranks import SCENARIOS, search

REPOSITORY = Path(__file__).parent.parent


def free_port() -> str:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found in every scenario of `tests.ranks`."""
    out = tmp_path_factory.mktemp("ranks")
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", str(out / f"{rank}.json"), *SCENARIOS],
            cwd=REPOSITORY,
            env={
                **os.environ,
                **{"LOCAL_RANK": str(rank), "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            _, errors = rank.communicate(timeout=240)
            assert rank.returncode == 0, errors
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("scenario", ["pmpl", "fixing", "evidence", "darts1", "darts2"])
def test_two_processes_search_like_one_at_twice_the_batch(scenario: str, two: list[dict[str, Any]]) -> None:
    """In float64, without batch statistics, on the same images."""
    alone = search(scenario, devices=1)
    assert alone["steps"] == 20 or scenario in ("fixing", "evidence")
    assert (len(alone["fixed"]) > 0) == (scenario == "fixing")
    assert any(alone["excluded"].values()) == (scenario == "evidence")
    for rank in two:
        found = rank[scenario]
        assert found["steps"] == alone["steps"]
        assert found["alphas"].keys() == alone["alphas"].keys()
        for label, alpha in alone["alphas"].items():
            assert found["alphas"][label] == pytest.approx(alpha, abs=1e-5)
            assert max(abs(a) for a in alpha) > 0.05  # α has moved by far more than it may differ
        assert found["architecture"] == alone["architecture"]
        assert found["decisions"] == alone["decisions"]
        assert found["excluded"] == alone["excluded"]


def test_each_process_learns_from_other_images(two: list[dict[str, Any]]) -> None:
    for part in ("train", "val"):
        first, second = (rank["pmpl"]["seen"][part] for rank in two)
        assert len(first) == len(second) == 20 * 8
        # Pairs of halves: in each step no image is in both.
        for step in range(20):
            assert not set(first[step * 8 : step * 8 + 8]) & set(second[step * 8 : step * 8 + 8])


def test_with_batch_statistics_all_processes_hold_the_same(two: list[dict[str, Any]]) -> None:
    first, second = (rank["batch_norm"] for rank in two)
    assert first["alphas"] == second["alphas"]
    assert first["architecture"] == second["architecture"]
    assert first["fixed"] == second["fixed"]
    assert first["weights"] == second["weights"]


@pytest.mark.parametrize("scenario", ["skewed_pmpl", "skewed_darts"])
def test_a_skewed_process_does_not_split_the_architecture(scenario: str, two: list[dict[str, Any]]) -> None:
    """The second process's own α is pushed towards other candidates in every step."""
    first, second = (rank[scenario] for rank in two)
    assert second["pushed"] == second["steps"] > 5
    assert first["pushed"] == 0
    assert first["architecture"] == second["architecture"]
    assert first["fixed"] == second["fixed"]


# The parts of a batch


@given(
    images=st.integers(1, 70), batch=st.integers(1, 24), world=st.integers(1, 5), seed=st.integers(0, 3), data=st.data()
)
def test_the_parts_make_up_the_batches_of_one_process(
    images: int, batch: int, world: int, seed: int, data: st.DataObject
) -> None:
    batch *= world
    if images < world:
        with pytest.raises(DataError, match="cannot be shared out"):
            SharedBatches(images, batch, True, seed, 0, world)
        return
    for shuffle in (True, False):
        parts = [SharedBatches(images, batch, shuffle, seed, rank, world) for rank in range(world)]
        for _ in range(2):  # the order of the second pass is another one, and the same in all processes
            passes = [list(part) for part in parts]
            assert {len(p) for p in passes} == {len(parts[0])}
            assert all(len(b) > 0 for p in passes for b in p)
            seen = [i for p in passes for b in p for i in b]
            assert len(seen) == len(set(seen))
            if not shuffle:
                assert sorted(seen) == list(range(images))
    if batch <= images:
        whole = SharedBatches(images, batch, True, seed)
        parts = [SharedBatches(images, batch, True, seed, rank, world) for rank in range(world)]
        joined = [[i for part in together for i in part] for together in zip(*parts, strict=True)]
        assert joined == list(whole)


@given(images=st.integers(5, 70), batch=st.integers(1, 24), world=st.integers(1, 5), seed=st.integers(0, 3))
def test_batches_that_repeat_are_the_same_in_every_pass_and_of_one_size(
    images: int, batch: int, world: int, seed: int
) -> None:
    parts = [SharedBatches(images, batch * world, True, seed, rank, world) for rank in range(world)]
    usual = len(parts[0])
    for part in parts:
        part.repeat()
    first, second = ([list(part) for part in parts] for _ in range(2))
    assert first == second
    assert {len(own) for own in first} == {len(parts[0])}
    (size,) = {len(b) for own in first for b in own}
    assert size <= batch
    seen = [i for own in first for b in own for i in b]
    assert len(seen) == len(set(seen)) == size * world * len(parts[0])
    assert len(parts[0]) >= usual
    assert images - len(seen) < max(size * world, len(parts[0]) + world)
    other = SharedBatches(images, batch * world, True, seed + 1)
    other.repeat()
    assert images < 30 or list(other) != list(parts[0])


# Whole runs

TINY: dict[str, Any] = {
    "space_options": {"width": 0.1},
    "strategy_options": {"warmup_epochs": 0},
    "image_size": 8,
    "train_images": 128,
    "batch_size": 32,
    "epochs": 1,
    "retrain_epochs": 1,
    "device": "cpu",
}


def command(tmp_path: Path, **changes: Any) -> list[str]:
    """`nasbench run` with tiny settings."""
    path = tmp_path / "settings.yaml"
    path.write_text(json.dumps(TINY | {"devices": 2} | changes))
    return [sys.executable, "-m", "nasbench", "run", "--config", str(path), "--out", str(tmp_path / "runs"), "--json"]


def finish(process: subprocess.Popen[str], seconds: float = 240) -> tuple[str, str]:
    """Wait for a process; returns what it printed."""
    try:
        return process.communicate(timeout=seconds)
    finally:
        process.kill()


def start(arguments: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a process that can be interrupted."""
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        # Workers of pytest ignore Ctrl-C, and their children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.slow
def test_one_record_comes_out_of_two_processes(tmp_path: Path) -> None:
    process = start(command(tmp_path))
    printed, errors = finish(process)
    assert process.returncode == 0, errors
    assert len(printed.splitlines()) == 1
    result = json.loads(printed)
    (folder,) = (tmp_path / "runs").iterdir()
    record = Record(folder)
    assert record.status().state == "finished"
    assert record.config().devices == 2
    assert len(result["architecture"]) == 17
    # The whole test set was measured, each image once: the accuracy is that of the network in the record.
    data = build_evaluator(record.config().model_copy(update={"devices": 1}), "retrain").datamodule
    model = load_model(folder)
    right = sum(
        int((model(data.normalise(images)).argmax(1) == labels).sum()) for images, labels in data.test_dataloader()
    )
    total = sum(len(labels) for _, labels in data.test_dataloader())
    assert result["top1"] == pytest.approx(right / total, abs=1e-6)
    assert sum(record.confusion().values()) == total
    assert sum(n for (true, predicted), n in record.confusion().items() if true == predicted) == right
    # Curves once, not once a process.
    rows = [(r["stage"], r["epoch"], r["name"]) for r in record.curves("metrics.csv")]
    assert len(rows) == len(set(rows))
    assert not list(folder.glob("*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["darts", "random", "nni.nas.strategy:GumbelDARTS"])
def test_other_strategies_in_two_processes(strategy: str, tmp_path: Path) -> None:
    options = {"darts": {"warmup_epochs": 0}, "random": {"trials": 2}}.get(strategy, {})
    process = start(command(tmp_path, strategy=strategy, strategy_options=options))
    printed, errors = finish(process)
    assert process.returncode == 0, errors
    assert len(json.loads(printed)["architecture"]) == 17


@pytest.mark.slow
def test_online_distillation_in_two_processes(tmp_path: Path) -> None:
    own = {"space": "cheap_resnet", "space_options": {"depth": 8}, "evaluator": "online_distillation"}
    process = start(command(tmp_path, strategy="fixed", strategy_options={}, **own))
    printed, errors = finish(process)
    assert process.returncode == 0, errors
    told = json.loads(printed)
    reported = told["distillation"]["reported"]
    assert told["top1"] == told["distillation"]["test_top1"][reported]


def two_machines(tmp_path: Path, **other: Any) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    """The first processes of two machines; the second may have other settings."""
    (tmp_path / "other").mkdir()
    settings = {"devices": 1, "nodes": 2}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    second = start(command(tmp_path / "other", **{**settings, **other}), NODE_RANK="1", **address)
    return start(command(tmp_path, **settings), NODE_RANK="0", **address), second


@pytest.mark.slow
def test_machines_with_different_settings(tmp_path: Path) -> None:
    first, second = two_machines(tmp_path, retrain_epochs=3)
    assert "started with other settings: retrain_epochs differ(s)" in finish(second)[1]
    assert second.returncode == 2
    finish(first)
    assert first.returncode == 1
    (folder,) = (tmp_path / "runs").iterdir()
    assert Record(folder).status().state == "failed"


@pytest.mark.slow
def test_two_machines(tmp_path: Path) -> None:
    """Two first processes, of which one writes the record, as on two machines."""
    first, second = two_machines(tmp_path)
    printed, errors = finish(first)
    assert first.returncode == 0, errors
    assert finish(second)[0] == ""
    assert second.returncode == 0
    assert not (tmp_path / "other" / "runs").exists()
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert json.loads(printed)["record"]


@pytest.mark.parametrize(
    ("changes", "environment", "message"),
    [
        ({"batch_size": 33}, {}, "batch_size 33 cannot be shared out equally among 2 processes"),
        ({"device": "cuda:0"}, {}, "names a single device"),
        ({"evaluator": "tests.ranks:Lonely"}, {}, "it runs in one process"),
        ({"nodes": 2}, {}, "set NODE_RANK to 0 … 1"),
        ({"nodes": 2}, {"NODE_RANK": "2"}, "set NODE_RANK"),
        ({"nodes": 2}, {"NODE_RANK": "0"}, "set MASTER_ADDR"),
        ({}, {"TORCHELASTIC_RUN_ID": "x"}, "without torchrun"),
    ],
)
def test_mistakes_show_before_a_record_is_made(
    changes: dict[str, Any], environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from nasbench.pipeline import run

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=message):
        run(resolve_config(TINY | {"devices": 2} | changes), tmp_path)
    assert not list(tmp_path.iterdir())


def test_alone_nothing_is_asked_of_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_RANK", "3")
    assert node_rank(resolve_config(TINY)) == 0
    assert broadcast({"a": 1}) == {"a": 1}


# What becomes of all when one ends


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a process has started."""
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether processes end within some seconds."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def failing(tmp_path: Path, how: dict[str, str], grace: float = 60.0) -> subprocess.Popen[str]:
    """Start a run of two processes of which some fail in the search."""
    arguments = command(tmp_path, space="tests.ranks:Failing", space_options={}, train_images=640, epochs=20)
    code = f"import nasbench.distributed as d; d.GRACE_SECONDS = {grace}; from nasbench.cli import main; main()"
    arguments[1:3] = ["-c", code]
    return start(arguments, FAILING=json.dumps(how), HANGING=str(tmp_path / "hanging"))


def hanging(process: subprocess.Popen[str], tmp_path: Path) -> list[psutil.Process]:
    """Wait until a process hangs; returns those that it has started."""
    deadline = time.monotonic() + 120
    while not (tmp_path / "hanging").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found = descendants(process)
    assert found
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"1": "raise"}, "process 1: ValueError: lost power (ranks.py:"),
        ({"1": "kill"}, "process 1 was ended by SIGKILL (out of memory?)"),
        ({"0": "raise"}, "ValueError: lost power (ranks.py:"),
    ],
    ids=["raise", "kill", "first"],
)
def test_a_failing_process_ends_the_run_with_its_reason(how: dict[str, str], reason: str, tmp_path: Path) -> None:
    process = failing(tmp_path, how)
    _, errors = finish(process)
    assert process.returncode == 1
    assert reason.split(" (ranks")[0] in errors.splitlines()[-1]
    (folder,) = (tmp_path / "runs").iterdir()
    status = Record(folder).status()
    assert status.state == "failed"
    assert reason in (status.error or "")
    if how == {"1": "raise"}:
        assert "Traceback" in (folder / "log.txt").read_text()  # the other process's


@pytest.mark.slow
def test_a_first_process_that_hangs_is_ended_too(tmp_path: Path) -> None:
    process = failing(tmp_path, {"0": "hang", "1": "raise"}, grace=1.0)
    _, errors = finish(process)
    assert process.returncode == 1
    assert "error: process 1: ValueError: lost power" in errors
    (folder,) = (tmp_path / "runs").iterdir()
    assert Record(folder).status().state == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_the_others_end_with_the_first(how: signal.Signals, tmp_path: Path) -> None:
    process = failing(tmp_path, {"1": "hang"})
    others = hanging(process, tmp_path)
    process.send_signal(how)
    finish(process, 60)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert gone(others, 20)
    (folder,) = (tmp_path / "runs").iterdir()
    if how == signal.SIGINT:
        assert Record(folder).status().state == "interrupted"
    # The same command on the same folder goes on.
    again = failing(tmp_path, {})
    again.kill()
    arguments = [a if a != str(tmp_path / "runs") else str(folder) for a in again.args]  # type: ignore[union-attr]
    resumed = start(arguments, FAILING="{}")
    _, errors = finish(resumed)
    assert resumed.returncode == 0, errors
    assert Record(folder).status().state == "finished"
