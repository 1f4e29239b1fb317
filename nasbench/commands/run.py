from pathlib import Path
from typing import Annotated, Any

import typer

from nasbench import pipeline
from nasbench.commands.found import show_run
from nasbench.commands.options import (
    DEFAULT_RUNS,
    Candidates,
    Host,
    Json,
    Port,
    StopAfter,
    Width,
    merge,
    seconds,
    short,
    with_settings,
)
from nasbench.config import dump_config, read_config
from nasbench.distributed import node_rank
from nasbench.errors import OptionError
from nasbench.follower import follow_node
from nasbench.nni_bridge.portal import LOOPBACK
from nasbench.nni_bridge.single import run_in_portal
from nasbench.packs import locate
from nasbench.presets import resolve_config
from nasbench.terminal import say


@with_settings
def command(
    width: Width = None,
    candidates: Candidates = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options given beside it win.")] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder that receives the record; or the record of an interrupted run, which goes on."),
    ] = DEFAULT_RUNS,
    ui: Annotated[bool, typer.Option("--ui", help="Show the run live in NNI's web portal.")] = False,
    port: Port = None,
    host: Host = LOOPBACK,
    stop_after: StopAfter = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the complete settings and stop.")] = False,
    as_json: Json = False,
    **settings: Any,
) -> None:
    """Search a space, train the network that was found from scratch, and test it."""
    promoted = short(width, candidates)
    if promoted:
        settings["space_options"] = [*(settings["space_options"] or ()), *promoted]
    resolved = resolve_config(merge(read_config(locate(config)) if config is not None else {}, settings), say)
    if print_config:
        typer.echo(dump_config(resolved), nl=False)
        return
    if ui:
        if stop_after is not None:
            raise OptionError("--stop-after and --ui do not go together")
        record = run_in_portal(resolved, out, say, port, host)
    elif node_rank(resolved) > 0:
        follow_node(resolved)
        return
    else:
        record = pipeline.run(resolved, out, stop_after=seconds(stop_after))
    show_run(record, as_json)
