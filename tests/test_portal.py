"""NNI's portal: who can reach it, what it shows, and that nothing is left of it."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import psutil
import pytest
from browser import browsing, chromium
from sweeping import QUICK, enter_own_space, leftovers, running, sweep_file, wait_for

from nasbench.errors import OptionError
from nasbench.nni_bridge import portal
from nasbench.nni_bridge.portal import EVERYWHERE, LIST, LOOPBACK, NNI_FOLDER, is_free
from nasbench.nni_bridge.sweep import prepare_sweep, run_sweep
from nasbench.record import METRICS, Record
from nasbench.studies.plan import held_out
from nasbench.studies.study import make_study


@pytest.fixture
def own_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a user's space, as the current one."""
    return enter_own_space(tmp_path, monkeypatch)


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        port = other.getsockname()[1]
        other.listen()
        assert not is_free(port)
        with pytest.raises(OptionError, match=f"port {port} is in use"):
            portal.start(None, port)
    assert is_free(port)
    with socket.socket(socket.AF_INET6) as other:  # localhost may mean ::1
        other.bind(("::1", port))
        other.listen()
        assert not is_free(port)


def test_only_loopback_or_everything() -> None:
    with pytest.raises(OptionError, match=r"host must be 127.0.0.1 .* not 10.0.0.1"):
        portal.start(None, host="10.0.0.1")


SLEEPER = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
time.sleep(99)
"""


def group(identifier: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process that names an experiment, does not heed SIGTERM, and leads a process group."""
    words = [sys.executable, "-c", SLEEPER, "--experiment-id", identifier]
    process = subprocess.Popen(
        words,
        process_group=0 if sys.version_info >= (3, 11) else None,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen has no process_group")
def test_only_the_experiment_s_own_processes_are_ended() -> None:
    mine, other = group("abc123"), group("abc124")
    try:
        assert portal.group_of("abc12") is None
        assert portal.group_of("abc123") == mine.pid
        # Without its manager, a group is known by the environment of its trials only.
        assert portal.group_of("zzz", leader=other.pid) is None
        portal.stop_group(mine.pid, seconds=0.2)
        mine.wait(10)
        assert portal.group_of("abc123") is None
        assert portal.members(mine.pid) == []
        assert other.poll() is None
    finally:
        for process in (mine, other):
            process.kill()
            process.wait()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Popen has no process_group")
def test_trials_without_their_manager_are_found() -> None:
    trial = group("something else", NNI_EXP_ID="abc125")
    try:
        assert portal.group_of("abc125", leader=trial.pid) == trial.pid
        assert portal.group_of("abc125") is None
    finally:
        trial.kill()
        trial.wait()


def status(address: str, **headers: str) -> int:
    """What an address answers, without following redirections."""
    try:
        with urlopen(Request(address, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as e:
        return e.code


def listening(port: int) -> set[str]:
    """Addresses on which this machine listens at a port."""
    return {
        c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.laddr.port == port
    }


def own_addresses() -> list[str]:
    """This machine's addresses but loopback."""
    found = [a.address for addresses in psutil.net_if_addrs().values() for a in addresses if a.family == socket.AF_INET]
    return [a for a in found if not a.startswith("127.")]


@pytest.mark.slow
@pytest.mark.usefixtures("own_space")
@pytest.mark.parametrize("host", [LOOPBACK, EVERYWHERE])
def test_who_can_reach_it(host: str, tmp_path: Path) -> None:
    base = {**QUICK, "space": "own_space:Space", "space_options": {"fate": "wait"}, "strategy": "random"}
    sweep = make_study({"base": base})
    seen: list[Any] = []

    def say(line: str) -> None:
        if not line.startswith("portal: "):
            return
        address = line.removeprefix("portal: ").replace(socket.gethostname(), LOOPBACK)
        base, prefix, end = address.rsplit("/", 2)
        port = int(base.rpartition(":")[2])
        assert (len(prefix), end) == (32, "")
        seen.append(status(address))
        seen.append([status(f"{base}/{p}") for p in ("", "oview", prefix[:-1], "api/v1/nni/check-status")])
        seen.append(status(f"{address}api/v1/nni/check-status"))
        seen.append(listening(port))
        origin, evil = f"http://{LOOPBACK}:{port}", f"127.0.0.2.evil.example:{port}"
        ours = [f"localhost:{port}", f"127.0.0.2:{port}"]  # the latter as machines over SSH may call it
        seen.append([status(address, Origin=origin), *(status(address, Host=host) for host in ours)])
        foreign = ({"Host": evil}, {"Origin": f"http://{evil}"}, {"Origin": "null"}, {"Host": evil, "Origin": origin})
        seen.append([status(address, **headers) for headers in foreign])
        for other in own_addresses():
            if host == LOOPBACK:
                with pytest.raises(URLError, match="refused"):
                    urlopen(f"http://{other}:{port}/{prefix}/", timeout=5)
            else:
                assert status(f"http://{other}:{port}/{prefix}/") == 200
        (tmp_path / "go").touch()

    run_sweep(sweep, prepare_sweep(sweep), tmp_path / "out", say, host=host)
    assert seen[:3] == [200, [404, 404, 404, 404], 200]
    assert seen[3:] == [{host}, [200] * 3, [403] * 4]
    assert leftovers(str(tmp_path / "out")) == []
    private = (tmp_path / "out" / NNI_FOLDER, Path.home() / LIST)
    assert {folder.stat().st_mode & 0o777 for folder in private} == {0o700}


# In a browser

TABS = "[...document.querySelectorAll('button[role=tab]')]"
ROWS = "[...document.querySelectorAll('.ms-DetailsRow')]"
ITEMS = "[...document.querySelectorAll('.ms-Dropdown-item')]"
# What React has handed to each chart: the page itself has only a picture of it.
CHARTS = """(() => [...document.querySelectorAll('.echarts-for-react')].map(element => {
  const key = Object.keys(element).find(k => k.startsWith('__reactFiber') || k.startsWith('__reactInternalInstance'))
  let node = element[key]
  while (node && !(node.memoizedProps && node.memoizedProps.option)) node = node.return
  return [].concat((node && node.memoizedProps.option.series) || []).map(s => ({name: s.name, data: s.data || []}))
}))()"""
THREE: dict[str, Any] = {
    "name": "three",
    "base": {**QUICK, "epochs": 3, "image_size": 8, "space_options": {"width": 0.1}, "dataset": "digits"},
    "variants": {
        "global": {"strategy": "fixed", "strategy_options": {"choice": "global"}, "retrain_epochs": 1},
        "random": {"strategy": "random", "retrain_epochs": 3},
        "pmpl": {"strategy": "pmpl", "strategy_options": {"warmup_epochs": 1, "eta": 0.25, "rho": 0.2}},
    },
    "grid": {"seed": [4]},
    "concurrency": 2,
}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a sweep of three runs has been made, watched in a browser meanwhile."""
    folder = tmp_path_factory.mktemp("three")
    name = sweep_file(folder, THREE)
    with running("sweep", name, "--out", "out", cwd=folder) as sweep, browsing(folder / "profile") as page:
        page.open(sweep.line("portal: ") + "detail", 1500, 1050)
        page.until(f"{ROWS}.length >= 2", 120)
        page.evaluate(f"{TABS}.find(t => t.innerText.includes('Intermediate')).click()")
        page.until(f"{CHARTS}.flat().some(series => series.data.length > 0)", 240)
        assert sweep.process.poll() is None  # live
        assert sweep.end() == 0, sweep.said
    return folder


def curve(record: Record) -> list[float]:
    """Accuracy by epoch of a run: of the search, then of the retraining."""
    rows = record.curves(METRICS)
    shown = (("search", "train_top1"), ("retrain", "val_top1"))
    return [float(r["value"]) for pair in shown for r in rows if (r["stage"], r["name"]) == pair]


@pytest.mark.slow
@pytest.mark.skipif(chromium() is None, reason="no browser")
def test_the_page_shows_the_trials(three: Path, tmp_path: Path) -> None:
    runs = json.loads((three / "out" / "sweep.json").read_text())["runs"]
    records = {r["parameters"]["variant"]: Record(three / "out" / r["record"]) for r in runs}
    assert list(records) == ["global", "random", "pmpl"]
    with running("ui", "out", "--port", "18123", cwd=three) as ui, browsing(tmp_path / "profile") as page:
        address = ui.line("http")
        assert address.startswith("://127.0.0.1:18123/")
        page.open(f"http{address}detail", 1500, 1050)
        page.until(f"{ROWS}.length == 3")
        page.evaluate(f"{TABS}.find(t => t.innerText.includes('Intermediate')).click()")
        page.until(f"{CHARTS}.flat().length == 3")
        charts = {series["name"]: series["data"] for series in page.evaluate(f"{CHARTS}.flat()")}
        for number, (name, record) in enumerate(records.items()):
            cell = f"{ROWS}[{number}]"
            page.evaluate(f"{cell}.querySelector('i[data-icon-name=ChevronRight]').click()")
            page.until(f"document.body.innerText.includes('{name}')")
            words = [w for w in page.evaluate(f"{cell}.innerText").split() if w.isascii()]  # without the icons
            assert words[0] == str(number)
            assert "SUCCEEDED" in words
            assert float(words[words.index("(FINAL)") - 1]) == pytest.approx(held_out(record), abs=1e-6)
            assert charts[words[1]] == pytest.approx(curve(record), abs=1e-6)
        shown = "".join(page.evaluate("document.body.innerText").split())
        assert all(f'variant:"{name}"seed:4' in shown for name in records)
        assert [len(curve(record)) for record in records.values()] == [1, 3, 5]
        picture = page.screenshot()
        (tmp_path / "portal.png").write_bytes(picture)
        assert len(picture) > 20_000
        # The row's button draws the other measures.
        page.evaluate(f"{ROWS}[2].querySelector('button[title=Intermediate]').click()")
        page.until("!!document.querySelector('.ms-Modal .ms-Dropdown')")
        page.evaluate("document.querySelector('.ms-Modal .ms-Dropdown').click()")
        assert page.until(f"{ITEMS}.map(item => item.innerText)") == ["default", "fixed_layers", "entropy"]
        page.evaluate(f"{ITEMS}[2].click()")
        (entropy,) = page.until(f"{CHARTS}.flat().filter(series => series.data.length && series.data.at(-1) == null)")
        first, _, last, *retraining = entropy["data"]
        assert 0 < last < first <= math.log(8) + 1e-6
        assert retraining == [None, None]
        assert not [r for r in page.events if r.get("method") == "Runtime.exceptionThrown"]
        ui.process.send_signal(signal.SIGINT)
        assert ui.end(60) == 0
    assert leftovers("18123") == []


@pytest.mark.slow
def test_finished_experiments_are_listed(three: Path) -> None:
    with running("ui", "--list", cwd=three) as listed:
        assert listed.end() == 0
    rows = [line.split() for line in listed.printed if " three " in line]
    assert len(rows) == 1
    assert rows[0][1] == "three"
    assert rows[0][4] == "3"
    with running("ui", "nosuch", cwd=three) as absent:
        assert absent.end() == 2
    assert absent.said[0].startswith("error: there is no experiment 'nosuch'; `nasbench ui --list` shows all")


@pytest.mark.slow
def test_a_single_run_in_the_portal(tmp_path: Path) -> None:
    """The last line of stdout, the exit code and the record are those of a run without it."""
    settings = ["--strategy", "random", "-p", "width=0.05", "--image-size", "8", "--train-images", "96"]
    settings += ["--batch-size", "32", "--retrain-epochs", "2", "--device", "cpu", "--json", "--out", "runs"]
    with running("run", *settings, "--ui", cwd=tmp_path) as shown:
        address = shown.line("portal: ")
        assert status(address) == 200
        assert shown.end() == 0, shown.said
    with running("run", *settings, cwd=tmp_path) as plain:
        assert plain.end() == 0
    assert any(line.startswith("retrain epoch 2/2") for line in shown.said)
    found, expected = json.loads(shown.printed[-1]), json.loads(plain.printed[-1])
    assert len(shown.printed) == 1
    same = ("top1", "top5", "params", "madds", "architecture")
    assert [found[k] for k in same] == [expected[k] for k in same]
    assert (tmp_path / found["record"]).parent == tmp_path / "runs"
    assert leftovers(str(tmp_path)) == []
    wrong = ["run", *settings, "-s", "trials=0", "--ui"]
    with running(*wrong, "--out", "elsewhere", cwd=tmp_path) as refused:
        assert refused.end() == 2
    assert refused.printed == []
    assert refused.said[-1] == "error: strategy 'random': trials must be ≥ 1, not 0"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("own_space")
def test_a_single_run_that_fails_or_is_stopped(tmp_path: Path) -> None:
    base = {**QUICK, "space": "own_space:Space", "strategy": "random"}
    for fate, code in (("raise", 1), ("wait", 130)):
        (tmp_path / "config.yaml").write_text(json.dumps({**base, "space_options": {"fate": fate}}))
        with running("run", "--config", "config.yaml", "--ui", "--out", fate, cwd=tmp_path) as run:
            if fate == "wait":
                wait_for(lambda: list(tmp_path.glob("wait/20*/data.json")))
                run.process.send_signal(signal.SIGINT)
            assert run.end() == code, run.said
        assert (fate != "raise") or "RuntimeError: no such luck (own_space.py:" in run.said[-1]
        assert leftovers(str(tmp_path)) == []
