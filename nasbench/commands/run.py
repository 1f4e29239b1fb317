from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nasbench import pipeline
from nasbench.commands import shared
from nasbench.commands.found import show_run
from nasbench.config import dump_config, read_config
from nasbench.distributed import node_rank
from nasbench.errors import OptionError
from nasbench.follower import follow_node
from nasbench.memory import LESS
from nasbench.nni_bridge.portal import LOOPBACK
from nasbench.nni_bridge.sweep import run_in_portal
from nasbench.packs import locate
from nasbench.presets import resolve_config
from nasbench.rehearsal import Forecast, rehearse
from nasbench.show import duration
from nasbench.terminal import print_json


@shared.with_settings
def command(
    width: shared.Width = None,
    candidates: shared.Candidates = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options given beside it win.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder that receives the record; or the record of an interrupted run, which goes on.")
    ] = shared.DEFAULT_RUNS,
    ui: Annotated[bool, typer.Option("--ui", help="Show the run live in NNI's web portal.")] = False,
    port: shared.Port = None,
    host: shared.Host = LOOPBACK,
    stop_after: shared.StopAfter = None,
    verbose: shared.Verbose = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try a few steps, say what memory, time and disk it takes, and stop.")
    ] = False,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the complete settings and stop.")] = False,
    as_json: shared.Json = False,
    **settings: Any,
) -> None:
    """Search a space, train the network that was found from scratch, and test it."""
    promoted = shared.short(width, candidates)
    if promoted:
        settings["space_options"] = [*(settings["space_options"] or ()), *promoted]
    shown = shared.display(verbose)
    given = shared.merge(read_config(locate(config)) if config is not None else {}, settings)
    resolved = resolve_config(given, shown.say)
    if print_config:
        typer.echo(dump_config(resolved), nl=False)
        return
    if dry_run:
        found = rehearse(resolved)
        if as_json:
            print_json(asdict(found))
        else:
            typer.echo(_told(found))
        return
    if ui:
        if stop_after is not None:
            raise OptionError("--stop-after and --ui do not go together")
        record = run_in_portal(resolved, out, shown.say, port, host)
    elif node_rank(resolved) > 0:
        follow_node(resolved)
        return
    else:
        record = pipeline.run(resolved, out, shown, stop_after=shared.seconds(stop_after))
    show_run(record, as_json)


def _told(found: Forecast) -> str:
    memory, free = (f"{count / 2**30:.1f} GiB" for count in (found.memory_bytes, found.free_memory_bytes))
    room = f" of {free} to be had" if found.free_memory_bytes else ""
    lines = [f"memory  {memory}{room}", f"disk    {found.disk_bytes / 2**20:.0f} MiB at most"]
    if not found.seconds:
        return "\n".join([*lines, f"it does not fit, so nothing was tried: {LESS}"])
    stages = [f"{stage} {duration(seconds)}" for stage, seconds in found.seconds.items()]
    if found.networks:
        stages.append(f"{found.networks} networks trained one by one")
    return "\n".join([*lines, f"time    {duration(sum(found.seconds.values()))} ({', '.join(stages)})"])
