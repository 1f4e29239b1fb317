"""Everything about a set of runs on one page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nasbench.errors import OptionError, RecordError
from nasbench.files import write_atomic
from nasbench.reasons import evidence
from nasbench.record import Record
from nasbench.results import layers
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.collect import MEASURES, Problem, RunRow, grouped, is_searched, option
from nasbench.results.figures import WHAT, first_of_each, plot
from nasbench.results.formats import html
from nasbench.results.page import render
from nasbench.results.reproduce import command
from nasbench.results.style import COLUMN, encode
from nasbench.results.tables import build, column, describe, records, setting_key
from nasbench.studies.tables import names, spec

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

TITLES = {
    "alphas": "How each layer came to its choice",
    "architecture": "What was chosen at which depth",
    "receptive-field": "What the networks see",
    "tradeoff": "Accuracy against cost",
    "pareto": "What no other run beats",
    "curves": "Learning curves",
    "confusion": "Which classes are taken for which",
}
ALT = {
    "alphas": "Small multiples: π of each candidate over the steps of the search, one panel a layer.",
    "architecture": "Heat map: share of the runs that chose each candidate, by depth.",
    "receptive-field": "Theoretical and effective receptive fields of networks side by side.",
    "tradeoff": "Test accuracy against multiply-adds with 95 % confidence intervals.",
    "pareto": "Test accuracy against multiply-adds, with the front of the runs that none beats.",
    "curves": "Accuracy and loss over the epochs of search and retraining.",
    "confusion": "Confusion matrix: a row a class, a column what its test images were taken for.",
}
MOST_OF_A_KIND = 6  # figures on the page, one a set-up


def report(runs: pd.DataFrame, output: Path, problems: Sequence[Problem] = (), trust: bool = False) -> Path:
    """Write `index.html` into a folder: tables, figures, the command of every row, configuration and environment.

    It names the problems, loads nothing from anywhere else and has no scripts. `trust` runs the code of parts that are
    not registered, for their networks and defaults. Raises RecordError: there are no runs, or a record is damaged.
    """
    from markupsafe import Markup

    found = records(runs)
    if not found:
        raise RecordError("there is no finished run to report")
    tables = [table for table in (build(name, runs) for name in names()) if _measured(table)]
    tables.append(build("enhancers", runs))
    if any(is_searched(run) for run in found):
        tables.append(build("strategies", runs))
    groups = _groups(found, trust)
    content = render(
        "report.html",
        summary=_summary(found, groups),
        tables=[Markup(html(table)) for table in tables],
        figures=_figures(runs, trust),
        searches=[Markup(html(table)) for table in _searches(found)],
        groups=groups,
        runs=Markup(html(_all_runs(found))),
        shared=_yaml(_shared(groups)),
        environments=_environments(found),
        problems=problems,
    )
    output.mkdir(parents=True, exist_ok=True)
    path = output / "index.html"
    write_atomic(path, content)
    return path


def _measured(table: Table) -> bool:
    """Whether anything but the baseline, which several tables share, has runs."""
    return any(
        table.cell(i, "top1").value is not None and "baseline" not in table.cell(i, "delta").marks
        for i in range(len(table.rows))
    )


def _summary(runs: Sequence[RunRow], groups: Sequence[Mapping[str, Any]]) -> str:
    data = ", ".join(sorted({str(run["dataset"]) for run in runs}))
    days = sorted(str(run["started"])[:10] for run in runs)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    many = "run" if len(runs) == 1 else "runs"
    ups = "set-up" if len(groups) == 1 else "set-ups"
    return f"{len(runs)} finished {many} of {len(groups)} {ups} on {data}, started {when}."


def _groups(runs: Sequence[RunRow], trust: bool) -> list[dict[str, Any]]:
    """Every configuration with its seeds, its command, and the rows of the papers' tables that it fills."""
    ordered = sorted(runs, key=lambda run: (describe([run]), str(run["label"]), int(run["seed"])))
    groups = []
    for members in grouped(ordered, lambda run: (run["setting"], run["label"])).values():
        config = Record(members[0]["path"]).config()
        seeds = sorted({int(run["seed"]) for run in members})
        rows = {  # in order; the forms of a table share rows
            f"{table.title}: {row.title}": None
            for table in map(spec, names())
            for row in table.rows
            if row.match(members[0])
        }
        groups.append(
            {
                "label": members[0]["label"],
                "setting": describe(members),
                "rows": list(rows),
                "seeds": seeds,
                "command": command(config, seeds, trust),
                "config": config.model_dump(mode="json"),
                "own": "",
            }
        )
    shared = _shared(groups)
    for group in groups:
        group["own"] = _yaml({k: v for k, v in group["config"].items() if k not in shared and k != "seed"})
    return groups


def _shared(groups: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    configs = [group["config"] for group in groups]
    first = configs[0]
    return {k: v for k, v in first.items() if k != "seed" and all(config[k] == v for config in configs)}


def _figures(runs: pd.DataFrame, trust: bool) -> list[dict[str, str]]:
    drawn = []
    for what in WHAT:
        try:
            found = plot(runs, what, each=False, trust=trust)
        except (OptionError, RecordError):
            continue  # none of these runs has what it shows, or a network that can be shown so
        for name, figure in list(found.items())[:MOST_OF_A_KIND]:
            of_run = f": {name.removeprefix(f'{what}_')}" if name != what else ""
            drawn.append({"title": TITLES[what] + of_run, "alt": ALT[what], "id": name, **_embedded(figure)})
    return drawn


def _searches(runs: Sequence[RunRow]) -> Iterator[Table]:
    """What the evidence says of every layer, a table a set-up."""
    for number, run in enumerate(first_of_each(runs)):
        record = Record(run["path"])
        if evidence(record):
            yield layers.table(record, f"layers{number}", f"{run['label']} on {run['dataset']}, seed {run['seed']}")


def _embedded(figure: Figure) -> dict[str, str]:
    data = base64.b64encode(encode(figure, "svg")).decode("ascii")
    width, height = figure.get_size_inches()
    size = "column" if width <= COLUMN else "page"
    return {
        "source": f"data:image/svg+xml;base64,{data}",
        "size": size,
        "width": f"{width * 96:.0f}",
        "height": f"{height * 96:.0f}",
    }


def _all_runs(runs: Sequence[RunRow]) -> Table:
    rows = tuple(
        {
            "label": Cell(str(run["label"])),
            "setting": Cell(describe([run])),
            "seed": Cell(int(run["seed"])),
            "record": Cell(str(run["name"])),
            **{name: Cell(option(run, name)) for name in MEASURES},
        }
        for run in sorted(runs, key=lambda r: (setting_key(r)[0], str(r["label"]), int(r["seed"])))
    )
    columns = (
        Column("label", "set-up"),
        Column("setting", "setting"),
        Column("seed", "seed", "count"),
        *map(column, MEASURES),
        Column("record", "record"),
    )
    return Table("runs", "Every run.", columns, rows)


def _environments(runs: Iterable[RunRow]) -> list[dict[str, Any]]:
    """The different environments, and how many runs each had."""
    counted: dict[str, dict[str, Any]] = {}
    for run in runs:
        read = Record(run["path"]).environment()
        facts = read.model_extra or {}
        packages = {k: v for k, v in read.packages.items() if v is not None}
        key = repr((sorted(facts.items(), key=str), sorted(packages.items())))
        counted.setdefault(key, {"facts": facts, "packages": packages, "runs": 0})["runs"] += 1
    return list(counted.values())


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)) if content else ""
