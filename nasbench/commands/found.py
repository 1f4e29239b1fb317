"""What the commands on finished runs share: the runs that are there, and tables on the terminal or in a file."""

from collections.abc import Sequence
from pathlib import Path

import typer
from rich.text import Text

from nasbench.commands.shared import DEFAULT_RUNS
from nasbench.errors import NasbenchError, RecordError
from nasbench.files import write_atomic
from nasbench.packs import is_inside
from nasbench.record import Record, find_records
from nasbench.results.cells import Table
from nasbench.results.collect import Collection, collect
from nasbench.results.formats import grid, render, rich
from nasbench.show import summary
from nasbench.terminal import clean, plain_console, print_json, say


def collected(paths: Sequence[Path], quiet: bool = False) -> Collection:
    """The runs of records, packs and folders; says which were skipped, and unless `quiet` which paths have none yet."""
    found = collect(paths)
    for problem in found.problems:
        if not quiet or problem.path not in paths:
            say(f"skipped {problem.path}: {problem.reason}")
    return found


def records(folder: Path, packs: bool = True) -> list[Path]:
    """The records at or below a folder, in packs only if they count; RecordError: there is none."""
    found = sorted(path for path in find_records(folder) if packs or not is_inside(path))
    if not found:
        raise RecordError(f"there is no run record in {folder}{'' if packs else ' (packs stay as they are)'}")
    return found


def finished(runs: Sequence[Path] | None) -> Collection:
    """Likewise, of which there has to be one. Raises RecordError: there is none."""
    paths = list(runs or [DEFAULT_RUNS])
    found = collected(paths)
    if found.frame.empty:
        raise RecordError(f"there is no finished run in {', '.join(map(str, paths))}")
    return found


def show_table(table: Table, how: str = "rich", output: Path | None = None) -> None:
    """Print a table, or write it to a file. Raises OptionError: unknown format; NasbenchError: it cannot be written."""
    if how == "rich":
        console = plain_console(fit=grid(table))
        if output is None:
            console.print(rich(table))
            return
        with console.capture() as captured:
            console.print(rich(table))
        content = Text.from_ansi(captured.get()).plain + "\n"
    else:
        content = render(table, how)
    if output is None:
        typer.echo(clean(content), nl=False)
    else:
        write_file(output, content)


def write_file(output: Path, content: str | bytes, facts: str = "") -> None:
    """Write a file of results and say so, with these facts. Raises NasbenchError: it cannot be written."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(output, content)
    except OSError as e:
        raise NasbenchError(f"{output} cannot be written: {e.strerror}; choose another file with --output") from e
    say(f"written: {output}{facts}")


def show_run(record: Record, as_json: bool) -> None:
    """Print what came of a run, as JSON too where that was asked for."""
    plain_console(stderr=as_json).print(summary(record))
    if as_json:
        print_json(record.result().model_dump(mode="json"))
