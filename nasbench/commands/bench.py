from importlib import import_module
from typing import Annotated

import typer

from nasbench.commands.shared import Json
from nasbench.errors import OptionError, unknown
from nasbench.show import benchmark_table
from nasbench.terminal import plain_console, print_json

BENCHMARKS = ("kernel", "step", "search", "modes", "latency", "memory", "startup", "strategies", "photos")


def command(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="kernel, step, search, modes, latency, memory, startup, strategies or photos; by default all."
        ),
    ] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds, in each of which every contender runs once.")] = 7,
    as_json: Json = False,
) -> None:
    """Measure speed and memory side by side: ours, eager PyTorch, NNI's DARTS, and networks without a choice."""
    chosen = what or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise OptionError(unknown("benchmark", name, BENCHMARKS))
    measured = {}
    for name in chosen:
        measured[name] = import_module(f"nasbench.benchmarks.{name}").run(repetitions)
        plain_console(stderr=as_json).print(benchmark_table(name, measured[name]))
    if as_json:
        print_json(measured)
