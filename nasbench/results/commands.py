"""The commands on finished runs. Nothing here imports pandas, matplotlib or PyTorch before a command needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasbench.errors import NasbenchError, OptionError, RecordError, unknown

if TYPE_CHECKING:
    from nasbench.results.cells import Table
    from nasbench.results.collect import Collection

DEFAULT_RUNS = Path("runs")  # where `nasbench run` puts records
PLACEMENTS = ("downsampling", "enhancer")
TEXT_FORMATS = ("md", "latex", "csv", "html", "json")

Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUNS]...", help="Records, or folders with records at any depth; by default runs."),
]


def table(
    name: Annotated[
        str, typer.Argument(help="table1, table2, table3, table4 (of the paper), enhancers, strategies or pivot.")
    ],
    runs: Runs = None,
    how: Annotated[str, typer.Option("--format", help="rich, md, latex, csv, html or json.")] = "rich",
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")] = None,
    train: Annotated[bool, typer.Option("--run", help="First train what the table lacks.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="With --run: seeds 0 … N − 1 of every row.")] = 3,
    dataset: Annotated[str | None, typer.Option(help="Use, and with --run train, runs on this data set only.")] = None,
    preset: Annotated[str | None, typer.Option(help="Likewise for a preset: quick, cifar or paper.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="With --run: YAML file of settings for every row, e.g. width and epochs.")
    ] = None,
    out: Annotated[Path, typer.Option(help="With --run: folder that receives the records.")] = DEFAULT_RUNS,
    placement: Annotated[
        str, typer.Option(help="For table1: the pooling as downsampling, or as the enhancer of every block.")
    ] = "downsampling",
    rows: Annotated[str, typer.Option(help="For pivot: column of the runs that goes down.")] = "variant",
    columns: Annotated[str, typer.Option(help="For pivot: column that goes across.")] = "dataset",
    value: Annotated[str, typer.Option(help="For pivot: numeric column that is averaged.")] = "top1",
) -> None:
    """Print a table of the papers with our own numbers, or another comparison of runs."""
    if how not in ("rich", *TEXT_FORMATS):
        raise OptionError(unknown("format", how, ("rich", *TEXT_FORMATS)))
    from nasbench.results import tables
    from nasbench.results.rows import TABLES

    if name not in (*TABLES, *tables.BUILDERS, "pivot"):
        raise OptionError(unknown("table", name, (*TABLES, *tables.BUILDERS, "pivot")))
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
        if name not in TABLES:
            raise OptionError(f"--run trains the rows of {', '.join(TABLES)}; {name} only shows runs that exist")
        where = [*where, out]
        setting, failed = _train(name, where, seeds, dataset, preset, config, out)
    frame = _collect(where, quiet=train).frame
    for column, wanted in (("dataset", dataset), ("preset", preset)):
        if wanted is not None:
            frame = frame[frame[column] == wanted]
    built = tables.pivot(frame, rows, columns, value) if name == "pivot" else tables.build(name, frame, setting)
    _show(built, how, output)
    if failed:
        raise RecordError(f"{len(failed)} run(s) of {name} failed: {'; '.join(failed)}")


def plot(
    runs: Runs = None,
    what: Annotated[
        list[str] | None,
        typer.Option(
            help="alphas, architecture, receptive-field, tradeoff or curves; may be repeated; by default all of them."
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder that receives the PNG and SVG files.")] = Path("figures"),
) -> None:
    """Draw figures of runs: the search, the architectures, receptive fields, accuracy against cost, curves."""
    from nasbench.results.figures import WHAT
    from nasbench.results.figures import plot as draw
    from nasbench.results.style import save

    for kind in what or ():
        if kind not in WHAT:
            raise OptionError(unknown("figure", kind, WHAT))
    frame = _finished(runs).frame
    for kind in what or WHAT:
        try:
            for name, figure in draw(frame, kind).items():
                for path in save(figure, output, name):
                    typer.echo(path)
        except (RecordError, OptionError) as e:  # e.g. a network without a feature map
            if what:
                raise
            say(f"no {kind}: {e}")
        except OSError as e:
            raise RecordError(f"no figure can be written in {output}: {e.strerror}") from e


def report(
    runs: Runs = None,
    output: Annotated[Path, typer.Option(help="Folder that receives index.html.")] = Path("report"),
) -> None:
    """Write one self-contained HTML page with the tables, the figures and the commands of the runs."""
    from nasbench.results.report import report as write

    collected = _finished(runs)
    try:
        typer.echo(write(collected.frame, output, collected.problems))
    except OSError as e:
        raise RecordError(f"no report can be written in {output}: {e.strerror}") from e


def compare(
    run_a: Annotated[Path, typer.Argument(help="Record of a finished run.")],
    run_b: Annotated[Path, typer.Argument(help="Record of another.")],
    how: Annotated[str, typer.Option("--format", help="rich, md, latex, csv, html or json.")] = "rich",
    output: Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")] = None,
) -> None:
    """Show what differs between two runs in configuration, architecture and result."""
    from nasbench.results.compare import compare as compare_runs

    _show(compare_runs(run_a, run_b), how, output)


def _train(
    name: str,
    where: Sequence[Path],
    seeds: int,
    dataset: str | None,
    preset: str | None,
    config: Path | None,
    out: Path,
) -> tuple[tuple[str, float | None], list[str]]:
    from nasbench.config import read_config
    from nasbench.results.collect import collect
    from nasbench.results.training import base_setting, missing, train

    base: dict[str, Any] = read_config(config) if config is not None else {}
    base |= {k: v for k, v in (("dataset", dataset), ("preset", preset)) if v is not None}
    found = collect([path for path in where if path.exists()])
    lacking = missing(name, found.frame, base, range(seeds))
    say(f"{name}: {len(lacking)} run(s) to train" if lacking else f"{name}: nothing to train, every row has its runs")
    failed = []
    for item, reason in train(lacking, out, say):
        failed.append(f"{item.row}, seed {item.overrides['seed']}: {reason}")
        say(f"failed: {failed[-1]}")
    return base_setting(name, base), failed


def _collect(paths: Sequence[Path], quiet: bool = False) -> Collection:
    from nasbench.results.collect import collect

    found = collect(paths)
    for problem in found.problems:
        if not quiet or problem.path not in paths:
            say(f"skipped {problem.path}: {problem.reason}")
    return found


def _finished(runs: Sequence[Path] | None) -> Collection:
    paths = list(runs or [DEFAULT_RUNS])
    found = _collect(paths)
    if found.frame.empty:
        raise RecordError(f"there is no finished run in {', '.join(map(str, paths))}")
    return found


def _show(built: Table, how: str, output: Path | None) -> None:
    from nasbench.results.formats import render, rich, width

    if how == "rich":
        from nasbench.show import plain_console

        console = plain_console()
        console.width = max(console.width, width(built))
        if output is None:
            console.print(rich(built))
            return
        from rich.text import Text

        with console.capture() as captured:
            console.print(rich(built))
        content = Text.from_ansi(captured.get()).plain + "\n"
    else:
        content = render(built, how)
    if output is None:
        typer.echo(content, nl=False)
        return
    from nasbench.record import write_atomic

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, content)
    except OSError as e:
        raise NasbenchError(f"{output} cannot be written: {e.strerror}") from e
    say(f"written: {output}")


def say(line: str) -> None:
    """Tell the person in front of the terminal; stdout is for results."""
    print(line, file=sys.stderr, flush=True)
