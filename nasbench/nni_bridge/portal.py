"""NNI's manager and its web portal: on loopback, under a secret prefix, on a free port, and gone afterwards."""

import contextlib
import ipaddress
import json
import os
import secrets
import signal
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from nasbench.errors import NasbenchError, OptionError
from nasbench.machine import environment
from nasbench.nni_bridge import log

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"
FIRST_PORT = 8080
PORTS = 200  # that are tried
STOP_SECONDS = 45.0  # NNI gives each trial 5 s, and its tuner up to 30
PRELOAD = Path(__file__).with_name("preload.js")
NNI_FOLDER = ".nni"  # in a folder of records, with all that NNI writes
LIST = "nni-experiments"  # in the user's folder: NNI's list of all experiments
NAME = "nasbench"  # with which the names of our experiments begin


@dataclass(frozen=True)
class Listed:
    """An experiment in NNI's list."""

    id: str  # NNI's
    name: str  # of the sweep or run
    started: float  # seconds since 1970
    trials: int  # how many it had
    folder: Path  # with the experiment's folders
    address: str | None  # of its portal, where it is running now


def check_host(host: str) -> None:
    """Raise OptionError for any host but loopback and all interfaces: NNI's own calls to its manager would fail."""
    if host not in (LOOPBACK, EVERYWHERE):
        raise OptionError(f"host must be {LOOPBACK} (this machine only) or {EVERYWHERE} (every interface), not {host}")


def warn_if_exposed(host: str, say: Callable[[str], None]) -> None:
    """Say what it means that others can reach the portal, where they can."""
    if host != LOOPBACK:
        say(
            "warning: the portal listens on every interface, without password or encryption; whoever learns its "
            "address can change the experiment and read its files"
        )


def is_loopback(address: str) -> bool:
    """Whether an address, or the name `localhost`, means this machine only."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether nothing listens on a port, of the given address or of localhost."""
    try:
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Node does
            bound.bind((host, port))
    except OSError:
        return False
    # NNI calls its manager by the name localhost, which may mean ::1 first.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as other:
        return other.connect_ex(("::1", port)) != 0
    return True


def start(experiment: Any, port: int | None = None, host: str = LOOPBACK) -> str:
    """Start an NNI experiment (or the view of one) under a new secret prefix; returns the address of its portal.

    OptionError: the port is in use, or the host wrong, see `check_host`. NasbenchError: NNI's manager did not start.
    """
    from nni.experiment import RunMode

    from nasbench.registry import describe_exception

    check_host(host)
    if port is not None and not is_free(port, host):
        raise OptionError(f"port {port} is in use: choose another with --port, or leave it out")
    experiment.url_prefix = experiment.url_prefix or secrets.token_hex(16)
    shown = socket.gethostname() if host == EVERYWHERE else host
    free = (number for number in range(FIRST_PORT, FIRST_PORT + PORTS) if is_free(number, host))
    for candidate in free if port is None else (port,):
        try:
            with environment(**_preload(host)):
                # Detached, the manager writes what it prints into files, not between our lines.
                experiment.start(candidate, run_mode=RunMode.Detach)
            return f"http://{shown}:{candidate}/{experiment.url_prefix}/"
        except KeyboardInterrupt:
            group = group_of(experiment.id)  # NNI notes the process only when it has started
            if group is not None:
                stop_group(group)
            raise
        except Exception as e:
            experiment._stop_logging()
            if port is None and not is_free(candidate, host):
                continue  # another program was quicker
            raise NasbenchError(f"NNI's manager did not start on port {candidate}: {describe_exception(e)}") from e
    raise NasbenchError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free: give one with --port")


def view(found: Listed, port: int | None = None, host: str = LOOPBACK) -> tuple[Any, str]:
    """Open an ended experiment: NNI's, to be stopped with `stop`, and the portal's address. NasbenchError: damaged."""
    from nni.experiment import Experiment

    log.silence()
    experiment = Experiment(None, id=found.id)
    try:
        # Experiment.view does the same, but leaves no word in where the manager runs.
        experiment.load_checkpoint()
    except Exception as e:
        raise NasbenchError(f"experiment {found.id} cannot be read in {found.folder}: {e}") from e
    experiment._action = "view"
    return experiment, start(experiment, port, host)


def stop(experiment: Any) -> None:
    """End a started experiment: its trials, tuner, manager and portal; nothing of it is left running."""
    process = experiment._proc
    if process is not None:
        try:
            stop_group(process.pid)
        finally:
            process.wait()
    experiment._proc = experiment.port = None
    experiment._stop_logging()


def stop_group(leader: int, seconds: float = STOP_SECONDS) -> None:
    """End a manager, the leader of its process group, and all that it started; kill what is left after some seconds."""
    try:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            manager = psutil.Process(leader)
            manager.send_signal(signal.SIGTERM)
            manager.wait(seconds)
    finally:
        if members(leader):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, signal.SIGKILL)
            psutil.wait_procs(members(leader), timeout=10)


def members(group: int) -> list[psutil.Process]:
    """The processes of a process group that are alive."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def group_of(experiment_id: str, leader: int | None = None) -> int | None:
    """The process group of an experiment, `None` where nothing of it runs.

    Its manager may be dead and its trials alive: these are found by the `leader`, if that was noted. A process counts
    only if it names the experiment, since process ids are used again.
    """
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = process.cmdline()
            if "--experiment-id" in words and experiment_id in words and process.status() != psutil.STATUS_ZOMBIE:
                return os.getpgid(process.pid)
    for process in members(leader) if leader is not None else ():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("NNI_EXP_ID") == experiment_id:
                return leader
    return None


def experiments() -> list[Listed]:
    """Our experiments in NNI's list whose data still exist, the newest first."""
    path = Path.home() / LIST / ".experiment"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    found = []
    for key, entry in entries.items():
        name, folder = str(entry.get("experimentName") or ""), Path(str(entry.get("logDir", "")))
        facts = _facts(folder / key / "db" / "nni.sqlite")
        if name.startswith(NAME) and facts is not None:
            running = group_of(key) is not None
            address = f"http://{LOOPBACK}:{entry['port']}/{entry.get('prefixUrl')}/" if running else None
            found.append(Listed(key, name.removeprefix(NAME).strip(), *facts, folder, address))
    return sorted(found, key=lambda e: -e.started)


def find(experiment: str | None) -> Listed:
    """One of our experiments by NNI's id or its sweep's folder, or the newest. Raises OptionError: there is none."""
    chosen = experiments()
    if experiment is not None:
        folder = Path(experiment).resolve()
        chosen = [e for e in chosen if e.id == experiment or e.folder.resolve() in (folder, folder / NNI_FOLDER)]
    if not chosen:
        what = "there is no experiment yet" if experiment is None else f"there is no experiment {experiment!r}"
        raise OptionError(f"{what}; `nasbench ui --list` shows all (of this user, whose data still exist)")
    return chosen[0]


def _facts(database: Path) -> tuple[float, int] | None:
    """When an experiment started, and how many trials it had; NNI's list forgets the first when one is viewed."""
    if not database.is_file():
        return None
    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            (started,) = connection.execute("select min(startTime) from ExperimentProfile").fetchone()
            (trials,) = connection.execute("select count(distinct trialJobId) from TrialJobEvent").fetchone()
    except (sqlite3.Error, TypeError):
        return None
    return (float(started) / 1000, int(trials)) if started is not None else None


def _preload(host: str) -> dict[str, str]:
    """The environment in which the manager loads our script; what needs no proxy is set for good."""
    # NNI's calls to its manager stay on this machine, whatever proxy there is; trials make such calls, too.
    direct = [*filter(None, os.environ.get("no_proxy", "").split(",")), "localhost", LOOPBACK]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(dict.fromkeys(direct))
    given = os.environ.get("NODE_OPTIONS", "")
    preload = str(PRELOAD).replace("\\", "\\\\").replace('"', '\\"')
    return {
        "NODE_OPTIONS": f'{given} --require "{preload}"'.strip(),
        "NASBENCH_NODE_OPTIONS": given,
        "NASBENCH_PORTAL_HOST": host,
    }
