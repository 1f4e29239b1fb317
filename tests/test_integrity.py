"""What has changed in a record is named, and never taken for what the run wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from nasbench.cli import app
from nasbench.errors import RecordError
from nasbench.networks import load_model
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import CONFIG, DATA_FILES, MODEL, STATUS, TRIALS, Record
from nasbench.watch import Watcher
from tests.records import write_run
from tests.test_resume import TINY, assert_alike


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one short search, which has every file."""
    settings = TINY | {"epochs": 1, "retrain_epochs": 2, "limits": {"params": "10M"}}
    return run(resolve_config(settings), tmp_path_factory.mktemp("runs")).path


@pytest.fixture
def record(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def call(*words: object) -> Any:
    return CliRunner().invoke(app, [*map(str, words)])


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [*(name for name in DATA_FILES if name != TRIALS), MODEL])
def test_a_flipped_bit_is_named(record: Path, name: str) -> None:
    assert call("verify", record).exit_code == 0
    for place in (0.1, 0.5, 0.9):
        flip(record / name, place)
        told = call("verify", record)
        assert told.exit_code == 1
        assert told.stdout.startswith("damaged")
        assert name in told.stdout
        flip(record / name, place)
    assert call("verify", record).exit_code == 0


def test_changed_weights_are_never_loaded(record: Path) -> None:
    flip(record / MODEL, 0.9)
    with pytest.raises(RecordError, match=r"model\.safetensors is damaged: it is not what the run wrote"):
        load_model(record)
    for words in (["export", record, "-o", record / "x.onnx"], ["predict", record, Path(__file__)]):
        assert isinstance(call(*words).exception, RecordError), words
    assert not (record / "x.onnx").exists()


def test_what_can_be_made_again_is(record: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (record / "result.json").unlink()
    flip(record / "environment.json")
    with monkeypatch.context() as patched:
        patched.delattr(Watcher, "on_train_start")  # nothing is trained for it
        assert call("resume", record).exit_code == 0
    assert_alike(finished, record)
    (record / MODEL).unlink()  # a run without its network is not finished
    told = call("resume", record)
    assert "model.safetensors: it is missing; the stage retrain is repeated" in told.stderr
    assert_alike(finished, record)
    assert call("verify", record).exit_code == 0


def test_what_cannot_be_made_again_is_refused(record: Path) -> None:
    flip(record / "decisions.json")
    told = call("resume", record)
    assert isinstance(told.exception, RecordError)
    assert "decisions.json is damaged and cannot be made again" in str(told.exception)
    command = str(told.exception).partition("`nasbench run --config ")[2].rstrip("`")
    assert Path(command).is_file()


def test_moved_photos_are_no_damage(record: Path) -> None:
    text = (record / "config.yaml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("data_root:"))
    (record / "config.yaml").write_text(text.replace(line, "data_root: /elsewhere"))
    assert call("verify", record).exit_code == 0
    (record / "config.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    assert call("verify", record).exit_code == 1


def test_a_pack_is_verified_too(record: Path, tmp_path: Path) -> None:
    pack = tmp_path / "all.records.xz"
    assert call("pack", record, "-o", pack).exit_code == 0
    told = call("verify", pack)
    assert told.exit_code == 0
    assert told.stdout.startswith("whole")
    older = write_run(tmp_path / "older")
    told = call("verify", older.parent, pack)
    assert told.exit_code == 0
    assert told.stdout.startswith("unsealed")
    assert "2 of 2 record(s) are whole" in told.stderr


def test_a_pack_of_what_an_older_version_wrote_is_whole(record: Path, tmp_path: Path) -> None:
    """Which knew fewer settings."""
    settings = yaml.safe_load((record / CONFIG).read_text())
    del settings["max_epochs"], settings["max_minutes"]
    (record / CONFIG).write_text(yaml.safe_dump(settings, sort_keys=False))
    Record(record).seal([CONFIG])
    assert call("verify", record).exit_code == 0
    pack = tmp_path / "all.records.xz"
    assert call("pack", record, "-o", pack).exit_code == 0
    assert call("verify", pack).exit_code == 0
    assert Record(pack / "run").config().max_epochs is None


def test_the_run_of_a_dead_process_is_interrupted(record: Path) -> None:
    status = json.loads((record / STATUS).read_text())
    (record / STATUS).write_text(json.dumps({**status, "state": "running", "sha256": {}}))
    assert Record(record).status().state == "interrupted"
    with Record(record).owned():
        assert Record(record).status().state == "running"
    assert call("show", record).exit_code == 0


def test_clean_lists_first_and_frees_then(record: Path) -> None:
    (record / ".status.json.123.tmp").write_text("left")
    told = call("clean", record)
    assert told.exit_code == 0
    assert "best.ckpt" in told.stdout
    assert "would be freed" in told.stderr
    assert (record / "checkpoints" / "best.ckpt").is_file()
    with Record(record).owned():
        assert not call("clean", record, "--force").stdout
    assert call("clean", record, "--force").exit_code == 0
    assert not list((record / "checkpoints").iterdir())
    assert not list(record.glob(".*.tmp"))
    assert call("verify", record).exit_code == 0
    assert "0.0 MiB" in call("clean", record).stderr


FULL = """
mount -t tmpfs -o size=24m tmpfs "$1" || exit 77
shift
python=$1; folder=$2; shift 2
while ! ls "$folder"/*/status.json >/dev/null 2>&1; do sleep 0.05; done && dd if=/dev/zero of="$folder/fill" bs=64k &
"$python" -m nasbench run "$@" --out "$folder"; code=$?
wait
rm "$folder/fill"
[ $code = 1 ] && "$python" -m nasbench resume "$folder"/*/ && "$python" -m nasbench verify "$folder"
"""


def test_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path: Path) -> None:
    settings = ["--dataset", "digits", "--preset", "quick", "--choice", "none", "-p", "width=0.05", "--device", "cpu"]
    settings += ["--train-images", "160", "--batch-size", "16", "--retrain-epochs", "2"]
    words = ["sh", "-c", FULL, "sh", tmp_path, sys.executable, tmp_path, *settings]
    done = subprocess.run(["unshare", "-Urm", *words], capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "is full, 0 MiB are free: remove something" in line
    assert "Traceback" not in done.stderr
    assert done.stdout.rstrip().splitlines()[-1].startswith("whole")


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=2**20))
    told = call("run", "--dataset", "digits", "--preset", "quick", "--choice", "none", "--out", tmp_path / "runs")
    assert getattr(told.exception, "exit_code", None) == 1
    assert "1 MiB are free" in str(told.exception)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_part_of_the_crash_test() -> None:
    script = Path(__file__).parent.parent / "experiments" / "crash_test.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, script, "--short", "--seed", "1"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=1800, check=False)
    if "no file system can be mounted here" in done.stderr:
        pytest.skip("no file system can be mounted here")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every run went on bit for bit" in done.stdout
    assert "damaged files" in done.stdout
