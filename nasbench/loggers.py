"""A run in TensorBoard, MLflow or a CSV file, by Lightning's loggers, which get what its record gets, every epoch."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nasbench.config import RUN, RunConfig
from nasbench.errors import NasbenchError, OptionError
from nasbench.export.format import load_format
from nasbench.export.write import export
from nasbench.files import write_atomic
from nasbench.machine import environment
from nasbench.record import ARCHITECTURE, CONFIG, DECISIONS, METRICS, RESULT, Record
from nasbench.registry import describe_exception
from nasbench.watch import Report

FOLDER, NOTE = "logs", "mlflow.json"  # in the record; in it, which run of MLflow it is
NETWORKS = ("onnx", "safetensors")  # formats of the network that MLflow gets: the first that is possible
ENDS = {"finished": "success", "interrupted": "KILLED"}  # state of a run → how its logger is told, else `failed`
# A store that does not answer is given up after seconds, not MLflow's minutes: what it misses, it gets an epoch later.
PATIENCE = {"HTTP_REQUEST_MAX_RETRIES": "1", "HTTP_REQUEST_TIMEOUT": "20", "CONFIGURE_LOGGING": "false"}


@contextmanager
def _using(name: str) -> Iterator[None]:
    if name != "csv" and find_spec(name) is None:
        raise OptionError(f'logger {name} needs the package {name}: pip install "nasbench[loggers]"')
    try:
        with environment(**{f"MLFLOW_{k}": os.environ.get(f"MLFLOW_{k}", v) for k, v in PATIENCE.items()}):
            yield
    except Exception as e:
        raise OptionError(f"logger {name} cannot be written: {describe_exception(e)[:300]}") from e


def check(name: str) -> None:
    """Raise an OptionError where what a logger needs is not installed, or MLflow's store does not answer."""
    if name != "none":
        with _using(name):
            _store() if name == "mlflow" else None


def _store(kept: str | None = None) -> tuple[Any, str, str]:
    """MLflow's client, the address of its store, and the experiment, which it has then."""
    import mlflow

    address = os.environ.get("MLFLOW_TRACKING_URI") or kept or mlflow.get_tracking_uri()
    client, name = mlflow.MlflowClient(address), os.environ.get("MLFLOW_EXPERIMENT_NAME", "nasbench")
    client.get_experiment_by_name(name) or client.create_experiment(name)
    return client, address, name


class Logs:
    """The logger of a run, `config.logger`: it gets what the record holds already, then every epoch and the end.

    Files are written anew; to MLflow goes what its run does not have, by name and step. A logger that fails later does
    not end the run, which says so. Raises OptionError: it fails at the start.
    """

    def __init__(self, config: RunConfig, record: Record, say: Callable[[str], None], report: Report | None) -> None:
        """Open it; `report` is told the measures of every epoch, too."""
        self._name, self._record, self._say, self._report = config.logger, record, say, report
        self._settings, self._seen = config.part(*RUN), set[tuple[str, int]]()  # names and steps that the logger has
        if self._name != "none":
            with _using(self._name):
                self._logger = self._open(record.path / FOLDER)
                self._logger.log_hyperparams(self._settings)

    def report(self, measures: Mapping[str, float]) -> None:
        """Log an epoch, which the record has."""
        self._attempt(self._log)
        if self._report is not None:
            self._report(measures)

    def end(self) -> None:
        """Log how the run ended."""
        self._attempt(self._finish)

    def _attempt(self, step: Callable[[], None]) -> None:
        if self._name != "none":
            try:
                with _using(self._name):
                    step()
            except OptionError as e:
                self._say(f"warning: {e}")

    def _open(self, folder: Path) -> Any:
        from pytorch_lightning import loggers

        if self._name != "mlflow":
            shutil.rmtree(folder / self._name, ignore_errors=True)
            if self._name == "csv":
                return loggers.CSVLogger(folder.parent, folder.name, self._name)
            return loggers.TensorBoardLogger(folder.parent, folder.name, self._name, default_hp_metric=False)
        kept, run = json.loads((folder / NOTE).read_text()) if (folder / NOTE).is_file() else {}, None
        client, address, experiment = _store(kept.get("store"))
        with suppress(Exception):  # it is in another store, or was removed there
            run = client.get_run(kept["run"]).info.run_id
            client.update_run(run, status="RUNNING")
            names = client.get_run(run).data.metrics
            self._seen = {(name, point.step) for name in names for point in client.get_metric_history(run, name)}
        logger = loggers.MLFlowLogger(experiment, self._record.path.name, address, run_id=run)
        folder.mkdir(exist_ok=True)
        own = None if os.environ.get("MLFLOW_TRACKING_URI") else address  # a server's may hold a password
        write_atomic(folder / NOTE, json.dumps({"store": own, "run": logger.run_id}) + "\n")
        return logger

    def _log(self, tested: Mapping[str, float] | None = None) -> None:
        """Log what the logger does not have; steps count over all networks of a stage."""
        points, last, before = {("test", 0): dict(tested or {})}, Counter[str](), Counter[str]()
        for row in self._record.curves(METRICS):
            name, step = f"{row['stage']}/{row['name']}", int(row["step"])
            before[name] += last[name] if step <= last[name] else 0  # another network
            last[name] = step
            points.setdefault((row["stage"], before[name] + step), {})[name] = float(row["value"])
        for (_, step), values in points.items():
            if new := {name: value for name, value in values.items() if (name, step) not in self._seen}:
                self._logger.log_metrics(new, step)
                self._seen |= {(name, step) for name in new}
        self._logger.save()

    def _finish(self) -> None:
        state = self._record.status().state
        self._log()
        if state == "finished":
            found = self._record.result().model_dump()
            tested = {f"test/{name}": value for name, value in found.items() if isinstance(value, (int, float))}
            if self._name == "tensorboard":
                self._logger.log_hyperparams(self._settings, tested, 0)  # as points, and in one table
            else:
                self._log(tested)
            if self._name == "mlflow":
                self._keep(self._logger.experiment, self._logger.run_id)
        self._logger.finalize(ENDS.get(state, "failed"))

    def _keep(self, client: Any, run: str) -> None:
        for name in (CONFIG, ARCHITECTURE, DECISIONS, RESULT):
            client.log_artifact(run, self._record.intact(name))
        for form in NETWORKS:
            with suppress(NasbenchError), TemporaryDirectory() as folder:
                network = Path(folder) / f"network{load_format(form).SUFFIX}"
                export(self._record, form, network, trust=True)  # it is this run's own code
                return client.log_artifact(run, network)
        self._say(f"warning: MLflow got no network: see what `nasbench export {self._record.path}` says")
