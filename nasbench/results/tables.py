"""Collected runs as tables: of given rows as in the papers, of enhancers and strategies, and any other grouping."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from nasbench.config import SETTING, Role, RunConfig, role
from nasbench.errors import NasbenchError, OptionError, RecordError, unknown
from nasbench.record import Record
from nasbench.results.cells import MISSING, UNITS, Cell, Column, Kind, Table, number
from nasbench.results.collect import (
    MEASURES,
    RunRow,
    architecture_of,
    flat_settings,
    grouped,
    is_searched,
    option,
    read_run,
)
from nasbench.results.statistics import Kappa, difference, kappa, mean, votes
from nasbench.studies.rows import RowSpec, TableSpec
from nasbench.studies.tables import spec

FIXED = "search.fixed_by_threshold"
AGREEMENT = "agreement"
INTERVAL = "mean ± half the 95 % confidence interval (Student t) over n seeds"
DELTA = "Δ in percentage points: paired by seed where both rows have the same seeds, else Welch's interval (marked w)."
REPEATS = (
    "Agreement: Fleiss' κ of the seeds' choices, ± half the 95 % jackknife interval over layers; 1 is perfect, 0 is "
    "chance, – not defined (see `nasbench agreement`)."
)
BEST = "Bold: the highest mean of our runs."
HEADERS: dict[str, tuple[str, Kind]] = {**MEASURES, FIXED: ("fixed by ρ", "count"), AGREEMENT: ("agreement κ", "count")}
COLUMN_DIGITS = {"params": 3, FIXED: 1, AGREEMENT: 2}


def build(name: str, frame: pd.DataFrame, setting: tuple[str, float | None] | None = None) -> Table:
    """The table `enhancers`, `strategies` or one of `nasbench.studies.tables.names`; OptionError if there is none such.

    `setting` takes the runs of this protocol and width only (a table that varies the width takes all); by default the
    papers' tables take those of most of the runs, and the others have rows for each.
    """
    table = None if name in BUILDERS else spec(name)
    runs, widths = records(frame), table is not None and table.widths
    if setting is not None:
        wanted = (setting[0], None if widths else setting[1])
        runs = [run for run in runs if setting_key(run, widths) == wanted]
    return BUILDERS[name](runs) if table is None else row_table(table, runs)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of the collected frame as mappings."""
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def row_table(table: TableSpec, runs: Sequence[RunRow]) -> Table:
    """A table with rows of its own: our measurement of each, beside the printed one where a paper has it.

    Only the runs of one data set and recipe (and width, unless the table varies it) count: those of most of the runs.
    """
    fitting = [run for run in runs if any(row.match(run) for row in table.rows)]
    settings = grouped(fitting, lambda run: setting_key(run, table.widths)).values()
    used = max(settings, key=lambda found: (len(found), max(str(r["started"]) for r in found)), default=[])
    left = [f"{describe(found, table.widths)}: {len(found)}" for found in settings if found is not used]
    notes = [f"Left out, as not comparable: runs on {'; '.join(left)}."] if left else []
    chosen: dict[str, dict[int, RunRow]] = {}
    for row in table.rows:
        chosen[row.key], note = by_seed(row.title, [run for run in used if row.match(run)])
        notes += note
    rows = [_row(table, row, chosen) for row in table.rows]
    wide = [[row.key for row in table.rows].index(key) for key in table.groups]
    compared = wide if table.widths else []
    for first, last in zip([0, *compared], [*compared, len(rows)], strict=True):
        _mark_best(rows[first:last])
    below = [f"Ours: {INTERVAL}; – means no run. {BEST}", DELTA]
    if table.paper and not all(row.printed for row in table.rows):
        below.append("Rows below the rule are ours; the paper has none such.")
    if any(len({run["params"] for run in found.values()}) > 1 for found in chosen.values()):
        below.append("Params and M-adds of searched rows are means over their seeds' networks.")
    below += [*notes, *table.notes]
    caption = f"{table.caption} Runs: {describe(used, table.widths)}."
    if (paper := table.paper) is not None:
        on = f"Ours: {describe(used, table.widths)}; printed: {paper.setting}."
        caption = f"{paper.title} of {paper.name}. {table.caption} {on}"
        below.append(f"Printed: {paper.source}.")
    return Table(table.name, caption, _columns(table), tuple(rows), tuple(below), tuple(wide))


def enhancers(runs: Sequence[RunRow]) -> Table:
    """Mean over the runs of each enhancer set-up, whatever gave it."""
    caption, values = "Enhancer set-ups, mean over all runs of each.", ("top1", "top5", "params", "madds")
    return _grouped("enhancers", caption, runs, "set-up", values, "none")


def strategies(runs: Sequence[RunRow]) -> Table:
    """Search strategies with what the search cost."""
    searched = [run for run in runs if is_searched(run)]
    caption = "Search strategies: what they found, and what the search cost."
    values = ("top1", "params", "madds", "search_seconds", "retrain_seconds", "peak_memory_bytes", FIXED, AGREEMENT)
    baseline = next((run["label"] for run in searched if option(run, "epochs") is None), None)
    table = _grouped("strategies", caption, searched, "strategy", values, baseline)
    return replace(table, notes=(*table.notes, REPEATS))


def pivot(frame: pd.DataFrame, rows: str, columns: str, value: str = "top1") -> Table:
    """Any grouping: mean with interval of a numeric column for pairs of two others; OptionError: no such column."""
    runs = records(frame)
    for name in (rows, columns, value):
        if name not in frame.columns:
            raise OptionError(unknown("column", name, frame.columns))
    if any(isinstance(option(run, value), str) for run in runs):
        raise OptionError(f"column {value!r} holds no numbers, so it has no mean")
    shown = column(value, 3 if value not in MEASURES else None)
    pairs = grouped(runs, lambda run: (value_text(run, rows), value_text(run, columns)))
    across = sorted({name for _, name in pairs}, key=_natural)
    heads = [Column(f"{columns}={name}", name, shown.kind, shown.digits) for name in across]
    body = []
    for label in sorted({label for label, _ in pairs}, key=_natural):
        means = {f"{columns}={name}": _mean_cell(pairs.get((label, name), []), value) for name in across}
        body.append({rows: Cell(label), **means})
    caption = f"{shown.header} by {rows} (down) and {columns} (across)."
    notes = [f"{INTERVAL[:1].upper()}{INTERVAL[1:]}; – means no run."]
    if len({(run["protocol"], run["width"]) for run in runs}) > 1:
        notes.append("The runs differ in data set, recipe or width: compare only cells that do not.")
    return Table("pivot", caption, (Column(rows, rows), *heads), tuple(body), tuple(notes))


def compare(a: str | Path, b: str | Path) -> Table:
    """All results of two finished runs, and what else differs; of numbers `b − a`, of accuracies in percentage points.

    Raises RecordError: one of them is not a finished record.
    """
    runs = []
    parts: dict[str, list[dict[str, Any]]] = {"config": [], "architecture": [], "environment": []}
    for path in (a, b):
        try:
            runs.append(read_run(Path(path)))
            record = Record(Path(path))
            environment = record.environment()
            parts["config"].append(flat_settings(record.config()))
            parts["architecture"].append(architecture_of(runs[-1]))
            parts["environment"].append({**(environment.model_extra or {}), **environment.packages})
        except NasbenchError as e:
            raise RecordError(f"{path}: {e}" if str(path) not in str(e) else str(e)) from e
    rows = [
        _compared("result", title, option(runs[0], name), option(runs[1], name), kind)
        for name, (title, kind) in MEASURES.items()
    ]
    rules, notes = [], []
    for part, (left, right) in parts.items():
        names = list(dict.fromkeys([*left, *right]))
        differing = [name for name in names if left.get(name) != right.get(name) or (name in left) != (name in right)]
        if differing:
            rules.append(len(rows))
        else:
            notes.append(f"Same {part}.")
        rows += [_compared(part, name, left.get(name), right.get(name)) for name in differing]
        if part == "architecture" and differing and len(names) > 1:
            notes.append(f"{len(differing)} of {len(names)} choices differ.")
    columns = (Column("part", ""), Column("what", ""), Column("a", "A"), Column("b", "B"), Column("delta", "B − A"))
    caption = f"A: {runs[0]['name']}, B: {runs[1]['name']}."
    return Table("compare", caption, columns, tuple(rows), tuple(notes), tuple(rules))


BUILDERS: dict[str, Callable[[Sequence[RunRow]], Table]] = {"enhancers": enhancers, "strategies": strategies}


def setting_key(run: RunRow, widths: bool = False) -> tuple[Any, ...]:
    """What runs that are put side by side share: protocol and, unless it is varied (`widths`), the width."""
    return (run["protocol"], None if widths else option(run, "width"))


def describe(runs: Sequence[RunRow], widths: bool = False) -> str:
    """What the runs of one setting share, in words."""
    return ", ".join(filter(None, setting_parts(runs[0], widths))) if runs else "no runs yet"


def setting_parts(run: RunRow, widths: bool = False) -> list[str]:
    """Data set and recipe of a run for readers; empty where there is nothing to say; without width if `widths`."""
    width, images, epochs = option(run, "width"), option(run, "train_images"), int(run["retrain_epochs"])
    return [
        str(run["dataset"]),
        f"{run['image_size']}×{run['image_size']}",
        f"{run['classes']} classes",
        f"{number(images, 'count')} training images" if images else "",
        "" if widths or width is None else f"width {number(width)}",
        f"{epochs} epoch{'s' if epochs > 1 else ''}",
    ]


def told_apart(names: Sequence[str], parts: Sequence[Sequence[str]]) -> list[str]:
    """Names, with what differs between those that are equal: `parts` has as much to say of each, maybe nothing."""
    told = []
    for name, own in zip(names, parts, strict=True):
        alike = [other for other, others_name in zip(parts, names, strict=True) if others_name == name]
        differing = (part for part, column in zip(own, zip(*alike, strict=True), strict=True) if len(set(column)) > 1)
        told.append(", ".join(filter(None, (name, *differing))))
    return told


def named(groups: Sequence[Sequence[RunRow]]) -> list[str]:
    """What the runs of each group, which share a setting, are called: their label, with what tells it from others."""
    first = [found[0] for found in groups]
    names = told_apart([str(run["label"]) for run in first], [setting_parts(run) for run in first])
    return told_apart(told_apart(names, _options(first, *SETTING)), [[run["setting"][:4]] for run in first])


def _options(runs: Sequence[RunRow], *roles: Role) -> list[list[str]]:
    """The settings of some roles, for each run as `name=value`; empty where it has none."""
    known = {name for name, field in RunConfig.model_fields.items() if role(field) in roles}
    known -= {"architecture"}  # in the frame the one that was found
    names = sorted({name for run in runs for name in run if name.partition(".")[0] in known})
    return [
        ["" if option(run, n) is None else f"{n.rpartition('.')[2]}={value_text(run, n)}" for n in names]
        for run in runs
    ]


def by_seed(label: str, runs: Sequence[RunRow]) -> tuple[dict[int, RunRow], list[str]]:
    """The runs of one configuration, the newest of each seed; the configuration with most seeds."""
    by_hash: dict[str, dict[int, RunRow]] = {}
    for run in sorted(runs, key=lambda r: str(r["started"])):
        by_hash.setdefault(run["setting"], {})[int(run["seed"])] = run
    if not by_hash:
        return {}, []
    best = max(by_hash.values(), key=lambda found: (len(found), max(str(r["started"]) for r in found.values())))
    notes, different = [], sum(map(len, by_hash.values()))
    if others := different - len(best):
        notes.append(f"{label}: {others} run(s) with other settings left out.")
    if repeated := len(runs) - different:
        notes.append(f"{label}: of {repeated} repeated run(s) only the newest of each seed counts.")
    return best, notes


def _columns(table: TableSpec) -> tuple[Column, ...]:
    ablation = bool(table.marks)
    accuracy = "Acc (%)" if ablation else "top-1 (%)"
    ticks = [Column(f"tick_{name.lower()}", name, "tick") for name in table.marks]
    printed = []
    if table.paper is not None:
        printed = [Column("paper_top1", f"paper {accuracy}", "percent", table.digits)]
        printed += [Column("paper_delta", "paper Δ", "points", table.digits)] if ablation else []
        printed += [Column("paper_top5", "paper top-5 (%)", "percent", table.digits)] if table.top5 else []
        if any(row.printed and row.printed.params for row in table.rows):
            printed.append(Column("paper_params", "paper params (M)", "millions", 2))
            printed.append(Column("paper_madds", "paper M-adds (M)", "millions", 0))
    return (
        Column("row", "Enhancer" if ablation else "Method"),
        *ticks,
        Column("top1", accuracy, "percent"),
        Column("delta", "Δ", "points"),
        *([Column("top5", "top-5 (%)", "percent")] if table.top5 else []),
        Column("n", "n", "count"),
        Column("params", "params (M)", "millions", 3),
        Column("madds", "M-adds (M)", "millions", 1),
        *printed,
    )


def _row(table: TableSpec, row: RowSpec, chosen: Mapping[str, Mapping[int, RunRow]]) -> dict[str, Cell]:
    runs, baseline = chosen[row.key], chosen[row.baseline]
    cells = {"row": Cell(row.title)}
    if row.marks:
        cells |= {f"tick_{name.lower()}": Cell(name in row.marks) for name in table.marks}
    cells |= _measured(runs, baseline, row.key == row.baseline, ("top1", "top5", "params", "madds"))
    if (printed := row.printed) is not None:
        cells |= {f"paper_{name}": Cell(getattr(printed, name)) for name in ("top1", "top5", "madds")}
        cells["paper_params"] = Cell(printed.params, digits=printed.digits)
        if row.key != row.baseline:
            (base,) = (other.printed for other in table.rows if other.key == row.baseline)
            cells["paper_delta"] = Cell(round(printed.top1 - base.top1, 6) if base else None)
    return cells


def _mean_cell(runs: Sequence[RunRow], name: str) -> Cell:
    if name == AGREEMENT:
        agreement = kappa(votes([architecture_of(run) for run in runs])) if len(runs) > 1 else Kappa(None)
        return Cell(agreement.value, agreement.half, len(runs))
    values = [float(run[name]) for run in runs if option(run, name) is not None]
    if not values:
        return Cell()
    if name in ("params", "madds"):  # counts, not samples of a noisy quantity
        return Cell(sum(values) / len(values), n=len(values))
    found = mean(values)
    return Cell(found.value, found.half, found.n)


def _measured(
    runs: Mapping[int, RunRow], baseline: Mapping[int, RunRow], is_baseline: bool, values: Sequence[str]
) -> dict[str, Cell]:
    """Means of a row's runs by seed, how many there are, and the difference of their accuracy to the baseline's."""
    cells = {value: _mean_cell(list(runs.values()), value) for value in values}
    cells |= {"n": Cell(len(runs) or None), "delta": Cell()}
    if runs and is_baseline:
        cells["delta"] = Cell(0.0, n=len(runs), marks=("baseline",))
    elif runs and baseline:
        of_row, of_baseline = ({s: float(r["top1"]) for s, r in side.items()} for side in (runs, baseline))
        found = difference(of_row, of_baseline)
        marks = () if found.paired or found.half is None else ("welch",)
        cells["delta"] = Cell(found.value, found.half, found.n, marks)
    return cells


def _mark_best(rows: list[dict[str, Cell]]) -> None:
    measured = [row for row in rows if row["top1"].value is not None]
    highest = max((float(row["top1"].value or 0) for row in measured), default=None)
    for row in measured if len(measured) > 1 else ():
        if row["top1"].value == highest:
            row["top1"] = replace(row["top1"], marks=(*row["top1"].marks, "best"))


def _grouped(
    name: str, caption: str, runs: Sequence[RunRow], title: str, values: Sequence[str], baseline: str | None
) -> Table:
    """One row a setting and label, the difference taken to the label `baseline` of the same setting."""
    settings = grouped(runs, setting_key)
    first = [found[0] for found in settings.values()]
    names = told_apart([""] * len(first), [setting_parts(run) for run in first])
    names = told_apart(told_apart(names, _options(first, Role.RECIPE)), [[f"({key[0][:4]})"] for key in settings])
    short = dict(zip(settings, names, strict=True))
    rows: list[dict[str, Cell]] = []
    rules: list[int] = []
    notes: list[str] = []
    for found in sorted(settings.values(), key=describe):
        alike = list(grouped(found, lambda run: (run["label"], run["setting"])).values())
        of_baseline: dict[int, RunRow] = {}
        block: list[dict[str, Cell]] = []
        for label, group in sorted(
            zip(named(alike), alike, strict=True), key=lambda item: (item[1][0]["label"] != baseline, item[0])
        ):
            chosen, note = by_seed(label, group)
            notes += note
            is_baseline = not block and group[0]["label"] == baseline
            of_baseline = chosen if is_baseline else of_baseline
            measured = _measured(chosen, of_baseline, is_baseline, values)
            block.append(
                {"setting": Cell(short[setting_key(found[0])]), "label": Cell(label), "n": measured["n"], **measured}
            )
        _mark_best(block)
        rules += [len(rows)] if rows else []
        rows += block
    shown = [column(value, COLUMN_DIGITS.get(value)) for value in values]
    if len(settings) == 1:
        caption += f" On {describe(next(iter(settings.values())))}."
    columns = (
        Column("label", title),
        *([Column("setting", "setting")] if len(settings) > 1 else []),
        shown[0],
        Column("delta", f"Δ to {baseline}" if baseline else "Δ", "points"),
        Column("n", "n", "count"),
        *shown[1:],
    )
    return Table(name, caption, columns, tuple(rows), (f"Ours: {INTERVAL}. {BEST}", DELTA, *notes), tuple(rules))


def column(value: str, digits: int | None = None) -> Column:
    """The column of a table for one of the frame's, named for readers with its unit."""
    name, kind = HEADERS.get(value, (value, "count"))
    return Column(value, f"{name} ({UNITS[kind]})" if kind in UNITS else name, kind, digits)


def value_text(run: RunRow, column: str) -> str:
    """A value of a row of the frame for readers."""
    value = option(run, column)
    return MISSING if value is None else number(value) if isinstance(value, float) else str(value)


def _natural(name: str) -> tuple[bool, float, str]:
    try:
        return (False, float(name), name)
    except ValueError:
        return (True, 0.0, name)


def _compared(part: str, what: str, a: Any, b: Any, kind: Kind = "number") -> Mapping[str, Cell]:
    cells = {"part": Cell(part), "what": Cell(what)}
    for key, value in (("a", a), ("b", b)):
        plain = value is None or isinstance(value, (str, bool, int, float))
        cells[key] = Cell(value if plain else str(value), kind=kind)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    if numbers and part in ("result", "config") and what != "seed":
        cells["delta"] = Cell(b - a, kind="points" if kind == "percent" else kind, change=True)
    return cells
