"""Sweeps on other machines: what a file of machines may say, and real runs over SSH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from sshd import SSHD, Server, free_port, server
from sweeping import QUICK, SPACE, fates, leftovers, running, sweep_file, wait_for

from nasbench.errors import NasbenchError, OptionError
from nasbench.facts import Result
from nasbench.nni_bridge.machines import read_machines
from nasbench.nni_bridge.places import Cluster, Remote, move_record
from nasbench.nni_bridge.ssh import Connection
from nasbench.nni_bridge.trial import RECORD
from nasbench.presets import resolve_config
from nasbench.record import CONFIG, RESULT, Record

needs_sshd = pytest.mark.skipif(SSHD is None, reason="there is no sshd (Debian's openssh-server)")
SCALING = Path(__file__).parent.parent / "docs" / "scaling.md"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A file in the place of a private key."""
    path = tmp_path / "key"
    path.touch()
    return path


def write(folder: Path, **fields: Any) -> Path:
    """A file of machines."""
    path = folder / "machines.yaml"
    path.write_text(yaml.safe_dump(fields))
    return path


def one(**fields: Any) -> dict[str, Any]:
    """A remote service of one machine."""
    machine = {"host": "gpu1", "user": "me", "sshKeyFile": "key", "pythonPath": "/venv/bin", **fields}
    return {"platform": "remote", "machineList": [machine]}


KUBEFLOW: dict[str, Any] = {
    "platform": "kubeflow",
    "operator": "pytorch-operator",
    "apiVersion": "v1",
    "trialGpuNumber": 1,
    "storage": {"storageType": "nfs", "server": "10.0.0.9", "path": "/export"},
    "master": {"replicas": 1, "gpuNumber": 1, "cpuNumber": 8, "memorySize": "32gb", "dockerImage": "me/nasbench:0.1"},
    "records": {"here": ".", "there": "/tmp/mount/records"},
}


# What a file says


@pytest.mark.usefixtures("key")
def test_the_fields_are_those_of_nni(tmp_path: Path) -> None:
    read = read_machines(write(tmp_path, **one(port=2222, useActiveGpu=True), trialGpuNumber=1))
    (machine,) = read.service.machine_list
    assert (read.service.platform, read.service.trial_gpu_number) == ("remote", 1)
    assert (machine.port, machine.use_active_gpu, machine.python_path) == (2222, True, "/venv/bin")
    assert read.concurrency(None, []) == 1
    assert read.concurrency(7, []) == 7
    assert read_machines(write(tmp_path, **KUBEFLOW)).records == (tmp_path, "/tmp/mount/records")
    assert read_machines(write(tmp_path, platform="local", useActiveGpu=True)).service.platform == "local"


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "platform is missing"),
        ({"platform": "remoto"}, "unknown training service of NNI 'remoto': did you mean 'remote'"),
        ({"platform": "remote"}, "machine_list is not set"),
        ({"platform": "remote", "machinesList": []}, "unknown field .* 'machinesList': did you mean 'machineList'"),
        ({"platform": "remote", "machineList": []}, "at least one machine"),
        (one(hots="x"), "unknown field .* 'hots': did you mean 'host'"),
        (one(port="ssh"), "type of port"),
        (one(port=70000), "NNI demands 0 < self.port"),
        (one(sshKeyFile="missing"), "valid SSH key file"),
        (one(password="secret"), "give an sshKeyFile"),
        (one(pythonPath=None), "pythonPath must be the folder"),
        (one(pythonPath="venv/bin"), "pythonPath must be the folder"),
        ({**one(), "reuseMode": True}, "reuseMode must be false"),
        ({**one(), "trialCommand": "rm -rf /"}, "trialCommand cannot be given"),
        ({**one(), "known_hosts": "missing"}, "does not exist"),
        ({**one(), "records": {"here": ".", "there": "/"}}, "records is for clusters"),
        ({**KUBEFLOW, "operator": "mpi"}, "pytorch-operator"),
        ({**KUBEFLOW, "storage": {"storageType": "ceph"}}, "storage_type"),
        ({**KUBEFLOW, "master": {"replicas": 1}}, "is not set"),
        ({**KUBEFLOW, "records": None}, "records: {here, there} is missing"),
        ({**KUBEFLOW, "records": {"here": "missing", "there": "/"}}, "is no folder"),
        ({**KUBEFLOW, "known_hosts": "key"}, "known_hosts is a file, for"),
        (
            {
                **{"platform": "openpai", "host": "pai", "username": "me", "token": "t", "trialCpuNumber": 1},
                **{"trialMemorySize": "8gb", "storageConfigName": "s", "containerStorageMountPoint": "/mnt"},
                **{"localStorageMountPoint": ".", "trialGpuNumber": 1, "virtualCluster": "default"},
            },
            "no service for OpenPAI any more",
        ),
    ],
)
def test_what_is_wrong_with_a_file(
    fields: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match=message) as raised:
        read_machines(write(tmp_path, **fields))
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith(str(tmp_path / "machines.yaml"))


@pytest.mark.usefixtures("key")
def test_what_a_run_may_ask_for(tmp_path: Path) -> None:
    read = read_machines(write(tmp_path, **one(), trialGpuNumber=2))
    assert read.concurrency(3, [resolve_config({"devices": 2})]) == 3
    with pytest.raises(OptionError, match="trialGpuNumber gives each run 2"):
        read.concurrency(3, [resolve_config({"devices": 4})])
    with pytest.raises(OptionError, match="has one machine"):
        read.concurrency(3, [resolve_config({"nodes": 2})])
    with pytest.raises(OptionError, match="say with --concurrency"):
        read_machines(write(tmp_path, **KUBEFLOW)).concurrency(None, [])


def examples() -> list[str]:
    """The files of machines in the documentation."""
    blocks = SCALING.read_text(encoding="utf-8").split("```yaml\n")[1:]
    return [text for block in blocks if "platform:" in (text := block.partition("```")[0])]


def test_the_examples_of_the_documentation_are_valid(tmp_path: Path) -> None:
    folder = Path.home() / ".ssh"
    folder.mkdir(exist_ok=True)
    (folder / "id_ed25519").touch()
    platforms = []
    for text in examples():
        given = yaml.safe_load(text)
        if "records" in given:
            given["records"]["here"] = str(tmp_path)
        platforms.append(read_machines(write(tmp_path, **given)).service.platform)
    assert {"remote", "kubeflow"} <= set(platforms)


# What comes back


def finished_record(folder: Path) -> Path:
    """A record just as far as it is read here."""
    path = folder / RECORD / "2030-01-01_000000_space_random_seed0"
    path.mkdir(parents=True)
    (path / CONFIG).write_text("{}")
    none = dict.fromkeys(("params", "madds", "search_seconds", "retrain_seconds", "peak_memory_bytes"), 0)
    told = Result(top1=0.5, top5=None, architecture={"a": "b"}, label="none", record="/elsewhere", **none)
    (path / RESULT).write_text(told.model_dump_json())
    return path


def test_a_record_moves_to_the_others(tmp_path: Path) -> None:
    names = []
    for trial in "ab":
        name = finished_record(tmp_path / trial).name
        names.append(move_record(tmp_path / trial, tmp_path).name)
    # Two machines may have started a run in the same second.
    assert names == [name, f"{name}_2"]
    moved = Record(tmp_path / names[1])
    assert (moved.result().top1, moved.result().record) == (0.5, str(moved.path))
    with pytest.raises(NasbenchError, match="0 records instead of one"):
        move_record(tmp_path / "a", tmp_path)


def test_a_cluster_gets_the_trials_and_leaves_records_on_its_storage(tmp_path: Path) -> None:
    from nni.experiment.config import AlgorithmConfig, ExperimentConfig

    (tmp_path / "own.py").write_text("")
    fields = {**KUBEFLOW, "trialCodeDirectory": ".", "nniManagerIp": "10.0.0.1"}
    read = read_machines(write(tmp_path, **{**fields, "records": {"here": str(tmp_path), "there": "/tmp/mount/r"}}))
    place = Cluster(read, "abc", tmp_path / ".nni" / "abc", "0.0.0.0")
    assert place.trials == "/tmp/mount/r/abc"
    config: Any = ExperimentConfig("local")
    config.search_space, config.tuner = {}, AlgorithmConfig(name="Batch")
    config.trial_concurrency = 2
    path = place.configure(config)
    sent = config.json()["trainingService"]
    assert sent["platform"] == "kubeflow"
    assert sent["trialCommand"] == sent["master"]["command"] == f"python3 -m nasbench.nni_bridge.trial {path.name}"
    assert Path(sent["trialCodeDirectory"]) == path.parent
    assert (path.parent / "own.py").exists()
    finished_record(tmp_path / "abc" / "trial")
    place.download("trial", "", tmp_path / "here")
    assert move_record(tmp_path / "here", tmp_path).parent == tmp_path
    with pytest.raises(NasbenchError, match="left nothing"):
        place.download("other", "", tmp_path / "here")


# Over SSH


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Server]:
    """This machine, as another one."""
    passed = {name: os.environ.get(name, "") for name in ("NASBENCH_DATA", "PYTHONPATH")}
    with server(tmp_path / "sshd", **passed) as running_server:
        yield running_server


def far(folder: Path, machine: Server, **fields: Any) -> dict[str, Any]:
    """A service of that machine. It comes back on 127.0.0.2, because 127.0.0.1 is the manager's own."""
    (folder / "code").mkdir(exist_ok=True)
    (folder / "code" / "own_space.py").write_text(SPACE)
    (folder / "own_space.py").write_text(SPACE)
    entry = {
        "host": "127.0.0.1",
        "port": machine.port,
        "user": machine.user,
        "sshKeyFile": str(machine.key),
        "pythonPath": str(Path(sys.executable).parent),
        **fields,
    }
    known = str(machine.known_hosts)
    return {
        **{"platform": "remote", "nniManagerIp": "127.0.0.2", "trialCodeDirectory": "code"},
        **{"known_hosts": known, "machineList": [entry]},
    }


@needs_sshd
def test_a_machine_is_checked_before_anything_starts(machine: Server, tmp_path: Path) -> None:
    def connect(address: str = "127.0.0.2", **fields: Any) -> Remote:
        service = {**far(tmp_path, machine, **fields), "nniManagerIp": address}
        return Remote(read_machines(write(tmp_path, **service)), "abc", tmp_path, "127.0.0.1", 1)

    place = connect()
    stand_in = f"{machine.home}/nni-experiments/abc/nasbench/python"
    asked = "import os; print(*(os.environ.get(n) for n in ('NASBENCH_PYTHON', 'OMP_NUM_THREADS', 'NODE_OPTIONS')))"
    (connection,) = place._connections
    told = connection.run(f'{stand_in} -c "{asked}"').decode().split()
    assert Path(told[0]).parent == Path(sys.executable).parent
    assert told[1:] == [str(os.sysconf("SC_NPROCESSORS_ONLN")), "None"]
    # What NNI runs at every start changes nothing.
    assert connection.run(f"{stand_in} -m pip install nni --upgrade") == b""
    place.close()
    assert not list(machine.home.glob("nni-experiments/*"))
    with pytest.raises(OptionError, match="must have nasbench and nni installed"):
        connect(pythonPath="/nowhere/bin")
    with pytest.raises(OptionError, match="Permission denied"):
        connect(user="nobody-of-that-name")
    with pytest.raises(OptionError, match="would not be reached"):
        connect("192.0.2.1")
    machine.known_hosts.write_text("")
    with pytest.raises(OptionError, match="Host key verification failed"):
        connect()
    assert not leftovers(f"-p {machine.port}")


@needs_sshd
def test_a_connection_ends_with_the_process(machine: Server) -> None:
    code = (
        "import os, sys; from pathlib import Path; from nasbench.nni_bridge.ssh import Connection\n"
        "c = Connection('127.0.0.1', int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))\n"
        "c.open(); print(c.forward('127.0.0.2', int(sys.argv[5])), flush=True); os.kill(os.getpid(), 9)"
    )
    given = [str(machine.port), machine.user, str(machine.key), str(machine.known_hosts), str(free_port("127.0.0.2"))]
    done = subprocess.run([sys.executable, "-c", code, *given], stdout=subprocess.PIPE, text=True, check=False)
    assert done.stdout == "True\n"
    wait_for(lambda: not leftovers(f"-p {machine.port}"), 20)


@needs_sshd
def test_files_come_back_as_they_are(machine: Server, tmp_path: Path) -> None:
    connection = Connection("127.0.0.1", machine.port, machine.user, str(machine.key), machine.known_hosts)
    connection.open()
    try:
        name = "a 'strange' $name"
        connection.write(f"~/{name}/x/y.txt", "é\n")
        connection.download(f"~/{name}", tmp_path / "back")
        assert (tmp_path / "back" / "x" / "y.txt").read_text() == "é\n"
        with pytest.raises(NasbenchError, match="No such file"):
            connection.download("~/nowhere", tmp_path / "back")
        # What leads out of the folder is not unpacked.
        (machine.home / "evil").mkdir()
        (machine.home / "evil" / "link").symlink_to("/etc/passwd")
        with pytest.raises(NasbenchError, match="was not copied"):
            connection.download("~/evil", tmp_path / "back")
    finally:
        connection.close()


def listening(*words: str) -> list[str]:
    """The address of each port on which a process listens whose command line holds all the words."""
    found = []
    for process in psutil.process_iter():
        try:
            if all(word in " ".join(process.cmdline()) for word in words):
                found += [c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        except psutil.Error:
            continue
    return found


def waiting(machine: Server, folder: Path) -> Path:
    """The folder on the machine in which a trial waits."""

    def found() -> Path | None:
        trials = psutil.process_iter(["cmdline", "cwd"])
        homes = [Path(p.info["cwd"] or "") for p in trials if "nasbench.nni_bridge.trial" in (p.info["cmdline"] or [])]
        own = [h for h in homes if machine.home in h.parents]
        # It waits in its first forward pass: after its record has been made.
        started = list(machine.home.glob(f"nni-experiments/*/environments/*/trials/*/{RECORD}/*/log.txt"))
        return own[0] if own and started else None

    return Path(wait_for(found, 180))


@needs_sshd
@pytest.mark.slow
def test_runs_on_a_machine_over_ssh(machine: Server, tmp_path: Path) -> None:
    write(tmp_path, **far(tmp_path, machine))
    name = sweep_file(tmp_path, fates("well", "wait", "raise", concurrency=3))
    with running("sweep", name, "--on", "machines.yaml", "--out", "out", cwd=tmp_path) as sweep:
        sweep.line("finished  fate well")
        sweep.line("failed    fate raise")
        folder = waiting(machine, tmp_path)
        # Neither the manager nor its helper on the machine can be reached from elsewhere.
        assert listening("main.js", str(tmp_path)) == ["127.0.0.1"] * 2
        (folder / "go").touch()
        (tmp_path / "go").touch()  # the report looks at the networks here
        assert sweep.end() == 1  # one run failed
    failed = next(line for line in sweep.said if line.startswith("failed"))
    assert "RuntimeError: no such luck" in failed
    records = [Record(p.parent) for p in (tmp_path / "out").glob("*/config.yaml")]
    assert len(records) == 2
    for record in records:
        assert record.status().state == "finished"
        assert record.result().record == str(Path("out") / record.path.name)
        assert (record.path / "model.safetensors").exists()
    # Nothing stays on the machine.
    assert not list(machine.home.glob("nni-experiments/*"))
    assert not leftovers(str(machine.home), f"-p {machine.port}")
    # The same command takes what has come back.
    with running("sweep", name, "--on", "machines.yaml", "--out", "out", "--dry-run", cwd=tmp_path) as again:
        assert again.end() == 0
    assert "2 finished before, 1 to run" in "\n".join(again.said)


@needs_sshd
@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_everything_ends_with_the_sweep(how: signal.Signals, machine: Server, tmp_path: Path) -> None:
    write(tmp_path, **far(tmp_path, machine))
    name = sweep_file(tmp_path, fates("wait"))
    with running("sweep", name, "--on", "machines.yaml", "--out", "out", cwd=tmp_path) as sweep:
        waiting(machine, tmp_path)
        sweep.process.send_signal(how)
        assert sweep.end() == (130 if how == signal.SIGINT else -how)
    wait_for(lambda: not leftovers(str(machine.home), str(tmp_path / "out"), f"-p {machine.port}"), 60)
    if how == signal.SIGINT:
        assert not list(machine.home.glob("nni-experiments/*"))


@needs_sshd
@pytest.mark.slow
def test_a_machine_that_lacks_something_is_told_before_nni_starts(machine: Server, tmp_path: Path) -> None:
    write(tmp_path, **far(tmp_path, machine, pythonPath="/nowhere/bin"))
    sweep = {"name": "far", "base": {**QUICK, "strategy": "random"}, "grid": {"seed": [0]}}
    name = sweep_file(tmp_path, sweep)
    with running("sweep", name, "--on", "machines.yaml", "--out", "out", cwd=tmp_path) as started:
        assert started.end() == 2
    assert started.said[-1].startswith("error: machine 127.0.0.1")
    assert not list((tmp_path / "out").glob("2*"))
