"""Statistics over seeds, the tables built from runs, their formats, and what a table lacks."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_results_records import LABELS, write_run

from nasbench.config import resolve_config
from nasbench.errors import OptionError
from nasbench.results import papers
from nasbench.results.cells import Cell, Column, Table, table_from_json, text
from nasbench.results.collect import collect
from nasbench.results.formats import FORMATS, read_csv, render, rich
from nasbench.results.rows import TABLES, spec
from nasbench.results.statistics import difference, mean
from nasbench.results.tables import build, pivot, records
from nasbench.results.training import missing, missing_runs, overrides

PAPER = {label: "global" if i > 8 else "none" for i, label in enumerate(LABELS, 1)}


def test_mean_and_interval_by_hand() -> None:
    found = mean([1.0, 2.0, 3.0])  # s = 1, t(0.975, 2) = 4.30265
    assert found.value == 2.0
    assert found.half == pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert found.n == 3


def test_one_run_has_no_interval() -> None:
    assert mean([0.5]).half is None
    assert difference({0: 0.5}, {0: 0.25}).half is None
    assert difference({0: 0.5}, {1: 0.25, 2: 0.5}).half is None
    with pytest.raises(ValueError, match="at least one"):
        mean([])


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


def test_every_row_knows_its_runs_and_no_other(tmp_path: Path) -> None:
    """The settings that train a row are recognised as this row, and as another only where both train the same."""
    for name, table in TABLES.items():
        for row in table.rows:
            given = overrides(row, {}, 0)
            choice = given["strategy_options"].pop("choice", "none")
            architecture = PAPER if choice == "paper" else {"local": "avg3"}.get(choice, choice)
            folder = tmp_path / name / row.key.replace(" ", "_")
            write_run(folder, 0.5, architecture=architecture, **{k: v for k, v in given.items() if k != "space"})
            (run,) = records(collect([folder]).frame)
            assert [other.key for other in table.rows if other.match(run)] == [row.key]


def test_every_table_has_the_papers_rows() -> None:
    for name, table in TABLES.items():
        expected = [key for key in table.printed if (name, key) != ("table1-enhancer", "liftdown")]
        assert [row.key for row in table.rows if not row.ours] == expected
        assert {row.baseline for row in table.rows} <= {row.key for row in table.rows}
    assert papers.TABLE1["liftdown"] == papers.Printed(0.7391, 0.9178)
    assert papers.TABLE4["sk"] == papers.Printed(0.741, 0.918, 5_280_000, 350_000_000, 2)
    widest = papers.TABLE2["meta 0.75"].top1 - papers.TABLE2["none 0.75"].top1
    assert widest == pytest.approx(0.019)  # not the printed 1.8
    assert "first eight replace the stride" in spec("table1").caption
    assert "as the enhancer of every block" in spec("table1-enhancer").caption


def test_what_a_table_lacks_is_named_until_it_is_there(tmp_path: Path) -> None:
    base = {"dataset": "digits", "preset": "quick", "retrain_epochs": 3}
    lacking = missing("table3", collect([tmp_path]).frame, base, range(2))
    assert len(lacking) == 14
    assert [item.overrides["seed"] for item in lacking] == [0] * 7 + [1] * 7
    configs = [resolve_config(item.overrides) for item in lacking]
    assert {config.strategy for config in configs} == {"fixed", "random", "pmpl", "darts"}
    assert [c.strategy_options["order"] for c in configs if c.strategy == "darts"] == [1, 2, 1, 2]
    assert all(c.retrain_epochs == 3 and c.space_options["candidates"] == "ablation" for c in configs)
    assert configs[4].strategy_options["eta"] == 0.1  # the preset's
    for item in lacking[:7]:
        given = {k: v for k, v in item.overrides.items() if k != "space"}
        choice = given["strategy_options"].pop("choice", "none")
        write_run(tmp_path, architecture={"local": "avg3"}.get(choice, choice), **given)
    frame = collect([tmp_path]).frame
    assert missing_runs("table3", frame, base, range(1)) == []
    assert len(missing_runs("table3", frame, base, range(2))) == 7
    assert len(missing_runs("table3", frame, {**base, "retrain_epochs": 4}, range(1))) == 7  # another recipe
    other = {**base, "strategy": "pmpl", "strategy_options": {"eta": 0.01}}  # for the rows of this strategy only
    assert [r["strategy"] for r in missing_runs("table3", frame, other, range(1))] == ["pmpl"]


def test_tables_of_several_widths_need_every_width(tmp_path: Path) -> None:
    frame = collect([tmp_path]).frame
    found = missing_runs("table2", frame, {}, [0])
    assert [r["space_options"]["width"] for r in found] == [1.0] * 4 + [0.75] * 4 + [0.5] * 4
    write_run(tmp_path, space_options={"width": 0.75, "candidates": "ablation"})
    assert len(missing_runs("table2", collect([tmp_path]).frame, {}, [0])) == 11


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table4", "enhancers", "strategies", "pivot"])
def test_all_formats_come_from_the_same_numbers(name: str, runs: Path) -> None:
    frame = collect([runs]).frame
    table = pivot(frame, "variant", "seed") if name == "pivot" else build(name, frame)
    assert table_from_json(render(table, "json")) == table
    pd.testing.assert_frame_equal(read_csv(render(table, "csv")), table.frame())
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
    assert table_from_json(render(table, "json")) == table
    assert read_csv(render(table, "csv"))["a"][0] == nasty
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


def test_pivot(runs: Path) -> None:
    frame = collect([runs]).frame
    table = pivot(frame, "variant", "seed", "top1")
    assert [c.header for c in table.columns] == ["variant", "0", "1", "2", "5", "6"]
    assert rows_of(table)["global"]["seed=1"].value == 0.74
    assert rows_of(table)["global"]["seed=5"] == Cell()
    assert rows_of(pivot(frame, "variant", "dataset"))["none"]["dataset=digits"].n == 3
    with pytest.raises(OptionError, match="did you mean 'variant'"):
        pivot(frame, "varian", "seed")
    with pytest.raises(OptionError, match="no numbers"):
        pivot(frame, "seed", "dataset", "variant")


def test_cells_for_readers() -> None:
    points, count = Column("d", "Δ", "points"), Column("p", "params", "millions", 2)
    assert text(points, Cell(-0.004, 0.01, 3)) == "−0.40 ± 1.00"
    assert text(points, Cell(-0.00001)) == "+0.00"
    assert text(points, Cell(0.0, marks=("baseline",))) == "baseline"
    assert text(points, Cell()) == "–"
    assert text(count, Cell(3_504_872)) == "3.50"
    assert text(count, Cell(2_500_000, digits=1)) == "2.5"


def test_wrong_names_are_refused(runs: Path) -> None:
    frame = collect([runs]).frame
    with pytest.raises(OptionError, match="did you mean 'table3'"):
        build("table33", frame)
    with pytest.raises(OptionError, match="unknown format 'pdf'"):
        render(build("table3", frame), "pdf")
    with pytest.raises(OptionError, match="not a table"):
        table_from_json(json.dumps({"rows": []}))
    assert set(FORMATS) == {"md", "latex", "csv", "html", "json"}
