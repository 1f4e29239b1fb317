"""Search → derive → retrain → test: the record, resuming, repeating, and reuse of what came out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import nasbench
from nasbench.config import RunConfig
from nasbench.data.arrays import Digits
from nasbench.errors import OptionError, RecordError
from nasbench.networks import load_model
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.progress import Display
from nasbench.record import Record
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.weights import fill, read_file

TINY: dict[str, Any] = {
    "space_options": {"width": 0.05},
    "image_size": 8,
    "train_images": 96,
    "batch_size": 16,
    "epochs": 2,
    "retrain_epochs": 2,
    "device": "cpu",
}


def config(**changes: Any) -> RunConfig:
    """A configuration that runs in seconds."""
    strategy = changes.get("strategy", "pmpl")
    lead = {"fixing": "lead", "eta": 0.1} if strategy == "pmpl" else {}
    options = {"strategy_options": {"warmup_epochs": 1, **lead}} if strategy in ("pmpl", "darts") else {}
    return resolve_config(TINY | options | changes)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """One finished tiny run of PMPL."""
    return run(config(), tmp_path_factory.mktemp("runs"))


def test_the_record_is_complete_and_readable(record: Record) -> None:
    names = {p.name for p in record.path.iterdir()}
    assert names - {".lock"} == {
        *("config.yaml", "environment.json", "status.json", "data.json", "architecture.json", "decisions.json"),
        *("search.csv", "metrics.csv", "result.json", "model.safetensors", "checkpoints", "log.txt"),
        "confusion.csv",
    }
    assert {p.name for p in (record.path / "checkpoints").iterdir()} == {"best.ckpt"}
    assert record.config() == config()
    status = record.status()
    assert status.state == "finished"
    assert list(status.stages) == ["search", "retrain", "test"]
    search = status.stages["search"].model_extra or {}
    assert (search["train_images"], search["meta_images"]) == (77, 19)
    assert status.stages["retrain"].train_images == 87  # type: ignore[attr-defined]
    assert record.environment().packages["torch"]


def test_search_csv_tells_every_candidate_s_share(record: Record) -> None:
    rows = record.curves("search.csv")
    assert list(rows[0]) == ["step", "label", "candidate", "pi", "fixed"]
    by_label: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        by_label.setdefault((row["step"], row["label"]), []).append(float(row["pi"]))
    assert all(len(pi) == 8 and abs(sum(pi) - 1) < 1e-4 for pi in by_label.values())
    assert len({label for _, label in by_label}) == 17
    # α stands still in the warm-up epoch of four steps, and moves afterwards.
    assert by_label["0", "block01.enhancer"] == by_label["4", "block01.enhancer"]
    assert by_label["8", "block01.enhancer"] != by_label["4", "block01.enhancer"]


def test_decisions_say_why(record: Record) -> None:
    architecture, decisions = record.architecture(), record.decisions()
    assert list(architecture) == list(decisions) == [f"block{i:02d}.enhancer" for i in range(1, 18)]
    for label, d in decisions.items():
        assert d.pi is not None
        pi = sorted(d.pi.values())
        assert d.pi[architecture[label]] == pi[-1]
        assert (d.by == "threshold") == (pi[-1] - pi[-2] >= 0.2)
        assert (d.step or 0) > 4
        assert (d.train_loss or 0) > 0


def test_metrics_csv(record: Record) -> None:
    rows = record.curves("metrics.csv")
    assert list(rows[0]) == ["stage", "epoch", "step", "name", "value"]
    names = {(r["stage"], r["name"]) for r in rows}
    assert {("search", "train_loss"), ("search", "train_top1"), ("retrain", "val_top1")} <= names
    assert all(np.isfinite(float(r["value"])) for r in rows)


def test_the_loaded_network_has_the_accuracy_of_the_result(record: Record) -> None:
    model = load_model(record.path)
    assert not model.training
    told = record.data()
    data = Digits(image_size=8, batch_size=64)
    data.setup()
    data.mean, data.std = tuple(told.mean), tuple(told.std)
    correct = total = 0
    with torch.no_grad():
        for images, labels in data.test_dataloader():
            correct += int((model(data.normalise(images)).argmax(1) == labels).sum())
            total += len(labels)
    assert total == 359
    assert correct / total == pytest.approx(record.result().top1, abs=1e-6)
    assert nasbench.load_model is load_model


def test_the_network_starts_afresh(record: Record, tmp_path: Path) -> None:
    """Retraining knows the architecture only: from its JSON file the very same network comes out."""
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(record.architecture()))
    other = run(config(strategy="fixed", strategy_options={"choice": str(path)}), tmp_path)
    a, b = (load_file(r.path / "model.safetensors") for r in (record, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_the_same_seed_gives_the_same_result_and_another_seed_runs(record: Record, tmp_path: Path) -> None:
    again = run(config(), tmp_path).result().model_dump()
    before = record.result().model_dump()
    assert again["architecture"] == before["architecture"]
    assert again["top1"] == before["top1"]
    other = run(config(seed=1), tmp_path)
    assert load_file(other.path / "model.safetensors")["classifier.1.weight"].sum() != pytest.approx(
        float(load_file(record.path / "model.safetensors")["classifier.1.weight"].sum())
    )


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("random", {}),
        ("random", {"trials": 2}),
        ("fixed", {"choice": "paper"}),
        ("darts", {"order": 1, "warmup_epochs": 0}),
        ("darts", {"order": 2, "warmup_epochs": 0}),
    ],
)
def test_every_strategy_goes_through_the_same_path(strategy: str, options: dict[str, Any], tmp_path: Path) -> None:
    done = run(config(strategy=strategy, strategy_options=options, epochs=1, retrain_epochs=1), tmp_path)
    assert done.result().search.get("fixed_by_threshold", 0) == 0
    assert done.status().state == "finished"
    by = {d.by for d in done.decisions().values()}
    words = {"darts": "limit", "fixed": "given"}
    assert by == {words.get(strategy, "the best of 2 drawn at random" if options else "drawn at random")}


@pytest.mark.parametrize("strategy", ["pmpl", "darts", "random", "fixed"])
def test_every_strategy_runs_on_fashion_mnist(strategy: str, real_data: Path, tmp_path: Path) -> None:
    options = {"fixed": {"choice": "global"}, "random": {}}.get(strategy, {"warmup_epochs": 1})
    changes = {"dataset": "fashion_mnist", "data_root": str(real_data), "image_size": None, "train_images": 200}
    done = run(config(strategy=strategy, strategy_options=options, **changes), tmp_path)
    assert done.status().state == "finished"
    assert done.data().class_names[0] == "T-shirt/top"
    assert done.data().train_images == 180


class Counted(Digits):
    """Digits that count how often each part is asked for."""

    asked: list[str] = []  # noqa: RUF012

    def train_dataloader(self) -> Any:
        self.asked.append(f"{self.stage} train")
        return super().train_dataloader()

    def val_dataloader(self) -> Any:
        self.asked.append(f"{self.stage} val")
        return super().val_dataloader()

    def test_dataloader(self) -> Any:
        self.asked.append("test")
        return super().test_dataloader()


def test_the_test_images_are_touched_once_at_the_end(tmp_path: Path) -> None:
    Counted.asked.clear()
    run(config(dataset=f"{__name__}:Counted", preset="quick"), tmp_path)
    assert Counted.asked.count("test") == 1
    assert Counted.asked[-1] == "test"
    assert {"search train", "search val", "retrain train", "retrain val"} < set(Counted.asked)


def test_an_interrupted_run_goes_on_after_its_last_stage(record: Record, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(record.path, folder)
    copy = Record(folder)
    stages = {"search": copy.status().stages["search"]}
    copy.set_status(state="interrupted", stages=stages)
    for name in ("result.json", "model.safetensors"):
        (folder / name).unlink()
    searched = (folder / "search.csv").stat().st_mtime_ns
    done = run(config(), folder)
    assert done.path == folder
    assert (folder / "search.csv").stat().st_mtime_ns == searched
    assert done.result().top1 == record.result().top1
    stages = [r["stage"] for r in done.curves("metrics.csv")]
    assert stages.count("retrain") == [r["stage"] for r in record.curves("metrics.csv")].count("retrain")
    # A finished record is left as it is.
    result = (folder / "result.json").stat().st_mtime_ns
    run(config(), folder)
    assert (folder / "result.json").stat().st_mtime_ns == result


def test_a_record_of_another_configuration_is_refused(record: Record) -> None:
    with pytest.raises(RecordError, match=r"another configuration: seed, epochs differ"):
        run(config(seed=7, epochs=3), record.path)


def test_a_record_has_one_owner(record: Record) -> None:
    with record.owned(), pytest.raises(RecordError, match="is being written by another process"):
        run(config(), record.path)
    run(config(), record.path)  # the lock is gone with its owner


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_and_run_again(how: signal.Signals, record: Record, tmp_path: Path) -> None:
    settings = tmp_path / "config.yaml"
    slow = config(epochs=2, retrain_epochs=60)
    settings.write_text(json.dumps(slow.model_dump(mode="json")))
    command = [sys.executable, "-m", "nasbench", "run", "--config", str(settings), "--json"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "runs")],
        stdout=-1,
        stderr=-1,
        text=True,
        # Workers of pytest ignore Ctrl-C, and their children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/checkpoints/retrain-*.ckpt")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    (folder,) = (tmp_path / "runs").iterdir()
    if how != signal.SIGKILL:
        assert process.returncode == 130
        assert "goes on" in errors
        assert Record(folder).status().state == "interrupted"
    assert not (folder / "result.json").exists()
    before = (folder / "architecture.json").stat().st_mtime_ns
    done = subprocess.run([*command, "--out", str(folder)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["record"] == str(folder)
    assert (folder / "architecture.json").stat().st_mtime_ns == before


def test_a_crash_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(self: Any, x: Any) -> Any:
        raise RuntimeError("lost power")

    monkeypatch.setattr(MobileNetV2MetaPooling, "forward", crash)
    with pytest.raises(RuntimeError):
        run(config(), tmp_path)
    (folder,) = tmp_path.iterdir()
    status = Record(folder).status()
    assert status.state == "failed"
    assert "RuntimeError: lost power" in str(status.error)


# Weights


def test_pretrained_weights_are_used_where_they_fit(tmp_path: Path) -> None:
    space = MobileNetV2MetaPooling(width=0.05, num_classes=7, image_size=8)
    marked = {k: torch.full_like(v, 0.5) for k, v in space.state_dict().items() if v.is_floating_point()}
    torch.save(marked, tmp_path / "weights.pth")
    target = MobileNetV2MetaPooling(width=0.05, num_classes=10, image_size=8)
    fit = fill(target, read_file(tmp_path / "weights.pth"))
    assert (fit.used, fit.tensors) == (len(marked) - 2, len(marked))  # the classifier is for another number of classes
    assert "classifier.1.weight (10×1280 ≠ 7×1280)" in str(fit)
    assert target.features[0][0].weight.mean().item() == 0.5
    assert target.classifier[1].weight.mean().item() != 0.5
    save_file({"elsewhere": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(OptionError, match="fit too little: 0 % of the convolutions, 0 of 1 tensors"):
        fill(target, read_file(tmp_path / "other.safetensors"))


def test_a_weight_file_runs_no_code(tmp_path: Path) -> None:
    torch.save({"a": os.system}, tmp_path / "evil.pth")
    with pytest.raises(OptionError, match="cannot be read"):
        fill(torch.nn.Linear(1, 1), read_file(tmp_path / "evil.pth"))


# Evaluator options


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1, "gradient_clip": 1.0, "ema": 0.9, "momentum": 0.8},
        {"channels_last": False},
    ],
)
def test_evaluator_options_run(options: dict[str, Any], tmp_path: Path) -> None:
    done = run(config(evaluator_options=options, epochs=2, retrain_epochs=1), tmp_path)
    assert done.status().state == "finished"
    assert load_model(done.path)


def test_mixed_precision_runs(tmp_path: Path) -> None:
    done = run(config(precision="bf16", epochs=2, retrain_epochs=1), tmp_path)
    assert done.status().state == "finished"
    with pytest.raises(OptionError, match="loss scaling"):
        run(config(precision="16"), tmp_path)


def test_the_averaged_weights_are_the_ones_that_are_kept(tmp_path: Path) -> None:
    plain = run(config(strategy="random", strategy_options={}), tmp_path)
    averaged = run(config(strategy="random", strategy_options={}, evaluator_options={"ema": 0.999}), tmp_path)
    a, b = (load_file(r.path / "model.safetensors")["classifier.1.weight"] for r in (plain, averaged))
    start = torch.zeros_like(a)
    # With a slow average the weights stay near their start: small.
    assert (b - start).norm() < (a - start).norm()


def test_deterministic_algorithms_alone_are_used_and_give_the_same(record: Record, tmp_path: Path) -> None:
    seen: list[bool] = []

    class Looking(Display):
        def epoch(self, epoch: int, facts: str) -> None:
            seen.append(torch.are_deterministic_algorithms_enabled())

    again = run(config(deterministic=True), tmp_path, Looking())
    assert seen == [True] * 4
    assert not torch.are_deterministic_algorithms_enabled()
    assert again.result().top1 == record.result().top1
    weights = [load_file(r.path / "model.safetensors") for r in (record, again)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
