"""The record of one run: a folder that can be read without this code."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nasbench.config import RunConfig, dump_config, read_config, resolve_config
from nasbench.errors import RecordError

STAGES = ("search", "retrain", "test")
PACKAGES = (
    "nasbench",
    "torch",
    "torchvision",
    "nni",
    "pytorch-lightning",
    "torchmetrics",
    "numpy",
    "timm",
    "numba",
)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Record:
    """A run's folder.

    Files: `config.yaml`, `environment.json`, `status.json`, `data.json`, `architecture.json`, `decisions.json`,
    `search.csv` (`step,label,candidate,pi,fixed`), `metrics.csv` (`stage,epoch,step,name,value`), `result.json`,
    `model.safetensors`, `checkpoints/`, `log.txt`.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing record.

        Raises:
            RecordError: the folder is not a record.
        """
        self.path = Path(path)
        if not (self.path / "config.yaml").is_file():
            raise RecordError(f"{path} is not a run record (it has no config.yaml)")

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> Record:
        """Make a new record inside a folder, named by date, space, strategy and seed.

        Raises:
            RecordError: the folder cannot be written.
        """
        short = [part.rpartition(":")[2] for part in (config.space, config.strategy)]
        stem = f"{datetime.now():%Y-%m-%d_%H%M%S}_{short[0]}_{short[1]}_seed{config.seed}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(1, 1000):
                path = folder / (stem if number == 1 else f"{stem}_{number}")
                try:
                    path.mkdir()
                    break
                except FileExistsError:
                    continue
            write_atomic(path / "config.yaml", dump_config(config))
        except OSError as e:
            raise RecordError(
                f"no record can be written in {folder}: {e.strerror}; choose another folder with --out"
            ) from e
        record = cls(path)
        record.write_json("environment.json", environment())
        record.set_status(state="running")
        return record

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the record for writing; the lock of a process that died is void by itself.

        Raises:
            RecordError: another process is writing it.
        """
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as e:
            raise RecordError(f"{self.path} is being written by another process") from e
        try:
            yield
        finally:
            lock.release()

    def config(self) -> RunConfig:
        """The complete configuration of the run."""
        return resolve_config(read_config(self.path / "config.yaml"))

    def read_json(self, name: str) -> Any:
        """Read one of the record's JSON files.

        Raises:
            RecordError: it is missing or damaged.
        """
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except FileNotFoundError as e:
            raise RecordError(f"{self.path} has no {name}: the run has not come that far") from e
        except (OSError, ValueError) as e:
            raise RecordError(f"{self.path / name} is damaged: {e}") from e

    def write_json(self, name: str, content: Any) -> None:
        """Write one of the record's JSON files."""
        write_atomic(self.path / name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def write_csv(self, name: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Write one of the record's tables."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        write_atomic(self.path / name, buffer.getvalue())

    def read_csv(self, name: str) -> list[dict[str, str]]:
        """Read one of the record's tables; empty where it does not exist."""
        path = self.path / name
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def status(self) -> dict[str, Any]:
        """`state` (`running`, `interrupted`, `failed`, `finished`), `error`, and `stages` with what each took."""
        path = self.path / "status.json"
        return self.read_json("status.json") if path.is_file() else {"state": "running", "stages": {}}

    def set_status(self, **changes: Any) -> None:
        """Change fields of the status."""
        old = self.status()
        self.write_json("status.json", {"stages": {}, "error": None, **old, **changes, "updated": _now()})

    def finish_stage(self, stage: str, **facts: Any) -> None:
        """Note that a stage is done, with its facts (seconds, memory …)."""
        stages = dict(self.status()["stages"])
        stages[stage] = facts
        self.set_status(stages=stages)

    def finished(self, stage: str) -> bool:
        """Whether a stage is done."""
        return stage in self.status()["stages"]


def environment() -> dict[str, Any]:
    """What a result may depend on beside the configuration: versions, machine, command."""
    import torch

    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": _now(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def same_run(old: RunConfig, new: RunConfig) -> list[str]:
    """The settings in which two configurations differ."""
    a, b = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [k for k in a if a[k] != b[k]]
