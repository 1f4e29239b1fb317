from pathlib import Path
from typing import Annotated

import typer

from nasbench.commands.shared import Json
from nasbench.doctor import of_machine, of_run
from nasbench.record import Record
from nasbench.terminal import plain_console, print_json, write


def command(
    run: Annotated[Path | None, typer.Argument(help="Record of a run; without one, this machine is looked at.")] = None,
    as_json: Json = False,
) -> None:
    """Say what is wrong with this machine, or with a run, and what to type next; exit code 1 if that is a fault."""
    facts, findings = of_machine() if run is None else of_run(Record(run))
    if as_json:
        print_json({**facts, "findings": [finding._asdict() for finding in findings]})
    else:
        console = plain_console()
        console.print("\n".join(f"{name}: {fact}" for name, fact in facts.items()))
        for severity, name, measured, then in findings:
            console.print(f"\n{severity}: {name}", style="bold red" if severity == "fault" else "yellow")
            console.print(measured)
            write(f"    {then}")  # on one line, to be copied
        if not findings:
            write("\nnothing found")
    if any(finding.severity == "fault" for finding in findings):
        raise typer.Exit(1)
