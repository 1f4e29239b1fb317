"""A distribution of somebody else's, found through its entry points."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from nni.nas.nn.pytorch import ModelSpace

from nasbench import registry
from nasbench.errors import OptionError
from nasbench.record import METRICS, Record
from nasbench.studies import tables

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"
PARTS = {"space": "kernel_sizes", "strategy": "hill_climbing", "evaluator": "mixup", "dataset": "stripes"}
UNTRAINED = "lightest"  # its strategy that needs no search
QUICK = ("--dataset", "stripes", "--preset", "quick")


class Base(ModelSpace):
    """What a stranger derives from."""

    def __init__(self, needed: int, size: int = 3) -> None:
        super().__init__()
        self.needed, self.size = needed, size


class Derived(Base):
    """Hands on what it does not know."""

    def __init__(self, extra: str = "a", **options: Any) -> None:
        super().__init__(**{"needed": 1, **options})
        self.extra = extra


def test_options_handed_on_are_options_too() -> None:
    assert list(registry.parameters(Derived)) == ["extra", "needed", "size"]
    name = f"{__name__}:Derived"
    built = registry.build("space", name, {"size": "4"}, needed=2, unknown=5)
    assert (built.extra, built.needed, built.size) == ("a", 2, 4)  # converted, and what the caller knows arrives
    assert registry.build("space", name, {}).needed == 1
    with pytest.raises(OptionError, match="did you mean 'size'"):
        registry.build("space", name, {"sise": 4})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example installed in it, which was built from a copy: a build leaves files behind."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "plugin")
    target = tmp_path_factory.mktemp("site")
    options = ["--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *options, str(source)], check=True)
    return target


def with_path(site: Path) -> str:
    """PYTHONPATH with the example before what is there already."""
    return os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))


def nasbench(site: Path | None, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command with or without the example on the path."""
    environment = {**os.environ, "COLUMNS": "200", **({"PYTHONPATH": with_path(site)} if site else {})}
    return subprocess.run(
        [sys.executable, "-m", "nasbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        check=False,
    )


def test_list_shows_all_kinds(site: Path, tmp_path: Path) -> None:
    listed = json.loads(nasbench(site, "list", "--json", cwd=tmp_path).stdout)
    without = json.loads(nasbench(None, "list", "--json", cwd=tmp_path).stdout)
    for (kind, name), plural in zip(PARTS.items(), ("spaces", "strategies", "evaluators", "datasets"), strict=True):
        added = listed[plural].keys() - without[plural].keys()
        assert added == {name, *([UNTRAINED] if kind == "strategy" else [])}, kind
        assert all(listed[plural][n].endswith(".") for n in added)


def test_a_run_with_all_four(site: Path, tmp_path: Path) -> None:
    parts = [word for kind, name in PARTS.items() for word in (f"--{kind}", name)]
    small = ["-s", "steps=2", "-e", "alpha=0.3", "--epochs", "1", "--retrain-epochs", "4"]
    more = ["--preset", "quick", "--batch-size", "50", "--train-images", "300", "--device", "cpu", "--json"]
    done = nasbench(site, "run", *parts, *small, *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["architecture"]) == {"layer0.kernel", "layer1.kernel", "layer2.kernel", "enhancer"}
    record = Path(tmp_path / result["record"])
    assert Record(record).config().space_options == {"layers": 3, "channels": 8}  # its own preset, and its default
    assert result["label"] == "hill_climbing ×8 in kernel_sizes"
    assert json.loads((record / "data.json").read_text())["class_names"] == ["across", "along"]
    metrics = (record / "metrics.csv").read_text()
    assert "search,1," in metrics  # the search trained networks
    assert "train_top1" not in metrics  # by the evaluator's own module, which logs no accuracy of blended images
    assert result["top1"] > 0.7


def test_its_own_gate_is_searched_by_our_strategy(site: Path, tmp_path: Path) -> None:
    epochs = ["--epochs", "1", "--retrain-epochs", "1", "--train-images", "200", "-s", "warmup_epochs=0"]
    searched = ["--space", "kernel_sizes", "--strategy", "darts", *QUICK, *epochs, "--device", "cpu", "--json"]
    done = nasbench(site, "run", *searched, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = Record(tmp_path / json.loads(done.stdout.splitlines()[-1])["record"])
    pi = record.decisions()["enhancer"].pi
    assert pi is not None
    assert pi.keys() == {"none", "max3", "edges"}
    assert len(set(pi.values())) == 3  # each has learned


def test_its_table_is_trained_and_filled(site: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.yaml").write_text("{retrain_epochs: 1, train_images: 200, device: cpu}")
    command = ["table", "kernels", "--run", *QUICK, "--seeds", "1", "--config", "rows.yaml"]
    done = nasbench(site, *command, "--format", "json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = json.loads(done.stdout)
    assert [row["n"]["value"] for row in table["rows"]] == [1, 1, 1, 1]
    assert not any("paper" in text for text in (table["caption"], *table["notes"]))
    assert not any(column["key"].startswith("paper") for column in table["columns"])
    (untrained,) = (p for p in (tmp_path / "runs").iterdir() if UNTRAINED in p.name)
    assert "search" not in {row["stage"] for row in Record(untrained).curves(METRICS)}
    assert {d.by for d in Record(untrained).decisions().values()} == {
        "the fewest parameters of the networks that were drawn"
    }
    again = nasbench(site, *command, cwd=tmp_path)
    assert "nothing to train" in again.stdout + again.stderr
    for row in table["rows"]:
        assert row["row"]["value"] in again.stdout
    page = nasbench(site, "report", "runs", "--output", "page", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert "kernels: 5×5 everywhere" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


def test_a_table_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", "nasbench.errors:unknown", tables.GROUP)
    monkeypatch.setattr(tables, "entry_points", lambda group: [entry])
    assert tables.names()[-1] == "mine"
    with pytest.raises(OptionError, match=r"table 'mine': nasbench.errors:unknown is no TableSpec"):
        tables.spec("mine")


def test_its_options_are_checked_like_ours(site: Path, tmp_path: Path) -> None:
    """Those of the base class too, to which its constructor hands **options on."""
    tried = {
        "alhpa=1": "unknown option of evaluator 'mixup' 'alhpa': did you mean 'alpha'?",
        "learning_rat=1": "unknown option of evaluator 'mixup' 'learning_rat': did you mean 'learning_rate'?",
        "alpha=0": "evaluator 'mixup': alpha must be > 0, not 0.0",
        "momentum=high": "evaluator 'mixup': option momentum='high'",
    }
    code = (
        "import sys, nasbench.cli\n"
        f"for option in {list(tried)!r}:\n"
        "    sys.argv = ['nasbench', 'run', '--evaluator', 'mixup', '-e', option]\n"
        "    try: nasbench.cli.main()\n"
        "    except SystemExit as e: print(e.code)\n"
    )
    environment = {**os.environ, "PYTHONPATH": with_path(site)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert done.stdout.split() == ["2"] * len(tried)
    for line, message in zip(done.stderr.splitlines(), tried.values(), strict=True):
        assert line.startswith(f"error: {message}")


@pytest.mark.slow
def test_it_keeps_the_contract(site: Path) -> None:
    chosen = " or ".join([*PARTS.values(), UNTRAINED])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "tests/test_contract.py", "-k", chosen, "-m", "not slow", "-p", "no:xdist"],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "PYTHONPATH": with_path(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout
