"""What TensorBoard, MLflow and the CSV file have of a run is what its record says, once."""

from __future__ import annotations

import csv
import json
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeping import command
from test_resume import LEAD, interrupted
from test_resume import TINY as SMALL
from typer.testing import CliRunner

from nasbench import loggers
from nasbench.cli import app
from nasbench.config import RUN
from nasbench.errors import OptionError
from nasbench.export.format import load_network
from nasbench.loggers import Logs
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import Record

mlflow = pytest.importorskip("mlflow")
accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

TINY = SMALL | {"epochs": 2, "retrain_epochs": 2, "train_images": 96, "strategy_options": LEAD}
Points = dict[str, list[tuple[int, float]]]  # name → steps and values, in the order in which they were logged


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an MLflow store of this test's own, which the environment names."""
    address = f"sqlite:///{tmp_path}/store.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    return address


def of_mlflow(record: Record) -> Points:
    client = mlflow.MlflowClient()
    logged = client.get_run(run_of(record))
    histories = {name: client.get_metric_history(logged.info.run_id, name) for name in logged.data.metrics}
    return {name: [(point.step, point.value) for point in points] for name, points in histories.items()}


def run_of(record: Record) -> str:
    return str(json.loads((record.path / "logs" / "mlflow.json").read_text())["run"])


def of_tensorboard(record: Record) -> Points:
    events = accumulator.EventAccumulator(str(record.path / "logs" / "tensorboard"))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def of_csv(record: Record) -> Points:
    found: Points = {}
    with (record.path / "logs" / "csv" / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                found.setdefault(name, []).extend([(step, float(value))] if value else [])
    return found


def of_record(record: Record) -> Points:
    """What the record says: of a stage that trains one network."""
    found: Points = {}
    for row in record.curves("metrics.csv"):
        found.setdefault(f"{row['stage']}/{row['name']}", []).append((int(row["step"]), float(row["value"])))
    numbers = record.result().model_dump().items()
    return found | {f"test/{k}": [(0, float(v))] for k, v in numbers if isinstance(v, (int, float))}


READERS: dict[str, Callable[[Record], Points]] = {
    "csv": of_csv,
    "tensorboard": of_tensorboard,
    "mlflow": of_mlflow,
}


def assert_logged(record: Record, name: str) -> None:
    logged, expected = READERS[name](record), of_record(record)
    assert logged.keys() == expected.keys()
    for curve, points in expected.items():
        assert [step for step, _ in logged[curve]] == [step for step, _ in points], curve
        assert [value for _, value in logged[curve]] == pytest.approx([value for _, value in points], rel=1e-6)


@pytest.mark.parametrize("name", ["csv", "tensorboard", pytest.param("mlflow", marks=pytest.mark.slow)])
def test_a_run_that_was_interrupted_is_logged_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TINY | {"logger": name}
    broken = interrupted(settings, tmp_path / "runs", "retrain", 8, monkeypatch)  # in the second epoch of 6 steps
    half = READERS[name](Record(broken))
    assert len(half["search/entropy"]) == 2
    assert len(half["retrain/val_top1"]) == 1
    if name == "mlflow":
        before = run_of(Record(broken))
        assert mlflow.MlflowClient().get_run(before).info.status == "FAILED"
    record = run(resolve_config(settings), broken)
    assert_logged(record, name)
    assert {"search/fixed_layers", "search/train_top1", "retrain/val_top1", "test/top1"} <= READERS[name](record).keys()
    assert len(READERS[name](record)["search/fixed_layers"]) == 2
    assert CliRunner().invoke(app, ["verify", str(record.path)]).exit_code == 0
    assert CliRunner().invoke(app, ["clean", str(record.path), "--force"]).exit_code == 0
    assert_logged(record, name)
    if name == "mlflow":
        assert run_of(record) == before
        assert_mlflow_has_it_all(record)


def assert_mlflow_has_it_all(record: Record) -> None:
    client = mlflow.MlflowClient()
    (logged,) = client.search_runs([client.get_experiment_by_name("nasbench").experiment_id])
    assert (logged.info.status, logged.info.run_name) == ("FINISHED", record.path.name)
    settings = record.config().part(*RUN)
    assert logged.data.params["epochs"] == "2"
    assert logged.data.params["strategy_options/eta"] == str(settings["strategy_options"]["eta"])
    assert "data_root" not in logged.data.params  # a folder of this machine
    names = {"config.yaml", "architecture.json", "decisions.json", "result.json", "network.onnx"}
    assert {file.path for file in client.list_artifacts(logged.info.run_id)} == names
    for file in names - {"network.onnx"}:
        fetched = Path(client.download_artifacts(logged.info.run_id, file))
        assert fetched.read_bytes() == (record.path / file).read_bytes()
    network = load_network(Path(client.download_artifacts(logged.info.run_id, "network.onnx")))
    assert network.card.architecture == record.architecture()


def test_every_network_of_a_search_has_steps_of_its_own(tmp_path: Path) -> None:
    settings = TINY | {"strategy": "random", "strategy_options": {"trials": 3}, "epochs": 1, "logger": "csv"}
    record = run(resolve_config(settings), tmp_path / "runs")
    rows = [r for r in record.curves("metrics.csv") if (r["stage"], r["name"]) == ("search", "train_loss")]
    each = int(rows[0]["step"])
    assert [int(r["step"]) for r in rows] == [each] * 3
    logged = of_csv(record)["search/train_loss"]
    assert logged == [(each * n, float(r["value"])) for n, r in enumerate(rows, 1)]


def test_the_logger_may_change_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TINY | {"architecture": "none", "strategy_options": {}}
    broken = interrupted(settings, tmp_path / "runs", "retrain", 8, monkeypatch)
    assert not (broken / "logs").exists()
    record = run(resolve_config(settings | {"logger": "csv"}), broken)
    assert_logged(record, "csv")


def test_where_the_environment_names_no_store_it_is_mlflows_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setattr(loggers, "NETWORKS", ("torch", "safetensors"))  # of which the first is not possible
    own = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: own)  # else that of the test before: it is kept by MLflow
    settings = TINY | {"architecture": "none", "strategy_options": {}, "logger": "mlflow"}
    record = run(resolve_config(settings), tmp_path / "runs")
    assert json.loads((record.path / "logs" / "mlflow.json").read_text())["store"] == own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own)
    assert_logged(record, "mlflow")
    assert "network.safetensors" in {file.path for file in mlflow.MlflowClient().list_artifacts(run_of(record))}


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_missing_package_is_named_with_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    assert command(["run", "--logger", name, "--out", str(tmp_path / "runs")], monkeypatch) == 2
    assert capsys.readouterr().err == (
        f'error: logger {name} needs the package {name}: pip install "nasbench[loggers]"\n'
    )
    assert not (tmp_path / "runs").exists()


def test_a_server_that_does_not_answer_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free.getsockname()[1]}")
    assert command(["run", "--logger", "mlflow", "--out", str(tmp_path / "runs")], monkeypatch) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: logger mlflow cannot be written: ")
    assert told.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_server_that_is_lost_ends_no_run_and_gets_later_what_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pytorch_lightning.loggers import MLFlowLogger

    log, asked = MLFlowLogger.log_metrics, []

    def unsteady(*arguments: Any, **named: Any) -> None:
        asked.append(1)
        if len(asked) == 1:
            raise ConnectionError("lost")
        log(*arguments, **named)

    monkeypatch.setattr(MLFlowLogger, "log_metrics", unsteady)
    monkeypatch.setattr(loggers, "NETWORKS", ())
    settings = TINY | {"architecture": "none", "strategy_options": {}, "logger": "mlflow"}
    record = run(resolve_config(settings), tmp_path / "runs")
    told = capsys.readouterr().err
    assert "warning: logger mlflow cannot be written: ConnectionError: lost" in told
    assert f"warning: MLflow got no network: see what `nasbench export {record.path}` says" in told
    assert_logged(record, "mlflow")


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(OptionError, match="logger: input should be 'none', 'tensorboard', 'mlflow' or 'csv'"):
        resolve_config(TINY | {"logger": "wandb"})


@pytest.mark.slow
def test_only_the_first_of_several_processes_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    start = Logs.__init__

    def counted(self: Logs, *arguments: Any) -> None:
        opened.append("here")
        start(self, *arguments)

    monkeypatch.setattr(Logs, "__init__", counted)
    settings = TINY | {"architecture": "none", "strategy_options": {}, "logger": "csv", "devices": 2}
    record = run(resolve_config(settings), tmp_path / "runs")
    assert opened == ["here"]
    assert_logged(record, "csv")
