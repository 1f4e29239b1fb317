import inspect
from dataclasses import asdict
from typing import Annotated

import typer

from nasbench import registry
from nasbench.commands.shared import NAMES, Json
from nasbench.parts import kinds_of, options_of, presets_of
from nasbench.terminal import plain_console, plain_table, print_json


def command(
    part: Annotated[str, typer.Argument(help="A name of nasbench list, or module:Class.")],
    as_json: Json = False,
) -> None:
    """Every option of a space, strategy, evaluator or data set: values, default, meaning, whose it is."""
    found = {kind: options_of(kind, part) for kind in kinds_of(part)}
    if as_json:
        print_json({kind: [asdict(option) for option in options] for kind, options in found.items()})
        return
    console = plain_console()
    for kind, options in found.items():
        flag = NAMES[f"{kind}_options"][0]
        title = f"{kind} {part}: {(inspect.getdoc(registry.load(kind, part)) or '').partition(chr(10))[0]}"
        if not options:
            console.print(f"{title}\nIt has no options.")
            continue
        table = plain_table(f"{flag} NAME=VALUE", "value", "default", "", title=title)
        for option in options:
            table.add_row(option.name, option.value, option.default, option.text)
        console.print(table)
        for preset, values in presets_of(kind, part).items():
            if values:
                console.print(f"preset {preset}: {', '.join(f'{name}={value}' for name, value in values.items())}")
        console.print(f"of {', '.join(dict.fromkeys(option.origin for option in options))}\n")
