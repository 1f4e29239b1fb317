"""The commands on finished runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import LABELS, NAMES, write_run
from typer.testing import CliRunner, Result

from nasbench.cli import app
from nasbench.errors import NasbenchError

pytest.importorskip("nasbench.commands.table")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A given network and a search, two seeds each."""
    folder = tmp_path / "runs"
    for seed in (0, 1):
        space = {"candidates": "ablation"}
        write_run(folder, 0.8 + 0.01 * seed, seed=seed, space_options=space)
        found = {label: NAMES[(i + seed) % 3] for i, label in enumerate(LABELS)}
        write_run(folder, 0.9, seed=seed, strategy="pmpl", architecture=found, steps=6, space_options=space)
    return folder


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_commands(runs: Path, tmp_path: Path) -> None:
    shown = call("table", "table3", runs)
    assert shown.exit_code == 0
    assert "all three, PMPL" in shown.stdout
    placed = call("table", "table1", runs, "--placement", "enhancer", "--format", "csv")
    assert "MaxPool" in placed.stdout
    assert "LiftDownPool" not in placed.stdout
    output = tmp_path / "deep" / "table.csv"
    assert call("table", "table3", runs, "--format", "csv", "--output", output).exit_code == 0
    assert output.read_text() == call("table", "table3", runs, "--format", "csv").stdout
    assert call("table", "pivot", runs, "--columns", "seed", "--format", "md").stdout.count("|") > 9
    assert len(call("plot", runs, "--what", "curves", "--output", tmp_path / "f").stdout.splitlines()) == 2
    fixed, pmpl = sorted(runs.glob("*fixed*"))[0], sorted(runs.glob("*pmpl*"))[0]
    compared = call("compare", fixed, pmpl).stdout
    assert "strategy_options.rho" in compared
    assert "+10.00 points" in compared
    damaged = runs / "damaged"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("[]")
    named = call("table", "enhancers", runs)
    assert named.exit_code == 0
    assert f"skipped {damaged}: " in named.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("table", "table9", "."), "unknown table 'table9'"),
        (("table", "table3", ".", "--format", "pdf"), "unknown format 'pdf'"),
        (("table", "table1", ".", "--placement", "behind"), "unknown placement 'behind'"),
        (("table", "table3", ".", "--placement", "enhancer"), "--placement enhancer is for table1"),
        (("table", "pivot", "--run"), "--run trains the rows of table1"),
        (("table", "table3", "nowhere"), "nowhere does not exist"),
        (("plot", "nowhere"), "nowhere does not exist"),
        (("plot", "nowhere", "--what", "pie"), "unknown figure 'pie'"),
        (("report", "nowhere"), "nowhere does not exist"),
        (("compare", "nowhere", "nowhere"), "nowhere is not a run record"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str) -> None:
    failed = call(*words)
    assert isinstance(failed.exception, NasbenchError)
    assert failed.exception.exit_code == 2
    assert message in str(failed.exception)
    assert "\n" not in str(failed.exception)


def test_none_is_a_value_where_it_means_something() -> None:
    printed = call("run", "--dataset", "fashion_mnist", "--preset", "quick", "--train-images", "none", "--print-config")
    assert "train_images: null" in printed.stdout
