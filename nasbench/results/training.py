"""Training exactly what a table still lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasbench.config import RunConfig, resolve_config
from nasbench.errors import NasbenchError
from nasbench.record import Record, same_run
from nasbench.results.collect import collect, config_hash, find_records, protocol, space_options
from nasbench.results.rows import RowSpec, spec
from nasbench.results.tables import records

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Missing:
    """A run that a table lacks.

    Attributes:
        row: label of the table's row.
        overrides: the `RunConfig` fields that train it.
    """

    row: str
    overrides: dict[str, Any]


def overrides(row: RowSpec, base: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The fields of `RunConfig` that train one row with one seed.

    Args:
        row: the table's row; what it says wins.
        base: fields for all rows. Strategy options in it are for the rows with its strategy.
        seed: the run's.
    """
    given = dict(base)
    space = {**(given.get("space_options") or {}), **row.overrides["space_options"]}
    of_base = (given.get("strategy_options") or {}) if given.get("strategy") == row.overrides["strategy"] else {}
    strategy = {**of_base, **row.overrides["strategy_options"]}
    return {**given, **row.overrides, "space_options": space, "strategy_options": strategy, "seed": seed}


def missing(table: str, frame: pd.DataFrame, base: Mapping[str, Any], seeds: Iterable[int]) -> list[Missing]:
    """What must be trained for every row of a table to have a run with every seed.

    A collected run counts when it is of the row, has the seed, and was trained by the same recipe; a search also has
    to have had the same settings.

    Args:
        table: `table1` … `table4`.
        frame: the collected runs.
        base: see `overrides`.
        seeds: the seeds.

    Returns:
        In the order of the seeds, so that an early stop leaves whole rounds behind.

    Raises:
        OptionError: no such table, or a setting is wrong.
    """
    runs = records(frame)
    lacking = []
    for seed in seeds:
        for row in spec(table).rows:
            given = overrides(row, base, seed)
            config = resolve_config(given)
            if not any(run["seed"] == seed and row.match(run) and _alike(run, config) for run in runs):
                lacking.append(Missing(row.label, given))
    return lacking


def missing_runs(
    table: str, frame: pd.DataFrame, base_config: Mapping[str, Any], seeds: Iterable[int]
) -> list[dict[str, Any]]:
    """The `RunConfig` fields of every run that `missing` names; see there."""
    return [found.overrides for found in missing(table, frame, base_config, seeds)]


def train(lacking: Sequence[Missing], out: Path, say: Callable[[str], None]) -> Iterator[tuple[Missing, str]]:
    """Train what is missing, one run after the other; a run that fails does not stop the rest.

    A record in `out` of exactly such a run that was interrupted goes on after its last finished stage.

    Args:
        lacking: see `missing`.
        out: folder that receives the records.
        say: told before each run what it is.

    Yields:
        The runs that failed, each with the reason.
    """
    from nasbench.pipeline import run

    for number, item in enumerate(lacking, 1):
        say(f"[{number}/{len(lacking)}] {item.row}, seed {item.overrides['seed']}")
        try:
            config = resolve_config(item.overrides)
            run(config, _unfinished(config, out) or out)
        except NasbenchError as e:
            yield item, " ".join(str(e).split())
        except Exception as e:  # one cell of a table, whatever went wrong in it
            yield item, f"{type(e).__name__}: {' '.join(str(e).split())}"


def base_setting(table: str, base: Mapping[str, Any]) -> tuple[str, float | None]:
    """Protocol and width of the runs that `missing` asks for, as `nasbench.results.tables.build` takes them."""
    config = resolve_config(overrides(spec(table).rows[0], base, 0))
    return protocol(config), space_options(config).get("width")


def _alike(run: Mapping[str, Any], config: RunConfig) -> bool:
    if run["protocol"] != protocol(config) or run["width"] != space_options(config).get("width"):
        return False
    return config.strategy == "fixed" or run["config_hash"] == config_hash(config)


def _unfinished(config: RunConfig, out: Path) -> Path | None:
    skipped = {problem.path for problem in collect([out]).problems}
    for folder in sorted(skipped & set(find_records(out))):
        try:
            record = Record(folder)
            if not same_run(record.config(), config) and not record.finished("test"):
                return folder
        except NasbenchError:
            continue
    return None
