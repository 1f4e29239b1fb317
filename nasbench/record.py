"""The record of one run: a folder that can be read without this code. Its files and what they hold are known here."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from operator import methodcaller
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ValidationError

from nasbench import machine, packs
from nasbench.architecture import Architecture
from nasbench.config import RUN, Role, RunConfig, dump_config, make_config, read_config, role
from nasbench.errors import NasbenchError, RecordError, quoted
from nasbench.facts import SCHEMA, DataFacts, Decision, Environment, Result, StageFacts, Status
from nasbench.files import sha256, write_atomic
from nasbench.gained import with_gained

CONFIG, STATUS, ENVIRONMENT, DATA = "config.yaml", "status.json", "environment.json", "data.json"
ARCHITECTURE, DECISIONS, RESULT = "architecture.json", "decisions.json", "result.json"
SEARCH, METRICS, CONFUSION, COSTS = "search.csv", "metrics.csv", "confusion.csv", "costs.csv"
TRIALS = "trials.csv"
MODEL, CHECKPOINTS, LOG, LOCK = "model.safetensors", "checkpoints", "log.txt", ".lock"
# What tells about a run: all but the weights, and what was only needed meanwhile.
TABLES = (SEARCH, METRICS, CONFUSION, COSTS, TRIALS)
DATA_FILES = (CONFIG, STATUS, ENVIRONMENT, DATA, ARCHITECTURE, DECISIONS, RESULT, *TABLES)
STAGES = ("search", "retrain", "test")
# What does not change any more once the record is made, and once a stage is finished.
FOUNDED = (CONFIG, ENVIRONMENT)
FINISHED = {
    "search": (ARCHITECTURE, DECISIONS, SEARCH, COSTS, TRIALS),
    "retrain": (DATA, MODEL),
    "test": (RESULT, CONFUSION, METRICS),
}
HEADERS = {
    SEARCH: ("step", "label", "candidate", "pi", "fixed"),
    METRICS: ("stage", "epoch", "step", "name", "value"),
    CONFUSION: ("class", "predicted", "images"),  # classes as numbers, in the order of the data's names
    COSTS: ("kind", "label", "candidate", "input", "cost", "low", "high"),  # of an operator alone, with quartiles
    # Of each network that a search trained: epochs, held-out accuracy, cost, and its architecture as JSON.
    TRIALS: ("trial", "epochs", "accuracy", "params", "madds", "architecture"),
}
CHANGED = "it is not what the run wrote, since its SHA-256 is another"
PLACES = {name for name, field in RunConfig.model_fields.items() if role(field) is Role.PLACE}
UNBORN = ".tmp"  # ends the name of a folder that is about to become a record
LARGEST = 2**22  # bytes of a file of settings or facts: a stranger's must not take hours to read

M = TypeVar("M", bound=BaseModel)


class Record:
    """A run's folder, also one inside a pack (see `nasbench.packs`); `path` is the folder as it was named."""

    def __init__(self, path: str | Path) -> None:
        """Open an existing record. Raises RecordError: the folder is not a record."""
        self.path = Path(path)
        self._files = packs.locate(self.path)
        if not self._file(CONFIG).is_file():
            raise RecordError(f"{path} is not a run record (it has no {CONFIG})")

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> Record:
        """Make a new record inside a folder, named by date, space, strategy and seed; its configuration is complete.

        Raises RecordError: the folder cannot be written.
        """
        short = [part.rpartition(":")[2] for part in (config.space, config.method)]
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
            # A record has all of its first files, or does not exist.
            unborn = folder / f".{path.name}.{os.getpid()}{UNBORN}"
            unborn.mkdir()
            write_atomic(unborn / CONFIG, dump_config(config))
            record = cls(unborn)
            record.write_json(ENVIRONMENT, {**machine.facts(), "started": _now()})
            record.set_status(state="running")
            record.seal(FOUNDED)
            unborn.replace(path)
        except OSError as e:
            raise RecordError(
                f"no record can be written in {folder}: {e.strerror}; choose another folder with --out"
            ) from e
        return cls(path)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the record for writing; a dead process's lock is void. Raises RecordError: another is writing it."""
        lock = FileLock(self._file(LOCK), timeout=1)  # `is_owned` holds it for a moment
        try:
            lock.acquire()
        except Timeout as e:
            raise RecordError(f"{self.path} is being written by another process") from e
        try:
            yield
        finally:
            lock.release()

    def is_owned(self) -> bool:
        """Whether a living process is writing the record."""
        path = self._file(LOCK)
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except (Timeout, OSError):  # it cannot be told where nothing may be written
            return True

    # What the files hold

    def config(self) -> RunConfig:
        """The complete configuration as it was written. Raises RecordError: it is damaged, or of another version."""
        self.status()  # which knows the version
        try:
            self._check(CONFIG)
            config = with_gained(make_config(read_config(self._file(CONFIG))))
            json.dumps(config.model_dump(mode="json"), allow_nan=False)  # YAML knows more than plain, finite values
        except RecordError:
            raise
        except (NasbenchError, OSError, ValueError, TypeError, RecursionError) as e:
            raise RecordError(f"{self.path / CONFIG} is damaged: {' '.join(str(e).split())}") from e
        return config

    def status(self) -> Status:
        """How far the run has come. Raises RecordError: the record is damaged, or of another version."""
        content = self._mapping(STATUS)
        if "state" not in content:
            raise RecordError(f"{self.path / STATUS} is damaged: it says no state")
        found = content.get("schema_version", 1)
        if found != SCHEMA and isinstance(found, int):
            hint = f"`nasbench migrate {self.path}` brings it up to date" if found < SCHEMA else "use that nasbench"
            older = "an earlier" if found < SCHEMA else "a newer"
            raise RecordError(f"{self.path} was written by {older} nasbench (version {found} of the record): {hint}")
        status = self._model(STATUS, Status, content)
        if status.sha256.get(STATUS) not in (None, _sum_of_status(content)):
            raise RecordError(f"{self.path / STATUS} is damaged: {CHANGED}")
        if status.state == "running" and not self.is_owned():
            return status.model_copy(update={"state": "interrupted"})  # its process is gone
        return status

    def damaged(self) -> dict[str, str]:
        """File that the run has finished → what has become of it: it has changed, or is missing."""
        found = {name: (self._file(name), digest) for name, digest in self._known_sums().items() if name != STATUS}
        return {
            name: CHANGED if path.is_file() else "it is missing"
            for name, (path, digest) in found.items()
            if not path.is_file() or _sum(path) != digest
        }

    def data(self) -> DataFacts:
        """What the run saw of its data."""
        return self._model(DATA, DataFacts, self._read_json(DATA))

    def architecture(self) -> Architecture:
        """Label → candidate."""
        found = self._mapping(ARCHITECTURE)
        if not found:
            raise RecordError(f"{self.path / ARCHITECTURE} is damaged: it is empty")
        return found

    def decisions(self) -> dict[str, Decision]:
        """Label → why it has its candidate, for every label of the architecture."""
        found = {k: self._model(DECISIONS, Decision, v) for k, v in self._mapping(DECISIONS).items()}
        for label in self.architecture():
            if label not in found:
                raise RecordError(f"{self.path / DECISIONS} is damaged: it says nothing of {quoted(label)}")
        return found

    def result(self) -> Result:
        """What came out."""
        return self._model(RESULT, Result, self._read_json(RESULT))

    def environment(self) -> Environment:
        """Versions, machine and command."""
        return self._model(ENVIRONMENT, Environment, self._read_json(ENVIRONMENT))

    def curves(self, name: str) -> list[dict[str, str]]:
        """The rows of `SEARCH`, `METRICS` or `CONFUSION`, if there are any. Raises RecordError: the file is damaged."""
        path, header = self._file(name), HEADERS[name]
        if not path.is_file():
            return []
        self._check(name)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                found = list(csv.reader(file, strict=True))
        except (OSError, ValueError, csv.Error) as e:
            raise RecordError(f"{self.path / name} is damaged: {e}") from e
        if found[:1] != [[*header]] or any(len(row) != len(header) for row in found):
            raise RecordError(f"{self.path / name} is damaged: its columns are not {', '.join(header)}")
        return [dict(zip(header, row, strict=True)) for row in found[1:]]

    def confusion(self) -> dict[tuple[int, int], int]:
        """How many test images of a class were taken for which: (class, predicted) → images, where they were counted.

        Raises RecordError: the file is damaged.
        """
        classes, found = len(self.data().class_names), {}
        try:
            for row in self.curves(CONFUSION):
                true, predicted, images = (int(row[name]) for name in HEADERS[CONFUSION])
                if not (0 <= true < classes and 0 <= predicted < classes and 0 < images < 2**63):
                    raise ValueError(f"{classes} classes do not have {', '.join(row.values())}")
                found[true, predicted] = images
        except ValueError as e:
            raise RecordError(f"{self.path / CONFUSION} is damaged: {e}") from e
        return found

    def file(self, name: str) -> Path | None:
        """One of the record's files or folders to read; `None` where it does not exist."""
        path = self._file(name)
        return path if path.exists() else None

    def intact(self, name: str) -> Path:
        """One of the record's files, as the run wrote it. Raises RecordError: it is damaged."""
        self._check(name, largest=None)
        return self._file(name)

    def finished(self, stage: str) -> bool:
        """Whether a stage is done."""
        return stage in self.status().stages

    # Writing

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file of plain values or one of the models above. Raises ValueError: a number is not finite."""
        self._write(name, _plain(content))

    def write_csv(self, name: str, rows: Iterable[Sequence[Any]]) -> None:
        """Write one of the record's tables, of the columns in `HEADERS`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(HEADERS[name])
        writer.writerows(rows)
        self._write(name, buffer.getvalue())

    def write_confusion(self, counts: Sequence[Sequence[int]]) -> None:
        """Write how many test images of each class (a row) were taken for which (a column)."""
        found = ((true, predicted, n) for true, row in enumerate(counts) for predicted, n in enumerate(row) if n)
        self.write_csv(CONFUSION, found)

    def set_status(self, **changes: Any) -> None:
        """Change fields of the status."""
        old = self.status() if self._file(STATUS).is_file() else Status()
        new = old.model_copy(update={"error": None, **changes, "updated": _now()})
        digest = _sum_of_status(json.loads(_plain(new)))
        self.write_json(STATUS, new.model_copy(update={"sha256": {**new.sha256, STATUS: digest}}))

    def finish_stage(self, stage: str, seconds: float, peak_memory_bytes: int, **facts: Any) -> None:
        """Note that a stage is done, with what it took and other facts; its files are not to change any more."""
        taken, status = StageFacts(seconds=seconds, peak_memory_bytes=peak_memory_bytes, **facts), self.status()
        self.set_status(stages={**status.stages, stage: taken})
        self.seal(FINISHED[stage])

    def seal(self, names: Iterable[str]) -> None:
        """Note the SHA-256 of files that are not to change any more, of those that there are."""
        sums = {name: _sum(path) for name in names if (path := self._file(name)).is_file()}
        self.set_status(sha256={**self.status().sha256, **sums})

    def forget(self, stages: Sequence[str]) -> None:
        """Note that stages are to be repeated."""
        status, files = self.status(), [name for stage in stages for name in FINISHED[stage]]
        self.set_status(
            state="interrupted",
            stages={stage: facts for stage, facts in status.stages.items() if stage not in stages},
            sha256={name: digest for name, digest in status.sha256.items() if name not in files},
        )

    def _write(self, name: str, content: str) -> None:
        write_atomic(self._file(name), content)
        if name != STATUS and name in self._known_sums():
            self.seal([name])

    def _known_sums(self) -> dict[str, str]:
        sums = self._mapping(STATUS).get("sha256", {}) if self._file(STATUS).is_file() else {}
        return sums if isinstance(sums, dict) else {}

    def _file(self, name: str) -> Path:
        return self._files / name

    def _read_json(self, name: str) -> Any:
        try:
            self._check(name)
            return json.loads(self._file(name).read_text(encoding="utf-8"), parse_constant=finite, parse_float=finite)
        except FileNotFoundError as e:
            raise RecordError(f"{self.path} has no {name}: the run has not come that far") from e
        except (OSError, ValueError, RecursionError) as e:
            raise RecordError(f"{self.path / name} is damaged: {e}") from e

    def _mapping(self, name: str) -> dict[str, Any]:
        content = self._read_json(name)
        if not isinstance(content, dict):
            raise RecordError(f"{self.path / name} is damaged: it holds no mapping")
        return content

    def _model(self, name: str, model: type[M], content: Any) -> M:
        try:
            return model.model_validate(content)
        except ValidationError as e:
            first = e.errors()[0]
            where = quoted(".".join(map(str, first["loc"])))[1:-1] or "it"
            raise RecordError(f"{self.path / name} is damaged: {where}: {first['msg'].lower()}") from e

    def _check(self, name: str, largest: int | None = LARGEST) -> None:
        """Raise a RecordError where a file is too large to be meant to be read, or not what the run has written."""
        path = self._file(name)
        size = path.stat().st_size
        if largest is not None and size > largest:
            raise RecordError(f"{self.path / name} is damaged: it holds {size >> 20} MiB")
        if name != STATUS and (known := self._known_sums().get(name)) is not None and _sum(path) != known:
            raise RecordError(f"{self.path / name} is damaged: {CHANGED}")


def _plain(content: Any) -> str:
    of_model = methodcaller("model_dump", mode="json")
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=of_model) + "\n"


def _sum(path: Path) -> str:
    """Of a file; of a configuration, of what is not a matter of this machine's folders: users may move these."""
    if path.name != CONFIG:
        return sha256(path)
    settings = {name: value for name, value in read_config(path).items() if name not in PLACES}
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()


def _sum_of_status(content: Mapping[str, Any]) -> str:
    """Of all but itself."""
    sums = {name: digest for name, digest in content.get("sha256", {}).items() if name != STATUS}
    return hashlib.sha256(json.dumps({**content, "sha256": sums}, sort_keys=True).encode()).hexdigest()


def with_sums(status: Mapping[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """A status with the SHA-256 of those of its files that there are; unchanged where it had none."""
    known = status.get("sha256")
    if not known:
        return dict(status)
    own = {name: hashlib.sha256(files[name]).hexdigest() for name in known if name in files and name != CONFIG}
    sums = {**own, CONFIG: known[CONFIG]}  # which places do not enter
    changed = {**status, "sha256": sums}
    return {**changed, "sha256": {**sums, STATUS: _sum_of_status(changed)}}


def finite(number: str) -> float:
    """The number that a text says. Raises ValueError: it says none, or one that is not finite."""
    if not math.isfinite(float(number)):
        raise ValueError(f"{number} is not a finite number")
    return float(number)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def is_record(path: Path) -> bool:
    """Whether there is a record at a path, also in a pack."""
    return packs.is_file(packs.locate(path) / CONFIG)


def find_records(folder: Path) -> Iterator[Path]:
    """The folders at or below `folder`, also in packs there, that are, or were meant to be, records."""
    for root, directories, files in os.walk(folder):
        if any(name in files for name in (CONFIG, STATUS, RESULT)):
            directories.clear()
            yield Path(root)
            continue
        directories[:] = sorted(name for name in directories if not name.endswith(UNBORN))
        for name in files:
            if name.endswith(packs.SUFFIX):
                yield from find_records(Path(root) / name)
    if folder.is_file() or packs.is_inside(folder):
        real = packs.locate(folder)
        yield from (folder / found.relative_to(real) for found in find_records(real))


def continues(record: Record, config: RunConfig) -> None:
    """Raise a RecordError that says what differs unless a record may be continued with this configuration."""
    differences = record.config().differing(config, *RUN)
    if differences:
        raise RecordError(f"{record.path} is a record of another configuration: {', '.join(differences)} differ(s)")
