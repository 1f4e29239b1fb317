import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd
import yaml

from nasbench.config import KINDS, Role, RunConfig, default_data_root
from nasbench.errors import OptionError, RecordError
from nasbench.files import write_atomic
from nasbench.presets import OPTIONAL, SHOWN, resolve_config
from nasbench.reasons import evidence
from nasbench.record import Record
from nasbench.results.cells import Cell, Column, Table, number
from nasbench.results.collect import MEASURES, Problem, RunRow, grouped, is_searched, option
from nasbench.results.explain import explain, layers_table
from nasbench.results.figures import WHAT, first_of_each, plot, set_up
from nasbench.results.formats import data_uri, render_page
from nasbench.results.statistics import exact, mean
from nasbench.results.style import COLUMN, encode
from nasbench.results.tables import build, column, describe, records, setting_key
from nasbench.studies.tables import names, spec

TITLES = {
    "alphas": "How each layer came to its choice",
    "trials": "The networks that the search trained",
    "architecture": "What was chosen at which depth",
    "receptive-field": "What the networks see",
    "tradeoff": "Accuracy against cost",
    "pareto": "What no other run beats",
    "curves": "Learning curves",
    "confusion": "Which classes are taken for which",
}
ALT = {
    "alphas": "Small multiples: π of each candidate over the steps of the search, one panel a layer.",
    "trials": "Held-out accuracy against multiply-adds of every network that was trained, and their front.",
    "architecture": "Heat map: share of the runs that chose each candidate, by depth.",
    "receptive-field": "Theoretical and effective receptive fields of networks side by side.",
    "tradeoff": "Test accuracy against multiply-adds with 95 % confidence intervals.",
    "pareto": "Test accuracy against multiply-adds, with the front of the runs that none beats.",
    "curves": "Accuracy and loss over the epochs of search and retraining.",
    "confusion": "Confusion matrix: a row a class, a column what its test images were taken for.",
}
FLAGS = {
    **{"space_options": "-p", "strategy_options": "-s", "evaluator_options": "-e", "dataset_options": "-d"},
    "limits": "--limit",
}
MOST_OF_A_KIND = 6  # figures on the page, one a set-up
MOST_CLASSES = 30  # in a table
CLASS_COLUMNS = (
    Column("class", "class"),
    Column("images", "test images", "count"),
    Column("right", "right (%)", "percent", 1),
    Column("low", "from (%)", "percent", 1),
    Column("high", "to (%)", "percent", 1),
    Column("taken", "most often taken for"),
)
CLASS_KEYS = [column.key for column in CLASS_COLUMNS]


def report(runs: pd.DataFrame, output: Path, problems: Sequence[Problem] = (), trust: bool = False) -> Path:
    """Write `index.html` into a folder: tables, figures, the command of every row, configuration and environment.

    It names the problems, loads nothing from anywhere else and has no scripts. `trust` runs the code of parts that are
    not registered, for their networks and defaults. Raises RecordError: there are no runs, or a record is damaged.
    """
    found = records(runs)
    if not found:
        raise RecordError("there is no finished run to report")
    tables = []
    for table in (build(name, runs) for name in names()):
        measured = [row for row in table.rows if row["top1"].value is not None]
        if any("baseline" not in row["delta"].marks for row in measured):  # which several tables share
            tables.append(table)
    tables.append(build("enhancers", runs))
    if any(is_searched(run) for run in found):
        tables.append(build("strategies", runs))
    firsts = [(run, Record(run["path"])) for run in first_of_each(found)[:MOST_OF_A_KIND]]
    groups, shared = _groups(found, trust)
    days = sorted(str(run["started"])[:10] for run in found)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    counted = f"{len(found)} finished run{'s' * (len(found) > 1)} of {len(groups)} set-up{'s' * (len(groups) > 1)}"
    content = render_page(
        "report.html",
        summary=f"{counted} on {', '.join(sorted({str(run['dataset']) for run in found}))}, started {when}.",
        tables=tables,
        figures=list(_figures(runs, trust)),
        answers=[
            (_named(run), (*explain(record).answer, *_over_seeds(run, found)), f"nasbench explain {run['path']}")
            for run, record in firsts
        ],
        classes=[
            _classes(record, f"classes{number}", _named(run))
            for number, (run, record) in enumerate(firsts)
            if record.confusion()
        ],
        searches=[
            layers_table(record, f"layers{number}", _named(run))
            for number, (run, record) in enumerate(firsts)
            if evidence(record)
        ],
        groups=groups,
        runs=_all_runs(found),
        shared=shared,
        environments=_environments(found),
        problems=problems,
    )
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / "index.html", content)
    return output / "index.html"


def _named(run: RunRow) -> str:
    return f"{run['label']} on {run['dataset']}, seed {run['seed']}"


def _over_seeds(first: RunRow, runs: Sequence[RunRow]) -> Iterator[str]:
    found = [float(run["top1"]) for run in runs if set_up(run) == set_up(first)]
    if (of_all := mean(found)).half is not None:
        share, half = number(of_all.value, "percent"), number(of_all.half, "percent", unit=True)
        yield f"Over {len(found)} runs of this set-up it is {share} ± {half} (95 % interval)."


def _classes(record: Record, name: str, caption: str) -> Table:
    """How many of each class's test images are right, the worst class first, and what it is most often taken for."""
    names, counts = record.data().class_names, record.confusion()
    rows: list[tuple[float, dict[str, Cell]]] = []
    for label, called in enumerate(names):
        taken = {other: n for (true, other), n in counts.items() if true == label}
        if images := sum(taken.values()):
            share = taken.pop(label, 0) / images
            most = max(taken, key=lambda other: taken[other], default=None)
            instead = None if most is None else f"{names[most]} ({taken[most]:,})"
            cells = map(Cell, (called, images, share, *exact(share, images), instead))
            rows.append((share, dict(zip(CLASS_KEYS, cells, strict=True))))
    worst = [row for _, row in sorted(rows, key=lambda row: row[0])[:MOST_CLASSES]]
    return Table(name, f"{caption}: test images by class, the worst first.", CLASS_COLUMNS, tuple(worst))


def _groups(runs: Sequence[RunRow], trust: bool) -> tuple[list[dict[str, Any]], str]:
    """Every configuration with its seeds, command, and the rows of tables that it fills; what all share, in YAML."""
    ordered = sorted(runs, key=lambda run: (describe([run]), str(run["label"]), int(run["seed"])))
    specs = list(map(spec, names()))
    groups, settings = [], []
    for members in grouped(ordered, lambda run: (run["setting"], run["label"])).values():
        config = Record(members[0]["path"]).config()
        settings.append(config.model_dump(mode="json", exclude={"seed"}))
        seeds = sorted({int(run["seed"]) for run in members})
        rows = [f"{table.title}: {row.title}" for table in specs for row in table.rows if row.match(members[0])]
        groups.append(
            {
                "label": members[0]["label"],
                "setting": describe(members),
                "rows": list(dict.fromkeys(rows)),  # the forms of a table share rows
                "seeds": seeds,
                "command": command(config, seeds, trust),
            }
        )
    shared = {k: v for k, v in settings[0].items() if all(other[k] == v for other in settings)}
    for group, own in zip(groups, settings, strict=True):
        group["own"] = _yaml({k: v for k, v in own.items() if k not in shared})
    return groups, _yaml(shared)


def command(config: RunConfig, seeds: Iterable[int] | None = None, trust: bool = False) -> str:
    """A shell command that repeats a run, or its setting with these seeds in a loop.

    What its preset and its parts' defaults say by themselves is left out. Parts that are not registered are asked for
    theirs, which runs their code, only where they are trusted; else everything is said.
    """
    settings = config.model_dump(mode="json")
    said = {name: settings[name] for name in (*KINDS, "architecture") if settings[name] is not None}
    usual: dict[str, Any] = {}

    def settle() -> None:
        if trust or not any(":" in said.get(kind, "") for kind in KINDS):
            usual.update(resolve_config(said).model_dump(mode="json"))

    settle()
    words = ["nasbench", "run", "--space", config.space, "--strategy", config.method, "--dataset", config.dataset]
    if config.architecture is not None:
        given = config.architecture
        words += ["--choice", given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)]
    if config.evaluator != RunConfig.model_fields["evaluator"].default:
        words += ["--evaluator", config.evaluator]
    if config.preset is not None and config.preset != usual.get("preset"):
        words += ["--preset", config.preset]
        said["preset"] = config.preset
        settle()
    for name, value in config.part(Role.SEARCH, Role.RECIPE, Role.DEVICE).items():
        meant = value is not None or name in OPTIONAL
        known = name in usual and usual[name] == value and name not in SHOWN.get(config.preset or "", ())
        if name not in said and name not in FLAGS and meant and not known:
            said[name] = value
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else ["none" if value is None else str(value)]
            settle()  # what goes without saying, options of a preset too, may depend on what was said by now
    for group, flag in FLAGS.items():
        for name, value in settings[group].items():
            if group not in usual or name not in usual[group] or usual[group][name] != value:
                words += [flag, f"{name}={_value(value)}"]
    if config.data_root != default_data_root():
        words += ["--data-root", PurePath(config.data_root).as_posix()]
    chosen_seeds = [config.seed] if seeds is None else list(dict.fromkeys(seeds))
    line = shlex.join(words)
    if len(chosen_seeds) == 1:
        return f"{line} --seed {chosen_seeds[0]}"
    return f"for seed in {' '.join(map(str, chosen_seeds))}; do {line} --seed $seed; done"


def _value(value: Any) -> str:
    # As the command line reads it back: YAML 1.1 takes 1e-05 for a word, and JSON writes it so.
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True))
    return text.removesuffix("...\n").strip()


def _figures(runs: pd.DataFrame, trust: bool) -> Iterator[dict[str, str]]:
    for what in WHAT:
        try:
            found = plot(runs, what, each=False, trust=trust)
        except (OptionError, RecordError):
            continue  # none of these runs has what it shows, or a network that can be shown so
        for name, figure in list(found.items())[:MOST_OF_A_KIND]:
            of_run = f": {name.removeprefix(f'{what}_')}" if name != what else ""
            width, height = figure.get_size_inches()
            yield {
                "title": TITLES[what] + of_run,
                "alt": ALT[what],
                "source": data_uri(encode(figure, "svg"), "svg+xml"),
                "size": "column" if width <= COLUMN else "page",
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
    words = (Column("label", "set-up"), Column("setting", "setting"), Column("seed", "seed", "count"))
    return Table("runs", "Every run.", (*words, *map(column, MEASURES), Column("record", "record")), rows)


def _environments(runs: Iterable[RunRow]) -> list[dict[str, Any]]:
    """The different environments, and how many runs each had."""
    counted: dict[str, dict[str, Any]] = {}
    for run in runs:
        read = Record(run["path"]).environment()
        facts = {**(read.model_extra or {}), **{k: v for k, v in read.packages.items() if v is not None}}
        counted.setdefault(repr(sorted(facts.items(), key=str)), {"facts": facts, "runs": 0})["runs"] += 1
    return list(counted.values())


def _yaml(content: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)) if content else ""
