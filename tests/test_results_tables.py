"""Statistics over seeds, the tables built from runs, and their formats."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from records import PAPER, write_run
from scipy import stats

from nasbench.architecture import resolve
from nasbench.errors import OptionError
from nasbench.networks import build_space, label_of, names_of
from nasbench.presets import resolve_config
from nasbench.quiet import quiet_libraries
from nasbench.results.cells import Cell, Column, Table, text
from nasbench.results.collect import collect
from nasbench.results.formats import FORMATS, render, rich
from nasbench.results.statistics import difference, mean
from nasbench.results.tables import build, pivot, records
from nasbench.studies.metapooling import TABLES
from nasbench.studies.rows import Printed, RowSpec


def test_mean_and_interval_by_hand() -> None:
    found = mean([1.0, 2.0, 3.0])  # s = 1, t(0.975, 2) = 4.30265
    assert found.value == 2.0
    assert found.half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert found.n == 3


def test_one_run_has_no_interval() -> None:
    assert mean([0.5]).half is None
    assert difference({0: 0.5}, {0: 0.25}).half is None
    assert difference({0: 0.5}, {1: 0.25, 2: 0.5}).half is None
    assert difference({1: 0.25, 2: 0.5}, {0: 0.5}).half is None


def test_the_intervals_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.02, 5), rng.normal(0.88, 0.05, 5)
    low, high = stats.t.interval(0.95, 4, a.mean(), stats.sem(a))
    found = mean(list(a))
    assert (found.value - (found.half or 0), found.value + (found.half or 0)) == pytest.approx((low, high))

    paired = difference(dict(enumerate(a)), dict(reversed(list(enumerate(b)))))
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert paired.paired
    assert (paired.value - paired.half, paired.value + paired.half) == pytest.approx(tuple(interval))  # type: ignore[operator]

    welch = difference(dict(enumerate(a)), {i + 1: v for i, v in enumerate(b[:3])})
    interval = stats.ttest_ind(a, b[:3], equal_var=False).confidence_interval(0.95)
    assert not welch.paired
    assert (welch.value - welch.half, welch.value + welch.half) == pytest.approx(tuple(interval))  # type: ignore[operator]


def test_as_many_other_seeds_are_no_pairs() -> None:
    a, b = [0.5, 0.7, 0.6], [0.4, 0.3, 0.6]
    found = difference(dict(enumerate(a)), {i + 3: v for i, v in enumerate(b)})
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert not found.paired
    assert found.half == pytest.approx((interval.high - interval.low) / 2)


def test_equal_values_have_an_interval_of_nothing() -> None:
    assert difference({0: 0.5, 1: 0.5}, {2: 0.25, 3: 0.25}).half == 0.0


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Table 3 with two rows of three seeds, one row of other seeds, one single run, and three rows without any."""
    space = {"candidates": "ablation"}
    for seed, (none, whole) in enumerate(((0.70, 0.75), (0.72, 0.74), (0.71, 0.79))):
        write_run(tmp_path, none, seed=seed, space_options=space)
        write_run(tmp_path, whole, seed=seed, architecture="global", space_options=space)
    for seed, value in ((5, 0.73), (6, 0.75)):
        drawn = {**PAPER, "block01.enhancer": "avg3"}
        write_run(tmp_path, value, seed=seed, strategy="random", architecture=drawn, space_options=space)
    write_run(tmp_path, 0.76, seed=0, strategy="pmpl", architecture=PAPER, space_options=space, steps=4)
    return tmp_path


def rows_of(table: Table) -> dict[str, Any]:
    return {str(table.cell(i, table.columns[0].key).value): row for i, row in enumerate(table.rows)}


def test_table3(runs: Path) -> None:
    table = build("table3", collect([runs]).frame)
    rows = rows_of(table)
    assert [c.header for c in table.columns[1:6]] == ["No", "Local", "Global", "Random", "PMPL"]
    whole = rows["global everywhere"]
    expected = mean([0.75, 0.74, 0.79])
    assert (whole["top1"].value, whole["top1"].half, whole["top1"].n) == (expected.value, expected.half, 3)
    paired = difference({0: 0.75, 1: 0.74, 2: 0.79}, {0: 0.70, 1: 0.72, 2: 0.71})
    assert (whole["delta"].value, whole["delta"].half, whole["delta"].marks) == (paired.value, paired.half, ())
    assert rows["all three, random"]["delta"].marks == ("welch",)
    assert rows["all three, PMPL"]["delta"].half is None
    assert rows["no enhancer"]["delta"].marks == ("baseline",)
    best = [name for name, row in rows.items() if "best" in row["top1"].marks]
    assert best == ["global everywhere"]  # 0.76 three times over; PMPL has 0.76 as well, but once
    for name in ("local everywhere", "all three, DARTS first order"):
        assert rows[name]["top1"] == Cell()
        assert rows[name]["n"].value is None
    assert rows["all three, PMPL"]["paper_top1"].value == 0.746
    assert rows["all three, PMPL"]["paper_delta"].value == pytest.approx(0.023)
    assert rows["all three, DARTS second order"].get("paper_top1") is None
    assert table.texts(1)[6:9] == ["–", "–", "–"]


def test_what_is_not_comparable_is_left_out_and_said(runs: Path) -> None:
    space = {"candidates": "ablation"}
    write_run(runs, 0.1, seed=9, space_options=space, dataset="fashion_mnist")
    write_run(runs, 0.1, seed=9, space_options={**space, "width": 0.75})
    write_run(runs, 0.1, seed=9, space_options=space, retrain_epochs=99)
    write_run(runs, 0.2, seed=9, strategy="pmpl", space_options=space, strategy_options={"eta": 0.5})
    write_run(runs, 0.71, seed=2, space_options=space, started="2000-01-01")
    table = build("table3", collect([runs]).frame)
    assert rows_of(table)["no enhancer"]["top1"].value == pytest.approx(0.71)
    assert rows_of(table)["all three, PMPL"]["n"].value == 1
    notes = " ".join(table.notes)
    assert "fashion_mnist" in notes
    assert "width 0.75" in notes
    assert "99 epochs" in notes
    assert "all three, PMPL: 1 run(s) with other settings left out" in notes
    assert "no enhancer: of 1 repeated run(s) only the newest" in notes


ROWS = [(name, row) for name, table in TABLES.items() for row in table.rows]


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[f"{name} {row.key}" for name, row in ROWS])
def test_every_row_knows_its_runs_and_no_other(name: str, row: RowSpec, tmp_path: Path) -> None:
    """The settings that train a row are recognised as this row, and as another only where both train the same."""
    config = resolve_config({**row.settings, "preset": "quick", "dataset": "digits"})
    with quiet_libraries():
        space = build_space(config, 10, 8)
        architecture = resolve(space, config.architecture or "none")
    assert label_of(config, architecture, names_of(space, architecture)) == row.label
    write_run(tmp_path, 0.5, **{"preset": "quick", "dataset": "digits", **row.settings})
    (run,) = records(collect([tmp_path]).frame)
    assert [other.key for other in TABLES[name].rows if other.match(run)] == [row.key]


def test_every_table_has_the_papers_rows() -> None:
    for name, table in TABLES.items():
        assert table.paper is not None
        assert [row.key for row in table.rows if not row.printed] == (
            ["evidence", "darts1", "darts2"] if name == "table3" else []
        )
        assert {row.baseline for row in table.rows} <= {row.key for row in table.rows}
    printed = {(name, row.key): row.printed for name, row in ROWS}
    assert printed["table1", "liftdown"] == Printed(0.7391, 0.9178)
    assert printed["table4", "sk"] == Printed(0.741, 0.918, 5_280_000, 350_000_000, 2)
    meta, none = printed["table2", "meta 0.75"], printed["table2", "none 0.75"]
    assert meta is not None
    assert none is not None
    assert meta.top1 - none.top1 == pytest.approx(0.019)  # not the printed 1.8
    assert "first eight replace the stride" in TABLES["table1"].caption
    assert "as the enhancer of every block" in TABLES["table1-enhancer"].caption


def of_csv(content: str) -> pd.DataFrame:
    """The data of a CSV table, to the last digit: what pandas makes of digits on its own is not exact."""
    words = pd.read_csv(StringIO(content), dtype=object, keep_default_na=False, na_values=[""])

    def value(word: object) -> object:
        if not isinstance(word, str) or word in ("True", "False"):
            return word == "True" if isinstance(word, str) else None
        try:
            return float(word)
        except ValueError:
            return word

    frame = pd.DataFrame({str(name): [value(word) for word in words[name]] for name in words})
    empty = [name for name in frame if frame[name].isna().all()]
    return frame.astype(dict.fromkeys(empty, "float64")).convert_dtypes()


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "enhancers", "strategies", "pivot"])
def test_all_formats_come_from_the_same_numbers(name: str, runs: Path) -> None:
    frame = collect([runs]).frame
    table = pivot(frame, "label", "seed") if name == "pivot" else build(name, frame)
    data = json.loads(render(table, "json"))
    assert [set(row) for row in data["rows"]] == [set(row) for row in table.rows]
    pd.testing.assert_frame_equal(of_csv(render(table, "csv")), table.frame())
    for row, cells in zip(data["rows"], table.rows, strict=True):
        assert all(row[key] == json.loads(json.dumps(asdict(cell))) for key, cell in cells.items())
    shown = [table.texts(i) for i in range(len(table.rows))]
    for how in ("md", "latex", "html"):
        content = render(table, how)
        for row in shown:
            for value in filter(None, row):
                number = value.removesuffix(" w").replace(" ± ", {"latex": r" $\pm$ "}.get(how, " ± "))
                minus, nothing = ("$-$", "--") if how == "latex" else ("−", "–")
                assert number.replace("−", minus).replace("–", nothing).replace("✓", "") in content
    assert content.count("<tr") == len(table.rows) + 1


def test_the_terminal_shows_every_cell(runs: Path) -> None:
    from rich.console import Console

    table = build("table3", collect([runs]).frame)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(rich(table))
    lines = captured.get().splitlines()
    for i in range(len(table.rows)):
        assert any(all(value in line for value in table.texts(i)) for line in lines)


def test_names_cannot_break_a_format() -> None:
    nasty = r"a|b & 50% _x_ <script>alert(1)</script> \n{}$#^~ “q” α≥β ★"
    table = Table("nasty", nasty, (Column("a", nasty), Column("v", "v", "count")), ({"a": Cell(nasty)},), (nasty,))
    assert "<script>" not in render(table, "html")
    row = render(table, "md").splitlines()[-3]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3
    latex = render(table, "latex")
    assert r"\_x\_ \textless{}script\textgreater{}" in latex
    assert json.loads(render(table, "json"))["rows"][0]["a"]["value"] == nasty
    assert of_csv(render(table, "csv"))["a"][0] == nasty
    _compile(latex)


@pytest.mark.parametrize("name", [*TABLES, "strategies"])
def test_the_latex_compiles(name: str, runs: Path) -> None:
    _compile(render(build(name, collect([runs]).frame), "latex"))


def _compile(content: str) -> None:
    program = shutil.which("pdflatex")
    if program is None:
        pytest.skip("pdflatex is not installed")
    packages = r"\usepackage[T1]{fontenc}\usepackage{booktabs,amssymb,graphicx}"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.tex"
        page.write_text(f"\\documentclass{{article}}{packages}\n\\begin{{document}}\n{content}\n\\end{{document}}\n")
        command = [program, "-interaction=nonstopmode", "-halt-on-error", page.name]
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60)
        log = done.stdout.decode(errors="replace")
        assert done.returncode == 0, log[-2000:]
        too_wide = [float(w) for w in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log)]
        assert max(too_wide, default=0) < 2, log[-2000:]


def test_enhancers_and_strategies(runs: Path) -> None:
    frame = collect([runs]).frame
    found = rows_of(build("enhancers", frame))
    assert list(found) == ["none", "global", "pmpl (ablation)", "random (ablation)"]
    assert found["global"]["delta"].value == pytest.approx(0.05)
    costs = rows_of(build("strategies", frame))
    assert list(costs) == ["random (ablation)", "pmpl (ablation)"]
    assert costs["pmpl (ablation)"]["search_seconds"].value == 3.5
    assert costs["pmpl (ablation)"]["delta"].value == pytest.approx(0.02)


def test_settings_are_kept_apart(runs: Path) -> None:
    write_run(runs, 0.5, seed=0, dataset="fashion_mnist", space_options={"candidates": "ablation"})
    write_run(runs, 0.6, seed=0, dataset="fashion_mnist", architecture="global")
    table = build("enhancers", collect([runs]).frame)
    by_setting: dict[str, list[float]] = {}
    for row in table.rows:
        by_setting.setdefault(str(row["setting"].value), []).append(float(row["top1"].value or 0))
    assert sorted(map(len, by_setting.values())) == [2, 4]
    assert next(v for k, v in by_setting.items() if "fashion" in k) == [0.5, 0.6]
    assert table.rules


def test_settings_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for seed in (0, 1):
        for rho, rate in ((0.2, 0.05), (0.3, 0.05), (0.2, 0.1)):
            options = {"strategy_options": {"rho": rho}, "evaluator_options": {"learning_rate": rate}}
            write_run(tmp_path, 0.5 + rho + seed / 100, seed=seed, strategy="pmpl", architecture=PAPER, **options)
    table = build("strategies", collect([tmp_path]).frame)
    told = [(str(row["setting"].value), str(row["label"].value), row["n"].value) for row in table.rows]
    assert sorted(told) == [
        ("learning_rate=0.05", "pmpl (full), rho=0.2", 2),
        ("learning_rate=0.05", "pmpl (full), rho=0.3", 2),
        ("learning_rate=0.1", "pmpl (full)", 2),
    ]
    assert not any("left out" in note for note in table.notes)


def test_pivot(runs: Path) -> None:
    frame = collect([runs]).frame
    table = pivot(frame, "label", "seed", "top1")
    assert [c.header for c in table.columns] == ["label", "0", "1", "2", "5", "6"]
    assert rows_of(table)["global"]["seed=1"].value == 0.74
    assert rows_of(table)["global"]["seed=5"] == Cell()
    assert rows_of(pivot(frame, "label", "dataset"))["none"]["dataset=digits"].n == 3
    with pytest.raises(OptionError, match="did you mean 'label'"):
        pivot(frame, "labels", "seed")
    with pytest.raises(OptionError, match="no numbers"):
        pivot(frame, "seed", "dataset", "label")


def test_cells_for_readers() -> None:
    points, count = Column("d", "Δ", "points"), Column("p", "params", "millions", 2)
    assert text(points, Cell(-0.004, 0.01, 3)) == "−0.40 ± 1.00"
    assert text(points, Cell(-0.00001)) == "+0.00"
    assert text(points, Cell(0.0, marks=("baseline",))) == "baseline"
    assert text(points, Cell()) == "–"
    assert text(count, Cell(3_504_872)) == "3.50"
    assert text(count, Cell(2_500_000, digits=1)) == "2.5"
    of_any_kind = Column("a", "A")
    assert text(of_any_kind, Cell(0.1, kind="percent")) == "10.00 %"
    assert text(of_any_kind, Cell(0.1, kind="points")) == "+10.00 points"
    assert text(of_any_kind, Cell(-3, kind="number", change=True)) == "−3"
    assert text(of_any_kind, Cell(1e-05, kind="number")) == "1e−05"
    assert text(of_any_kind, Cell(True, kind="number")) == "True"


def test_wrong_names_are_refused(runs: Path) -> None:
    frame = collect([runs]).frame
    with pytest.raises(OptionError, match="did you mean 'table3'"):
        build("table33", frame)
    with pytest.raises(OptionError, match="unknown format 'pdf'"):
        render(build("table3", frame), "pdf")
    assert set(FORMATS) == {"md", "latex", "csv", "html", "json"}
