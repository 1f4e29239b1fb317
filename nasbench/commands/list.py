from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nasbench.commands.shared import Json
from nasbench.errors import OptionError, unknown
from nasbench.registry import GROUPS, summaries
from nasbench.terminal import plain_console, print_json

PLURALS = {group.rpartition(".")[2]: kind for kind, group in GROUPS.items()}


def command(
    what: Annotated[str | None, typer.Argument(help="spaces, strategies, evaluators or datasets.")] = None,
    as_json: Json = False,
) -> None:
    """List what is registered, by this package and by others."""
    if what is not None and what not in PLURALS:
        raise OptionError(unknown("kind", what, PLURALS))
    found = {plural: summaries(kind) for plural, kind in PLURALS.items() if what in (None, plural)}
    if as_json:
        print_json(found if what is None else found[what])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for plural, names in found.items():
        table.add_row(Text(plural, style="bold"))
        for name, text in names.items():
            table.add_row(f"  {name}", text)
    plain_console().print(table)
