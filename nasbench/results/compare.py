from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasbench.config import KINDS
from nasbench.errors import NasbenchError, RecordError
from nasbench.record import Record
from nasbench.results.cells import Cell, Column, Kind, Table
from nasbench.results.collect import MEASURES, architecture_of, option, read_run


def compare(a: str | Path, b: str | Path) -> Table:
    """What differs between two finished runs in configuration, architecture, result and environment.

    One row a difference: the two values, and for numbers `b − a`, of accuracies in percentage points. Results are
    always listed, the rest only where it differs. Raises RecordError: one of them is not a finished record.
    """
    runs, configs, environments = [], [], []
    for path in (a, b):
        try:
            runs.append(read_run(Path(path)))
            record = Record(Path(path))
            configs.append(_settings(record))
            environment = record.environment()
            environments.append({**(environment.model_extra or {}), **environment.packages})
        except NasbenchError as e:
            raise RecordError(f"{path}: {e}" if str(path) not in str(e) else str(e)) from e
    rows = [
        _row("result", title, option(runs[0], name), option(runs[1], name), kind)
        for name, (title, kind) in MEASURES.items()
    ]
    parts = (
        ("config", configs),
        ("architecture", [architecture_of(run) for run in runs]),
        ("environment", environments),
    )
    rules, notes = [], []
    for part, (left, right) in parts:
        names = list(dict.fromkeys([*left, *right]))
        differing = [name for name in names if left.get(name) != right.get(name) or (name in left) != (name in right)]
        if differing:
            rules.append(len(rows))
        else:
            notes.append(f"Same {part}.")
        rows += [_row(part, name, left.get(name), right.get(name)) for name in differing]
        if part == "architecture" and differing and len(names) > 1:
            notes.append(f"{len(differing)} of {len(names)} choices differ.")
    columns = (Column("part", ""), Column("what", ""), Column("a", "A"), Column("b", "B"), Column("delta", "B − A"))
    caption = f"A: {runs[0]['name']}, B: {runs[1]['name']}."
    return Table("compare", caption, columns, tuple(rows), tuple(notes), tuple(rules))


def _settings(record: Record) -> dict[str, Any]:
    settings = record.config().model_dump(mode="json")
    groups = [*(f"{kind}_options" for kind in KINDS), "limits"]
    flat = {f"{group}.{name}": value for group in groups for name, value in settings.pop(group).items()}
    return settings | flat


def _row(part: str, what: str, a: Any, b: Any, kind: Kind = "number") -> Mapping[str, Cell]:
    cells = {"part": Cell(part), "what": Cell(what)}
    for key, value in (("a", a), ("b", b)):
        plain = value is None or isinstance(value, (str, bool, int, float))
        cells[key] = Cell(value if plain else str(value), kind=kind)
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in (a, b))
    if numbers and part in ("result", "config") and what != "seed":
        cells["delta"] = Cell(b - a, kind="points" if kind == "percent" else kind, change=True)
    return cells
