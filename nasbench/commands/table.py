from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.found import collected, show_table
from nasbench.commands.shared import DEFAULT_RUNS, Format, Output, Runs, merge
from nasbench.config import read_config
from nasbench.errors import OptionError, RecordError, unknown
from nasbench.results import tables
from nasbench.results.formats import FORMATS
from nasbench.studies.plan import plan, run_missing
from nasbench.studies.tables import names, shared_setting, table_study
from nasbench.terminal import say

PLACEMENTS = ("downsampling", "enhancer")


def command(
    name: Annotated[
        str, typer.Argument(help="table1 … table4 (of the paper), a plug-in's own, enhancers, strategies or pivot.")
    ],
    runs: Runs = None,
    how: Format = "rich",
    output: Output = None,
    train: Annotated[bool, typer.Option("--run", help="First train what the table lacks.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="With --run: seeds 0 … N − 1 of every row.")] = 3,
    dataset: Annotated[str | None, typer.Option(help="Use, and with --run train, runs on this data set only.")] = None,
    preset: Annotated[str | None, typer.Option(help="Likewise for a preset: quick, cifar or paper.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="With --run: YAML file of settings for every row, e.g. width and epochs; strategy options are for "
            "every row whose strategy takes them, or only for those of the strategy that the file names."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="With --run: folder that receives the records.")] = DEFAULT_RUNS,
    placement: Annotated[
        str, typer.Option(help="For table1: the pooling as downsampling, or as the enhancer of every block.")
    ] = "downsampling",
    rows: Annotated[str, typer.Option(help="For pivot: column of the runs that goes down.")] = "label",
    columns: Annotated[str, typer.Option(help="For pivot: column that goes across.")] = "dataset",
    value: Annotated[str, typer.Option(help="For pivot: numeric column that is averaged.")] = "top1",
) -> None:
    """Print a table of the papers with our own numbers, or another comparison of runs."""
    if how not in ("rich", *FORMATS):
        raise OptionError(unknown("format", how, ("rich", *FORMATS)))
    if name not in (known := (*names(), *tables.BUILDERS, "pivot")):
        raise OptionError(unknown("table", name, known))
    if placement not in PLACEMENTS:
        raise OptionError(unknown("placement", placement, PLACEMENTS))
    if placement == "enhancer":
        if not name.startswith("table1"):
            raise OptionError(f"--placement enhancer is for table1; {name} has no such form")
        name = "table1-enhancer"
    where = list(runs or ([] if train else [DEFAULT_RUNS]))
    setting: tuple[str, float | None] | None = None
    failed: list[str] = []
    if train:
        if name not in names():
            raise OptionError(f"--run trains the rows of {', '.join(names())}; {name} only shows runs that exist")
        where = [*where, out]
        base = merge(read_config(config) if config is not None else {}, {"dataset": dataset, "preset": preset})
        study = table_study(name, base, range(seeds))
        planned = plan(study, out, others=where)
        count = len(planned.missing)
        say(f"{name}: {count} run(s) to train" if count else f"{name}: nothing to train, every row has its runs")
        failed = [f"{r.label}: {r.error}" for r in run_missing(planned, out, say) if r.error is not None]
        setting = shared_setting(study)
    frame = collected(where, quiet=train).frame
    for column, wanted in (("dataset", dataset), ("preset", preset)):
        if wanted is not None:
            frame = frame[frame[column] == wanted]
    built = tables.pivot(frame, rows, columns, value) if name == "pivot" else tables.build(name, frame, setting)
    built = replace(built, notes=(*(f"Failed, and so left out: {reason}." for reason in failed), *built.notes))
    show_table(built, how, output)
    if failed:
        raise RecordError(f"{len(failed)} run(s) of {name} failed; the same command runs them again")
