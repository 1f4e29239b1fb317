"""Faults that were put into a machine and into records are found by name; a sound run has none."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import nasbench
from nasbench import doctor
from nasbench.cli import app
from nasbench.config import dump_config
from nasbench.doctor import Finding, of_machine, of_run
from nasbench.errors import LimitError, NonFiniteError
from nasbench.facts import DataFacts, Decision, Doubt
from nasbench.finite import check_finite
from nasbench.limits.budget import budget_of
from nasbench.nni_bridge.portal import FIRST_PORT, LOOPBACK, is_free
from nasbench.packs import write_pack
from nasbench.presets import resolve_config
from nasbench.record import (
    CONFIG,
    CONFUSION,
    DATA,
    DATA_FILES,
    DECISIONS,
    METRICS,
    MODEL,
    RESULT,
    SEARCH,
    STATUS,
    Record,
    write_atomic,
)
from tests.records import write_run

SOUND = {
    "train_loss": (2.0, 1.0, 0.5, 0.3, 0.3),
    "train_top1": (0.3, 0.6, 0.8, 0.9, 0.9),
    "val_loss": (2.0, 1.0, 0.6, 0.5, 0.5),
    "val_top1": (0.3, 0.6, 0.8, 0.88, 0.88),
}
CLASSES = 10
TINY: dict[str, Any] = {"space_options": {"width": 0.05}, "image_size": 8, "train_images": 96, "batch_size": 16}


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def curves(record: Record, **changed: Sequence[float]) -> None:
    """The training of the network, and ten steps an epoch of a search before it."""
    of_search = [("search", e, 10 * e, "train_loss", 2 - e / 5) for e in range(1, 6)]
    measured = (SOUND | changed).items()
    of_training = [("retrain", e, e, name, value) for name, values in measured for e, value in enumerate(values, 1)]
    record.write_csv(METRICS, [*of_search, *of_training])


def confuse(record: Record, right: Sequence[int], wrong: Sequence[int]) -> None:
    """Of every class so many test images right, and so many taken for the next class; the result says so, too."""
    count = len(right)
    taken = [[right[i] if i == j else wrong[i] * (j == (i + 1) % count) for j in range(count)] for i in range(count)]
    record.write_confusion(taken)
    recalls = [r / (r + w) for r, w in zip(right, wrong, strict=True)]
    top1 = sum(right) / (sum(right) + sum(wrong))
    result = record.result().model_copy(update={"top1": top1, "balanced_accuracy": sum(recalls) / count})
    record.write_json(RESULT, result)


def one_answer(record: Record) -> None:
    """900 of 1,000 test images are of one class, and every answer is that."""
    record.write_confusion([[900, *[0] * 9], [100, *[0] * 9], *[[0] * 10] * 8])
    curves(record, train_top1=(0.89, 0.9, 0.9, 0.9, 0.9))


def settle(record: Record, options: Mapping[str, Any] | None = None, **changed: Any) -> None:
    """Other settings, and options of the strategy."""
    config = record.config()
    strategy = {**config.strategy_options, **(options or {})}
    write_atomic(record.path / CONFIG, dump_config(config.model_copy(update={**changed, "strategy_options": strategy})))
    record.seal([CONFIG])


def undecided(needed: int | None) -> Callable[[Record], None]:
    """Evidence that has decided nothing in 50 steps."""

    def change(record: Record) -> None:
        doubt = Doubt(best="none", rival="global", mean=0.01, deviation=0.1, steps=50, needed=needed)
        decision = Decision(by="undecided", step=50, survivors=["none", "global"], doubt=doubt)
        record.write_json(DECISIONS, dict.fromkeys(record.architecture(), decision))
        settle(record, {"fixing": "evidence"})

    return change


def uniform(record: Record) -> None:
    pi = {"none": 0.33, "avg3": 0.33, "global": 0.34}
    record.write_json(DECISIONS, dict.fromkeys(record.architecture(), Decision(by="limit", pi=pi)))


def exploded(record: Record) -> None:
    """The guard's own words."""
    broken = torch.nn.Linear(1, 1)
    with torch.no_grad():
        broken.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError) as raised:
        check_finite("retrain", 7, broken)
    record.set_status(state="failed", error=str(raised.value))


def missed(record: Record) -> None:
    """What a run says whose network costs too much when it is measured again."""
    budget = budget_of(resolve_config({**TINY, "limits": {"params": "10M"}}), CLASSES, 8)
    tight = [replace(costs, limit=replace(costs.limit, value=1e3)) for costs in budget.costs]
    with pytest.raises(LimitError) as raised:
        replace(budget, costs=tight).settle(budget.costs[0].base, {})
    record.set_status(state="failed", error=str(raised.value))


def damage(name: str) -> Callable[[Record], None]:
    def change(record: Record) -> None:
        path = record.path / name
        path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))

    return change


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has everything: it learnt, decided, was tested on enough images, and is whole."""
    path = write_run(
        tmp_path_factory.mktemp("runs"), strategy="pmpl", steps=50, preset="quick", epochs=5, retrain_epochs=5
    )
    record = Record(path)
    record.write_json(DATA, DataFacts(class_names=[*"0123456789"], image_size=16, held_out_images=1000))
    confuse(record, [90] * CLASSES, [10] * CLASSES)
    curves(record)
    (path / MODEL).write_bytes(b"weights")
    record.seal([*(name for name in DATA_FILES if name != STATUS), MODEL])
    return path


@pytest.fixture
def record(made: Path, tmp_path: Path) -> Record:
    """A copy of it, to be spoilt."""
    return Record(shutil.copytree(made, tmp_path / "a run"))


def test_a_sound_run_has_no_fault_and_is_told_so(record: Record) -> None:
    told = call("doctor", record.path)
    assert told.exit_code == 0
    assert told.stdout.splitlines()[-3:] == ["state: finished", "", "nothing found"]
    assert json.loads(call("doctor", record.path, "--json").stdout)["findings"] == []


# Name → what is done to a sound run, the severity, a number of the finding, and how its command ends.
PLANTED: dict[str, tuple[str, Callable[[Record], Any], str, str, str]] = {
    "NaN": ("diverged", exploded, "fault", "step 7: bias is not finite", "config.yaml -e learning_rate=0.005"),
    "loss": (
        *("diverged", lambda r: curves(r, train_loss=(2.3, 2.5, 9.9, 7.5, 8.25)), "fault"),
        *("2.3 after the first epoch of the retrain, 8.25 after the last", "-e learning_rate=0.005"),
    ),
    "guesses": (
        *("at chance", lambda r: confuse(r, [11] * CLASSES, [89] * CLASSES), "fault"),
        *("11.0 % of 1,000 test images right (95 % interval 9.1 % to 13.1 %); 10.0 % by chance", "--retrain-epochs 15"),
    ),
    "one answer": (
        *("at chance", one_answer, "fault"),
        *("; 90.0 % by chance", "--retrain-epochs 15"),
    ),
    "learnt by heart": (
        *("overfitting", lambda r: curves(r, train_top1=(0.3, 0.9, 1, 1, 1), val_loss=(2, 0.6, 0.5, 0.7, 0.9))),
        *("caution", "lowest held-out loss after epoch 3", "--retrain-epochs 3"),
    ),
    "stopped early": (
        *("still improving", lambda r: curves(r, train_top1=(0.3, 0.5, 0.6, 0.7, 0.8), val_loss=(2, 1, 0.9, 0.8, 0.7))),
        *("caution", "from 70.0 % to 80.0 %", "--retrain-epochs 10"),
    ),
    "no evidence": ("undecided", undecided(None), "caution", "0 of 17 layers decided", "nasbench explain"),
    "uniform": ("undecided", uniform, "caution", "π within 0.007 of uniform", "nasbench explain"),
    "evidence too short": ("too few steps", undecided(100), "caution", "about 100 steps, and had 50", "--epochs 10"),
    "lead too short": (
        *("too few steps", lambda r: settle(r, {"eta": 1e-3, "warmup_epochs": 1}), "caution"),
        *("in 40 steps of α at η = 0.001 a candidate can lead by 0.027 at most, and ρ is 0.2", "-s eta=null"),
    ),
    "few held out": (
        "small held-out set",
        lambda r: r.write_json(DATA, r.data().model_copy(update={"held_out_images": 50})),
        *(
            "caution",
            "88.0 % of 50 held-out images right (95 % interval 75.7 % to 95.5 %)",
            "--data-root FOLDER_WITH_MORE",
        ),
    ),
    "few tested": (
        *("small test set", lambda r: confuse(r, [9] * CLASSES, [1] * CLASSES), "caution"),
        *("90.0 % of 100 test images", "--data-root FOLDER_WITH_MORE"),
    ),
    "unequal": (
        *("unequal classes", lambda r: confuse(r, [900] * 9 + [10], [10] * 9 + [90]), "caution"),
        *("balanced accuracy: 90.01 %", "-e balance=loss"),
    ),
    "flipped bit": ("damaged", damage(SEARCH), "fault", f"{SEARCH}: it is not what the run wrote", "config.yaml"),
    "bit that can be mended": ("damaged", damage(CONFUSION), "fault", CONFUSION, "nasbench resume"),
    "state": ("damaged", damage(STATUS), "fault", "status.json is damaged", "nasbench verify"),
    "killed": ("interrupted", lambda r: r.set_status(state="running"), "fault", "process is gone", "nasbench resume"),
    "error": (
        *("failed", lambda r: r.set_status(state="failed", error="KeyError: 3 (part.py:7)"), "fault"),
        *("KeyError: 3 (part.py:7)", "nasbench resume"),
    ),
    "deleted": ("weights missing", lambda r: (r.path / MODEL).unlink(), "fault", MODEL, "nasbench resume"),
    "limit": (
        *("limit missed", missed, "fault"),
        *("misses its limits when measured: params=1k (", "config.yaml --image-size auto"),
    ),
}


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_fault_is_found_by_name(planted: str, record: Record) -> None:
    name, plant, severity, measured, command = PLANTED[planted]
    plant(record)
    _, found = of_run(record)
    (it,) = (finding for finding in found if finding.name == name)
    assert it.severity == severity
    assert measured in it.measured
    assert command in it.command
    told = call("doctor", record.path)
    assert told.exit_code == (1 if severity == "fault" else 0), told.stdout
    assert f"\n{severity}: {name}\n" in told.stdout
    assert f"\n    {it.command}\n" in told.stdout
    words = shlex.split(it.command)
    assert any(str(record.path) in word for word in words), "the name of a folder may have spaces"


def test_twelve_faults_have_names_of_their_own() -> None:
    assert len({name for name, *_ in PLANTED.values()}) >= 12


def test_classes_that_the_training_weighs_are_no_finding(record: Record) -> None:
    confuse(record, [900] * 9 + [10], [10] * 9 + [90])
    config = record.config()
    settle(record, evaluator_options={**config.evaluator_options, "balance": "loss"})
    assert of_run(record)[1] == []


def test_of_a_training_that_stopped_early_its_best_epoch_counts(record: Record) -> None:
    curves(record, train_top1=(0.3, 0.9, 1, 1, 1), val_loss=(2, 0.6, 0.5, 0.7, 0.9))
    assert "overfitting" in names(of_run(record)[1])
    retrain = record.status().stages["retrain"]
    record.finish_stage("retrain", **{**retrain.model_dump(), "epochs": 5, "best_epoch": 3})
    assert "overfitting" not in names(of_run(record)[1])


def test_a_pack_has_no_weights_and_misses_none(record: Record, tmp_path: Path) -> None:
    files = {name: (record.path / name).read_bytes() for name in DATA_FILES if (record.path / name).is_file()}
    status = json.loads(files[STATUS])
    files[STATUS] = json.dumps({**status, "sha256": {}}).encode()
    (tmp_path / "some.records.xz").write_bytes(write_pack({"one": files}))
    assert of_run(Record(tmp_path / "some.records.xz" / "one"))[1] == []


def test_a_run_that_is_under_way_is_judged_by_what_there_is(record: Record) -> None:
    curves(record, train_top1=(0.3, 0.9, 1, 1, 1), val_loss=(2, 0.6, 0.5, 0.7, 0.9))
    confuse(record, [11] * CLASSES, [89] * CLASSES)
    record.forget(["retrain", "test"])
    with record.owned():
        record.set_status(state="running")
        facts, found = of_run(record)
    assert (facts["state"], found) == ("running", [])


def test_what_is_no_record_is_a_mistake_and_no_fault(tmp_path: Path) -> None:
    assert isinstance(call("doctor", tmp_path).exception, nasbench.NasbenchError)


def test_what_strangers_wrote_does_not_reach_the_terminal(record: Record) -> None:
    record.set_status(state="failed", error="\x1b[31m[bold]red")
    told = call("doctor", record.path).stdout
    assert "\n[bold]red\n" in told
    assert "\x1b" not in told


# The machine


def names(found: Sequence[Finding]) -> list[str]:
    return [finding.name for finding in found]


def test_a_machine_is_told_with_its_versions_devices_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cifar10.npz").touch()
    monkeypatch.setenv("NASBENCH_DATA", str(tmp_path))
    facts, _ = of_machine()
    assert all(f"{name} " in facts["versions"] for name in ("nasbench", "Python", "torch", "torchvision", "nni"))
    assert facts["data root"] == f"{tmp_path} holds cifar10.npz"
    assert f"threads {torch.get_num_threads()}" in facts["devices"]
    monkeypatch.setenv("NASBENCH_DATA", str(tmp_path / "nowhere"))
    assert of_machine()[0]["data root"] == f"{tmp_path / 'nowhere'} is no folder"


def test_a_port_in_use_is_told_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(doctor, "FIRST_PORT", port)
        (it,) = (finding for finding in of_machine()[1] if finding.name == "port in use")
    assert it.measured.startswith(f"{port} is; the portal takes ")
    assert is_free(int(it.measured.rpartition(" ")[2]))
    assert FIRST_PORT == 8080


def test_little_room_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "little room" not in names(of_machine()[1])
    monkeypatch.setattr(doctor, "ROOM", 2**62)
    assert "little room" in names(of_machine()[1])


def test_another_package_of_the_name_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nasbench").mkdir()
    (tmp_path / "nasbench" / "__init__.py").touch()
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (it,) = (finding for finding in of_machine()[1] if finding.name == "another nasbench")
    assert str(tmp_path / "nasbench") in it.measured


def test_the_command_alone_looks_at_the_machine() -> None:
    told = call("doctor")
    assert told.exit_code == 0
    assert told.stdout.startswith("versions: Python ")
    assert {"versions", "devices", "disk", "data root", "findings"} == json.loads(
        call("doctor", "--json").stdout
    ).keys()
