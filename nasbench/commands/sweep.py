from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperCommand

from nasbench.commands.found import show_table
from nasbench.commands.shared import DEFAULT_RUNS, Host, Port, merge
from nasbench.config import read_config
from nasbench.errors import OptionError
from nasbench.nni_bridge.experiment import Allocation
from nasbench.nni_bridge.machines import read_machines
from nasbench.nni_bridge.portal import LOOPBACK, check_host, warn_if_exposed
from nasbench.nni_bridge.sweep import prepare_sweep, run_sweep
from nasbench.record import Record
from nasbench.results import tables
from nasbench.results.collect import collect
from nasbench.results.report import report
from nasbench.studies.metapooling import SPACE
from nasbench.studies.plan import Plan, Result, plan
from nasbench.studies.study import Study, read_study
from nasbench.studies.tables import ablation, shared_setting
from nasbench.terminal import plain_console, plain_table, say

ABLATION = "ablation"
SEEDS = "--seeds"


class Command(TyperCommand):
    """A command that takes `--seeds 0 1 2` as well as `--seeds 0 --seeds 1 --seeds 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the flag before every further number."""
        repeated: list[str] = []
        for word in args:
            repeated += [SEEDS, word] if word.isdigit() and repeated[-2:-1] == [SEEDS] else [word]
        return super().parse_args(ctx, repeated)


def command(
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
    settings = {"space": space, "dataset": dataset, "preset": preset}
    if what == ABLATION:
        base = merge(read_config(config) if config is not None else {}, settings)
        described = ablation(base, seeds or [0, 1, 2], concurrency)
    else:
        for flag, value in {**settings, "seeds": seeds or None, "config": config}.items():
            if value is not None:
                raise OptionError(f"--{flag} is for the ablation; a sweep's file says it itself, under base or grid")
        described = read_study(Path(what))
        if concurrency is not None:
            described = described.model_copy(update={"concurrency": concurrency})
    folder = out or DEFAULT_RUNS / described.name.replace("/", "_")
    check_host(host)

    machines = read_machines(on) if on is not None else None
    allocation = prepare_sweep(described, machines)
    planned = plan(described, folder, timed=[DEFAULT_RUNS])
    say(_summary(planned, allocation, described.name, folder))
    if dry_run:
        planning = _plan_table(planned, described)
        plain_console(fit=planning).print(planning)
        return
    warn_if_exposed(host, say)
    try:
        results = run_sweep(described, allocation, folder, say, port, host, machines)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on")
        raise
    table = _results_table(results, described.name)
    plain_console(fit=table).print(table)  # the name of a record is to be copied
    _tables(folder, described if what == ABLATION else None)
    bad = [r for r in results if r.state not in ("finished", "stopped early")]
    if bad:
        say(f"{len(bad)} of {len(results)} run(s) did not finish; the same command runs them again")
        raise typer.Exit(1)


def _tables(folder: Path, ablation_of: Study | None) -> None:
    """Print the ablation's table, and write the report of everything in the folder."""
    collected = collect([folder])
    if collected.frame.empty:
        return
    if ablation_of is not None:
        is_papers = ablation_of.runs()[0].config.space == SPACE
        setting = shared_setting(ablation_of) if is_papers else None
        show_table(tables.build("table3" if is_papers else "strategies", collected.frame, setting))
    say(f"report: {report(collected.frame, folder / 'report', collected.problems)}")


def _summary(planned: Plan, allocation: Allocation, name: str, folder: Path) -> str:
    again = sum(item.interrupted is not None for item in planned.missing)
    parts = [f"{len(planned.results)} finished before"] if planned.results else []
    parts += [f"{again} to go on with"] if again else []
    parts.append(f"{len(planned.missing) - again + planned.proposals} to run")
    threads = f", {allocation.threads} thread(s) each" if allocation.threads else ""
    what = f"sweep {name} in {folder}: {', '.join(parts)}; {allocation.concurrency} at a time{threads}"
    seconds = [item.seconds for item in planned.missing] + [planned.seconds] * planned.proposals
    known = [s for s in seconds if s is not None]
    if not known:
        return f"{what}; no finished run tells how long" if seconds else what
    rest = len(seconds) - len(known)
    unknown = f" without the {rest} run(s) that no finished one is like" if rest else ""
    return f"{what}; about {_duration(sum(known) / allocation.concurrency)} by runs like these{unknown}"


def _plan_table(planned: Plan, sweep: Study) -> Table:
    table = plain_table("run", "state", "expected", "record", title=sweep.name, right=("expected",))
    for result in planned.results:
        table.add_row(result.label, result.state, "", result.record.name if result.record else "")
    for item in planned.missing:
        state, record = ("to run", "") if item.interrupted is None else ("to go on", item.interrupted.record.path.name)
        table.add_row(item.label, state, _duration(item.seconds), record)
    for _ in range(planned.proposals):
        table.add_row(f"proposed by {sweep.tuner.name}", "to run", _duration(planned.seconds), "")
    return table


def _results_table(results: Sequence[Result], name: str) -> Table:
    table = plain_table("run", "state", "how", "top-1", "time", title=name, right=("top-1", "time"))
    table.add_column("record, or why it failed", overflow="fold")
    for result in results:
        top1 = ""
        if result.record is not None and result.state == "finished":
            top1 = f"{100 * Record(result.record).result().top1:.2f} %"
        last = result.error or (result.record.name if result.record else "")
        how = result.how if result.state != "not finished" else ""
        table.add_row(result.label, result.state, how, top1, _duration(result.seconds), last)
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
