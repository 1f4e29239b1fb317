"""The commands `sweep` and `ui`. Nothing here imports PyTorch or NNI before a command needs them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from nasbench.errors import OptionError
from nasbench.nni_bridge.address import LOOPBACK, check_host, warn_if_exposed
from nasbench.results.commands import DEFAULT_RUNS, say

if TYPE_CHECKING:
    from rich.table import Table

    from nasbench.sweeps.allocation import Allocation
    from nasbench.sweeps.config import SweepConfig
    from nasbench.sweeps.plan import Plan, Result

ABLATION = "ablation"
SEEDS = "--seeds"

Port = Annotated[
    int | None, typer.Option(min=1024, max=65534, help="Port of NNI's portal; by default the first free one from 8080.")
]
Host = Annotated[
    str, typer.Option(help="Where the portal listens: 127.0.0.1, or 0.0.0.0 for every interface. It has no password.")
]


class SeveralSeeds(TyperCommand):
    """A command that takes `--seeds 0 1 2` as well as `--seeds 0 --seeds 1 --seeds 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before every further number."""
        repeated: list[str] = []
        open_flag = False
        for word in args:
            number = word.isdigit()
            if open_flag and number and repeated[-1] != SEEDS:
                repeated.append(SEEDS)
            repeated.append(word)
            open_flag = word == SEEDS or (open_flag and number)
        return super().parse_args(ctx, repeated)


def sweep(
    what: Annotated[str, typer.Argument(metavar="ablation|FILE", help="The ablation, or a YAML file of a sweep.")],
    space: Annotated[str | None, typer.Option(help="For ablation: search space, if not the table's.")] = None,
    dataset: Annotated[str | None, typer.Option(help="For ablation: data set.")] = None,
    preset: Annotated[str | None, typer.Option(help="For ablation: quick, cifar or paper.")] = None,
    seeds: Annotated[list[int] | None, typer.Option(min=0, help="For ablation: seeds, by default 0 1 2.")] = None,
    config: Annotated[
        Path | None, typer.Option(help="For ablation: YAML file of settings for every run, e.g. width and epochs.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; by default one for two cores, or one a GPU.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the sweep's records, by default runs/NAME; what is finished there is kept."),
    ] = None,
    on: Annotated[
        Path | None, typer.Option("--on", help="YAML file of machines: one of NNI's training services; else this one.")
    ] = None,
    port: Port = None,
    host: Host = LOOPBACK,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the runs and the expected time, and stop.")
    ] = False,
) -> None:
    """Make many runs as trials of an NNI experiment, live in its web portal. Run it again to go on after a stop."""
    from nasbench.sweeps.config import ablation, read_sweep

    base: dict[str, Any] = {}
    if what == ABLATION:
        from nasbench.config import read_config

        base = read_config(config) if config is not None else {}
        base |= {k: v for k, v in (("space", space), ("dataset", dataset), ("preset", preset)) if v is not None}
        described = ablation(base, seeds or [0, 1, 2], concurrency)
    else:
        flags = {"space": space, "dataset": dataset, "preset": preset, "seeds": seeds or None, "config": config}
        for flag, value in flags.items():
            if value is not None:
                raise OptionError(f"--{flag} is for the ablation; a sweep's file says it itself, under base or grid")
        described = read_sweep(Path(what))
        if concurrency is not None:
            described = described.model_copy(update={"concurrency": concurrency})
    folder = out or DEFAULT_RUNS / described.name.replace("/", "_")
    check_host(host)

    from nasbench.nni_bridge.machines import read_machines
    from nasbench.sweeps.plan import check, plan
    from nasbench.sweeps.sweep import run_sweep

    machines = read_machines(on) if on is not None else None
    allocation = check(described, machines)
    planned = plan(described, folder, [DEFAULT_RUNS])
    say(_summary(planned, allocation, described.name, folder))
    if dry_run:
        _print(_plan_table(planned, described))
        return
    warn_if_exposed(host, say)
    try:
        results = run_sweep(described, allocation, folder, say, port, host, machines)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        raise
    _print(_results_table(results, described.name))
    _tables(folder, base if what == ABLATION else None)
    bad = [r for r in results if r.state not in ("finished", "stopped early")]
    if bad:
        say(f"{len(bad)} of {len(results)} run(s) did not finish; the same command runs them again")
        raise typer.Exit(1)


def ui(
    experiment: Annotated[
        str | None, typer.Argument(help="NNI's id of the experiment, or the folder of a sweep; by default the newest.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments and stop.")] = False,
    port: Port = None,
    host: Host = LOOPBACK,
) -> None:
    """Open a finished sweep, or a run that had --ui, in NNI's web portal again, until Ctrl-C."""
    from nasbench.nni_bridge import portal

    check_host(host)
    if list_:
        _print(_experiments_table(portal.experiments()))
        return
    found = portal.find(experiment)
    if found.address is not None:
        typer.echo(found.address)
        return
    warn_if_exposed(host, say)
    with portal.terminable():
        opened, address = portal.view(found.id, port, host)
        try:
            typer.echo(address)
            say(f"{found.name}, {found.trials} trial(s); Ctrl-C closes the portal")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            portal.stop(opened)


def _tables(folder: Path, ablation_of: Mapping[str, Any] | None) -> None:
    """Print the ablation's table, and write the report of everything in the folder."""
    from nasbench.results import tables
    from nasbench.results.collect import collect
    from nasbench.results.formats import rich, width
    from nasbench.results.report import report
    from nasbench.results.training import base_setting
    from nasbench.show import plain_console
    from nasbench.studies.metapooling import SPACE

    collected = collect([folder])
    if collected.frame.empty:
        return
    if ablation_of is not None:
        own = ablation_of.get("space", SPACE) != SPACE
        built = (
            tables.build("strategies", collected.frame)
            if own
            else tables.build("table3", collected.frame, base_setting("table3", ablation_of))
        )
        console = plain_console()
        console.width = max(console.width, width(built))
        console.print(rich(built))
    say(f"report: {report(collected.frame, folder / 'report', collected.problems)}")


def _summary(planned: Plan, allocation: Allocation, name: str, folder: Path) -> str:
    again = sum(item.broken is not None for item in planned.todo)
    parts = [f"{len(planned.results)} finished before"] if planned.results else []
    parts += [f"{again} to go on with"] if again else []
    parts.append(f"{len(planned.todo) - again + planned.proposals} to run")
    threads = f", {allocation.threads} thread(s) each" if allocation.threads else ""
    what = f"sweep {name} in {folder}: {', '.join(parts)}"
    return f"{what}; {allocation.concurrency} at a time{threads}{_expected(planned, allocation)}"


def _expected(planned: Plan, allocation: Allocation) -> str:
    seconds = [item.seconds for item in planned.todo] + [planned.seconds] * planned.proposals
    known = [s for s in seconds if s is not None]
    if not seconds:
        return ""
    if not known:
        return "; no finished run tells how long"
    rest = len(seconds) - len(known)
    unknown = f" without the {rest} run(s) that no finished one is like" if rest else ""
    return f"; about {_duration(sum(known) / allocation.concurrency)} by runs like these{unknown}"


def _plan_table(planned: Plan, sweep: SweepConfig) -> Table:
    table = _table(sweep.name, ("run", "left"), ("state", "left"), ("expected", "right"), ("record", "left"))
    for result in planned.results:
        table.add_row(result.label, result.state, "", _name(result.record))
    for item in planned.todo:
        state = "to run" if item.broken is None else "to go on"
        record = item.broken.record.path if item.broken is not None else None
        table.add_row(item.run.label, state, _duration(item.seconds), _name(record))
    for _ in range(planned.proposals):
        table.add_row(f"proposed by {sweep.tuner.name}", "to run", _duration(planned.seconds), "")
    return table


def _results_table(results: Sequence[Result], name: str) -> Table:
    from nasbench.record import Record

    table = _table(name, ("run", "left"), ("state", "left"), ("how", "left"), ("top-1", "right"), ("time", "right"))
    table.add_column("record, or why it failed", overflow="fold")
    for result in results:
        top1 = ""
        if result.record is not None and result.state == "finished":
            top1 = f"{100 * Record(result.record).result().top1:.2f} %"
        last = result.error or _name(result.record)
        how = result.how if result.state != "not finished" else ""
        table.add_row(result.label, result.state, how, top1, _duration(result.seconds), last)
    return table


def _experiments_table(experiments: Sequence[Any]) -> Table:
    table = _table(None, ("experiment", "left"), ("name", "left"), ("started", "left"), ("trials", "right"))
    table.add_column("folder, or address while it runs", overflow="fold")
    for e in experiments:
        started = f"{datetime.fromtimestamp(e.started):%Y-%m-%d %H:%M:%S}"
        where = e.address or str(e.folder.parent if e.folder.name == ".nni" else e.folder)
        table.add_row(e.id, e.name, started, str(e.trials), where)
    return table


def _table(title: str | None, *columns: tuple[str, Any]) -> Table:
    from rich.table import Table as RichTable

    table = RichTable(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify, no_wrap=justify == "right")
    return table


def _print(table: Table) -> None:
    from nasbench.show import plain_console

    plain_console().print(table)


def _name(record: Path | None) -> str:
    return "" if record is None else record.name


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
