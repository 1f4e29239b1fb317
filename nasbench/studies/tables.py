"""The tables whose rows can be trained, the papers' and those of other distributions, and the studies that do so."""

from collections.abc import Collection, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from nasbench import registry
from nasbench.config import Role
from nasbench.errors import OptionError, unknown
from nasbench.studies.metapooling import SPACE, TABLES
from nasbench.studies.rows import TableSpec
from nasbench.studies.study import Study, make_study

GROUP = "nasbench.tables"  # of entry points, each of a `TableSpec`
ABLATION = ("none", "local", "global", "random", "pmpl", "evidence", "darts1")  # rows of Table 3


def names() -> list[str]:
    """All tables: the papers', then those of other distributions."""
    return [*TABLES, *(name for name in _entries() if name not in TABLES)]


def spec(name: str) -> TableSpec:
    """The specification of a table; OptionError where there is none, or the distribution that names it has none."""
    if name in TABLES:
        return TABLES[name]
    entry = _entries().get(name)
    if entry is None:
        raise OptionError(unknown("table", name, names()))
    try:
        found = entry.load()
    except Exception as e:
        raise OptionError(f"table {name!r}: importing {entry.value} failed: {registry.describe_exception(e)}") from e
    if not isinstance(found, TableSpec):
        raise OptionError(f"table {name!r}: {entry.value} is no TableSpec")
    return found


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP))}


def table_study(name: str, base: Mapping[str, Any], seeds: Iterable[int], rows: Collection[str] | None = None) -> Study:
    """The study that fills a table, or these of its rows; OptionError: no such table, or a setting is wrong or idle.

    What a row says itself wins over `base`, the `RunConfig` fields of every run. Strategy options there are for every
    row whose strategy takes them; where `base` names a strategy, for the rows with that strategy.
    """
    chosen = {row.key: row.settings for row in spec(name).rows if rows is None or row.key in rows}
    spaces = sorted({row["space"] for row in chosen.values()})
    if base.get("space") not in (None, *spaces):
        raise OptionError(f"space: the rows of {name} are networks of {', '.join(spaces)}, not of {base['space']}")
    return _study(name, base, seeds, chosen)


def ablation(base: Mapping[str, Any], seeds: Iterable[int], concurrency: int | None = None) -> Study:
    """The ablation of the enhancer: rows `ABLATION` of Table 3, or the same for another space than the table's.

    That must have the candidates `none` and `global` and an architecture `local`. OptionError: a setting is wrong.
    """
    if base.get("space") in (None, SPACE):
        study = table_study("table3", base, seeds, ABLATION)
    else:
        rows = {row.key: dict(row.settings) for row in spec("table3").rows if row.key in ABLATION}
        own = {key: {k: v for k, v in row.items() if not k.startswith("space")} for key, row in rows.items()}
        study = _study("ablation", base, seeds, own)
    return study.model_copy(update={"name": "ablation", "concurrency": concurrency})


def shared_setting(study: Study) -> tuple[str, float | None]:
    """Protocol and width of a study's runs, as `nasbench.results.tables.build` takes them."""
    config = study.runs()[0].config
    return config.digest(Role.RECIPE), config.space_options.get("width")


def _study(name: str, base: Mapping[str, Any], seeds: Iterable[int], rows: Mapping[str, Mapping[str, Any]]) -> Study:
    for field in ("architecture", "seed"):
        if base.get(field) is not None:
            raise OptionError(f"{field}: every run of {name} has its own; leave it out of the settings for all rows")
    only, options = base.get("strategy"), base.get("strategy_options") or {}
    if not isinstance(options, Mapping):
        raise OptionError(f"strategy_options must be a mapping of names to values, not {options!r}")
    variants, used = {}, set()
    for key, row in rows.items():
        strategy, own = row.get("strategy"), dict(row.get("strategy_options", {}))
        variants[key] = dict(row)
        if strategy is not None and only in (None, strategy):
            taken = registry.complete("strategy", strategy, {}).keys() - own.keys()
            used |= taken
            variants[key]["strategy_options"] = own | {k: v for k, v in options.items() if k in taken}
    for option in options:
        if option not in used:
            raise OptionError(f"strategy_options: no row of {name} takes {option!r} from the settings for all rows")
    shared = {k: v for k, v in base.items() if k not in ("strategy", "strategy_options") and v is not None}
    return make_study({"name": name, "base": shared, "variants": variants, "grid": {"seed": list(seeds)}}, name)
