import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pytorch_lightning import seed_everything

from nasbench import registry
from nasbench.architecture import Architecture, instantiate
from nasbench.commands.found import show_table, write_file
from nasbench.commands.shared import Format, Output
from nasbench.config import default_data_root
from nasbench.errors import OptionError, unknown
from nasbench.pipeline import prepare
from nasbench.presets import resolve_config
from nasbench.quiet import quiet_libraries
from nasbench.results import ranking
from nasbench.results.style import encode
from nasbench.scores import SCORES, scored
from nasbench.tabular import BENCHMARKS, read

MEASURED = "rivals"  # see `nasbench.contracts.Strategy`


def command(
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help=f"{', '.join(BENCHMARKS)}.")],
    score: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCORES)}; may be repeated. All by default.")
    ] = None,
    networks: Annotated[int, typer.Option(min=5, help="How many are drawn at random.")] = 100,
    batch_size: Annotated[int, typer.Option(min=2, help="Images that scores see.")] = 64,
    dataset: Annotated[str, typer.Option(help="Where these come from.")] = "cifar10",
    supernet: Annotated[
        str | None, typer.Option(help="A strategy whose supernet's weights measure the networks, too, e.g. spos.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Of the supernet's training.")] = 10,
    train_images: Annotated[int | None, typer.Option(min=1, help="Images of that, at most.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of networks, weights and images.")] = 0,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder of tables and images; else NASBENCH_DATA, else ~/.cache/nasbench.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="PNG or SVG file of accuracy against each score.")] = None,
    how: Format = "rich",
    output: Output = None,
) -> None:
    """Rank networks by zero-cost scores or in a supernet, and compare with their accuracies once they were trained."""
    if name not in BENCHMARKS:
        raise OptionError(unknown("benchmark", name, BENCHMARKS))
    if figure is not None and figure.suffix not in (".png", ".svg"):
        raise OptionError(f"figure {figure} must be a .png or .svg")
    if supernet is not None and registry.declared(registry.load("strategy", supernet), MEASURED, None) is None:
        raise OptionError(f"strategy {supernet!r} measures no given networks in its supernet, as for example spos does")
    root = data_root or default_data_root()
    chosen = score or ([] if supernet else list(SCORES))
    benchmark = read(name, root)
    keys = list(benchmark.accuracy)
    drawn = np.random.default_rng(seed).choice(len(keys), min(networks, len(keys)), replace=False)
    found: dict[str, list[float]] = {which: [] for which in chosen}
    seconds = dict.fromkeys(chosen, 0.0)
    with quiet_libraries():
        data = registry.build_dataset(
            dataset, {"data_root": root, "batch_size": batch_size, "seed": seed}, stage="retrain"
        )
        data.setup()
        pixels, labels = next(iter(data.train_dataloader()))
        images, classes = data.normalise(pixels), data.num_classes
        context = dict.fromkeys(registry.CLASSES_NAMES, classes) | dict.fromkeys(registry.SIZE_NAMES, data.image_size)
        build = partial(registry.build, "space", benchmark.space, {}, **context)
        for number in drawn:
            architecture = dict(zip(benchmark.candidates, keys[number], strict=True))
            for which in chosen:
                seed_everything(seed, workers=True, verbose=False)
                begun = time.perf_counter()
                found[which].append(scored(which, partial(instantiate, build, architecture), images, labels))
                seconds[which] += time.perf_counter() - begun
    if supernet is not None:
        given = {"space": benchmark.space, "strategy": supernet, "dataset": dataset, "data_root": root, "seed": seed}
        architectures = [dict(zip(benchmark.candidates, keys[number], strict=True)) for number in drawn]
        name, begun = f"{supernet}, {epochs} epoch{'s' * (epochs > 1)}", time.perf_counter()
        found[name] = _in_supernet(given | {"epochs": epochs, "train_images": train_images}, architectures)
        seconds[name] = time.perf_counter() - begun
    values = {which: np.array(numbers) for which, numbers in found.items()}
    accuracy = np.array([benchmark.accuracy[keys[number]] for number in drawn])
    show_table(ranking.table(benchmark.title, values, accuracy, seconds), how, output)
    if figure is not None:
        write_file(figure, encode(ranking.figure(benchmark.title, values, accuracy), figure.suffix[1:]))


def _in_supernet(settings: dict[str, Any], architectures: list[Architecture]) -> list[float]:
    """Accuracies of networks with the weights of a supernet that is trained now."""
    config = resolve_config(settings)
    strategy: Any = prepare(config).strategy
    setattr(strategy, MEASURED, architectures)
    with quiet_libraries():
        seed_everything(config.seed, workers=True, verbose=False)
        strategy.run()
    return list(strategy.measures)
