import contextlib
import copy
import json
import shutil
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nasbench.errors import NasbenchError, OptionError
from nasbench.files import write_atomic
from nasbench.nni_bridge.machines import Machines, is_missing
from nasbench.nni_bridge.portal import FIRST_PORT, LOOPBACK, PORTS, PRELOAD, STOP_SECONDS, is_free, is_loopback
from nasbench.nni_bridge.ssh import Connection, quoted
from nasbench.nni_bridge.trial import MODULE, OUTCOME, RECORD, SPECIFICATION
from nasbench.record import CONFIG, RESULT, Record
from nasbench.registry import describe_exception

MOST_FILES, MOST_BYTES = 1900, 290 * 2**20  # NNI packs 2,000 files and 300 MB
PACKAGES = ("nasbench", "nni")

# NNI runs Python on a machine in its own ways; this stands for Python there, in a folder of the experiment.
PYTHON = """#!/bin/sh
case "$*" in
  "-m pip install nni --upgrade") exit 0 ;;
  *launch_trial_keeper*) export NODE_OPTIONS='--require {folder}/preload.js' ;;
esac
export NASBENCH_PYTHON={python}
export no_proxy="localhost,127.0.0.1${{no_proxy:+,$no_proxy}}"
if [ -z "$OMP_NUM_THREADS" ]; then
  cores=$(getconf _NPROCESSORS_ONLN)
  export OMP_NUM_THREADS=$(( cores > {trials} ? cores / {trials} : 1 ))
fi
exec {python} "$@"
"""


class Place:
    """The machines of one experiment. Close it when NNI has ended."""

    trial_command = f"python3 -m {MODULE} {SPECIFICATION}"
    # Folder in which each trial leaves its outcome and record, as it sees it; NNI's own of the trial where empty.
    trials = ""

    def __init__(self, machines: Machines, experiment: str, folder: Path, host: str) -> None:
        self._machines, self._experiment, self._folder, self._host = machines, experiment, folder, host
        self._fetched: set[str] = set()

    def configure(self, config: Any) -> Path:
        """Complete NNI's configuration; returns the specification's file. OptionError: the user's code is too large."""
        service = self._service()
        code = self._folder / "code"
        own = service.trial_code_directory
        _copy_code(None if is_missing(own) else _resolved(service, own), code)
        service.trial_code_directory = str(code)
        service.trial_command = self.trial_command
        for role in ("worker", "master", "ps"):  # NNI wants these beside its own
            given = getattr(service, role, None)
            if given is not None:
                given.command, given.code_directory = self.trial_command, str(code)
        config.trial_code_directory = str(code)
        config.trial_command = self.trial_command
        config.training_service = service
        return code / SPECIFICATION

    def port(self, asked: int | None) -> int | None:
        """A port for the portal at which the machines reach it, too."""
        return asked

    def download(self, trial: str, where: str, to: Path) -> None:
        """Copy what an ended trial has left at the place that NNI says. Raises NasbenchError: it cannot be read."""
        raise NotImplementedError

    def fetch(self, trial: str, where: str, folder: Path, out: Path) -> None:
        """Fetch once what a trial left to its `folder`, and its record to `out`; the outcome there tells errors."""
        if trial in self._fetched:
            return
        self._fetched.add(trial)
        outcome: dict[str, Any] = {}
        try:
            self.download(trial, where, folder)
            if (folder / OUTCOME).is_file():  # otherwise it died, and its error stream tells why
                outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
            if "record" in outcome:
                outcome["record"] = str(move_record(folder, out))
        except (NasbenchError, OSError, ValueError) as e:
            outcome = {"error": str(e) if isinstance(e, NasbenchError) else describe_exception(e), "mendable": False}
        shutil.rmtree(folder / RECORD, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / OUTCOME, json.dumps(outcome) + "\n")

    def close(self) -> None:
        """Leave the machines as they were."""

    def _service(self) -> Any:
        return self._machines.service


class Remote(Place):
    """Machines over SSH, by which they reach NNI's manager; see docs/scaling.md. Closing removes its folder there."""

    trial_command = f'exec "$NASBENCH_PYTHON" -m {MODULE} {SPECIFICATION}'

    def __init__(self, machines: Machines, experiment: str, folder: Path, host: str, concurrency: int) -> None:
        super().__init__(machines, experiment, folder, host)
        self._address = _manager_address(machines.service, host)
        self._connections: list[Connection] = []
        self._homes: list[str] = []
        trials = -(-concurrency // len(machines.service.machine_list))
        try:
            for machine in machines.service.machine_list:
                key = None if machine.ssh_key_file is None else str(_resolved(machine, machine.ssh_key_file))
                known = machines.known_hosts
                connection = Connection(machine.host, machine.port, machine.user, key, known)
                self._connections.append(connection)
                connection.open()
                self._homes.append(self._prepare(connection, f"{machine.python_path}/python3", trials))
        except BaseException:
            self.close()
            raise

    def port(self, asked: int | None) -> int | None:
        """A port that is free here and on all machines, and leads from there to here."""
        if not is_loopback(self._address):
            return asked
        last = FIRST_PORT + PORTS
        for port in range(FIRST_PORT, last) if asked is None else (asked,):
            free = is_free(port, self._host) and is_free(port + 1, self._host)  # NNI wants the next port, too
            if free and all(connection.forward(self._address, port) for connection in self._connections):
                return port
        what = f"port {asked} is" if asked is not None else f"no port from {FIRST_PORT} to {last - 1} is"
        raise OptionError(f"{what} free here and on all machines at {self._address}: choose one with --port")

    def download(self, trial: str, where: str, to: Path) -> None:
        """See `Place.download`."""
        host, _, folder = where.partition(":")
        tail = f"nni-experiments/{self._experiment}/environments/{folder.split('/environments/')[-1]}"
        error: NasbenchError | None = None
        machines = self._machines.service.machine_list
        for connection, home, machine in zip(self._connections, self._homes, machines, strict=True):
            if machine.host == host:
                try:
                    return connection.download(f"{home}/{tail}", to)
                except NasbenchError as e:
                    error = e
        raise error or NasbenchError(f"trial {trial} ran on {host}, which is none of the machines")

    def close(self) -> None:
        """Remove the experiment's folder on every machine, and disconnect."""
        for connection, home in zip(self._connections, self._homes, strict=False):
            with contextlib.suppress(NasbenchError):
                connection.run(f"rm -rf {quoted(f'{home}/nni-experiments/{self._experiment}')}")
        for connection in self._connections:
            connection.close()
        self._connections, self._homes = [], []

    def _service(self) -> Any:
        service = self._machines.service
        changed = copy.copy(service)
        changed.nni_manager_ip = self._address
        changed.machine_list = [copy.copy(machine) for machine in service.machine_list]
        for machine, home in zip(changed.machine_list, self._homes, strict=True):
            machine.python_path = self._stand_in(home)
        return changed

    def _stand_in(self, home: str) -> str:
        return f"{home}/nni-experiments/{self._experiment}/nasbench"

    def _prepare(self, connection: Connection, python: str, trials: int) -> str:
        """Check a machine and put the stand-in for Python there; returns the home folder."""
        code = (
            "import importlib.metadata as m, json, pathlib; "
            f"print(json.dumps([str(pathlib.Path.home()), *(m.version(p) for p in {PACKAGES!r})]))"
        )
        try:
            told = connection.run(f'{quoted(python)} -c "{code}"')
            home, *found = json.loads(told)
        except (NasbenchError, ValueError) as e:
            needed = f"{python} must have {' and '.join(PACKAGES)} installed"
            reason = str(e).removeprefix(f"machine {connection.name}: ")
            raise OptionError(f"machine {connection.name}: {needed}: {reason}") from e
        for package, theirs in zip(PACKAGES, found, strict=True):
            if theirs != version(package):
                raise OptionError(
                    f"machine {connection.name}: {python} has {package} {theirs}, this machine {version(package)}; "
                    "install the same version"
                )
        folder = self._stand_in(home)
        script = PYTHON.format(folder=folder, python=quoted(python), trials=trials)
        connection.write(f"{folder}/{PRELOAD.name}", PRELOAD.read_text(encoding="utf-8"))
        connection.write(f"{folder}/python", script)
        return home


class Cluster(Place):
    """A cluster whose containers and this machine share a file system, which receives the records."""

    def __init__(self, machines: Machines, experiment: str, folder: Path, host: str) -> None:
        super().__init__(machines, experiment, folder, host)
        assert machines.records is not None
        here, there = machines.records
        self._records, self.trials = here / experiment, f"{there}/{experiment}"

    def download(self, trial: str, where: str, to: Path) -> None:
        """See `Place.download`."""
        try:
            shutil.copytree(self._records / trial, to, dirs_exist_ok=True)
        except OSError as e:
            raise NasbenchError(f"trial {trial} left nothing in {self._records / trial} ({e.strerror})") from e


def end_manager(manager: subprocess.Popen[Any], log: Path) -> None:
    """End NNI's manager of machines: it keeps its connections, and so does not end by itself when it has stopped."""
    manager.terminate()
    end = time.monotonic() + STOP_SECONDS
    while manager.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            if "Shutdown complete" in log.read_text(encoding="utf-8", errors="replace"):
                manager.kill()
        time.sleep(0.1)


def move_record(folder: Path, out: Path) -> Path:
    """Move the record of a trial's folder to the others in `out`. Raises NasbenchError: there is not exactly one."""
    found = [path.parent for path in (folder / RECORD).glob(f"*/{CONFIG}")]
    if len(found) != 1:
        raise NasbenchError(f"{folder / RECORD} holds {len(found)} records instead of one")
    (record,) = found
    for number in range(1, 1000):
        target = out / (record.name if number == 1 else f"{record.name}_{number}")
        if not target.exists():
            break
    record.rename(target)
    moved = Record(target)
    moved.write_json(RESULT, moved.result().model_copy(update={"record": str(target)}))
    return target


def _manager_address(service: Any, host: str) -> str:
    given = service.nni_manager_ip
    if is_missing(given):
        return LOOPBACK
    if not is_loopback(given) and host == LOOPBACK:
        raise OptionError(
            f"the portal listens on this machine only, so that nniManagerIp {given} would not be reached: leave it out "
            "(the machines then come through SSH), or give --host 0.0.0.0"
        )
    return str(given)


def _copy_code(source: Path | None, target: Path) -> None:
    target.mkdir(parents=True)
    if source is None:
        return
    files = [p for p in source.rglob("*") if p.is_file() and not p.is_symlink()]
    size = sum(p.stat().st_size for p in files)
    if len(files) > MOST_FILES or size > MOST_BYTES:
        raise OptionError(
            f"trialCodeDirectory {source} has {len(files)} files of {size / 2**20:.0f} MiB; at most {MOST_FILES} and "
            f"{MOST_BYTES // 2**20} MiB are sent: put your classes into a folder of their own"
        )
    for path in files:
        copied = target / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copied)


def _resolved(config: Any, path: Any) -> Path:
    return (Path(config._base_path) / Path(path).expanduser()).resolve()
