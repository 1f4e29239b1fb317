from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nasbench.commands.found import show_table
from nasbench.commands.shared import Format, Output, pairs
from nasbench.config import default_data_root
from nasbench.errors import OptionError, RecordError, unknown
from nasbench.results import regret
from nasbench.results.style import save
from nasbench.tabular import BENCHMARKS, read, regrets
from nasbench.terminal import say

USUAL = ("random,trials={trials}", "local_search", "evolution", "tpe")


def command(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)}.")],
    strategy: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[,OPTION=VALUE]...", help="Strategy with its options; may be repeated."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="How many seeds, from 0.")] = 20,
    trials: Annotated[int, typer.Option("--max-trials", min=1, help="Networks that a search may try.")] = 200,
    proxy: Annotated[
        bool,
        typer.Option("--proxy", help="Show strategies a short or single training only, as a real search would see."),
    ] = False,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of the tables; else NASBENCH_DATA, else ~/.cache/nasbench.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Folder that receives the PNG and SVG of regret.")] = None,
    how: Format = "rich",
    output: Output = None,
) -> None:
    """Compare strategies where every network's accuracy is known, in seconds: how far is the best that each finds?"""
    if name not in BENCHMARKS:
        raise OptionError(unknown("benchmark", name, BENCHMARKS))
    benchmark = read(name, data_root or default_data_root())
    found = {}
    for said in strategy or [usual.format(trials=trials) for usual in USUAL]:
        which, *words = said.split(",")
        options = pairs("strategy_options", words)
        found[said] = np.stack([regrets(benchmark, which, options, seed, trials, proxy) for seed in range(seeds)])
    title = f"{benchmark.title}, by a proxy" if proxy else benchmark.title
    show_table(regret.table(title, found), how, output)
    try:
        for path in save(regret.figure(title, found), figure, f"regret_{name}") if figure else ():
            say(f"written: {path}")
    except OSError as e:
        raise RecordError(f"no figure can be written in {figure}: {e.strerror}") from e
