import contextlib
import signal
from datetime import datetime
from typing import Annotated

import typer

from nasbench.commands.shared import Host, Port
from nasbench.nni_bridge import portal
from nasbench.nni_bridge.portal import LOOPBACK, check_host, warn_if_exposed
from nasbench.signals import terminable
from nasbench.terminal import plain_console, plain_table, say, write


def command(
    experiment: Annotated[
        str | None, typer.Argument(help="NNI's id of the experiment, or the folder of a sweep; by default the newest.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the experiments and stop.")] = False,
    port: Port = None,
    host: Host = LOOPBACK,
) -> None:
    """Open a finished sweep, or a run that had --ui, in NNI's web portal again, until Ctrl-C."""
    check_host(host)
    if list_:
        table = plain_table("experiment", "name", "started", "trials", right=("trials",))
        table.add_column("folder, or address while it runs", overflow="fold")
        for e in portal.experiments():
            started = f"{datetime.fromtimestamp(e.started):%Y-%m-%d %H:%M:%S}"
            where = e.address or str(e.folder.parent if e.folder.name == ".nni" else e.folder)
            table.add_row(e.id, e.name, started, str(e.trials), where)
        plain_console().print(table)
        return
    found = portal.find(experiment)
    if found.address is not None:
        write(found.address)
        return
    warn_if_exposed(host, say)
    with terminable():
        opened, address = portal.view(found, port, host)
        try:
            write(address)
            say(f"{found.name}, {found.trials} trial(s); Ctrl-C closes the portal")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
        finally:
            portal.stop(opened)
