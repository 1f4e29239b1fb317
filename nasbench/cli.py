"""The command line. Nothing here imports PyTorch or NNI before a command needs them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nasbench.errors import NasbenchError, OptionError, unknown
from nasbench.nni_bridge import log
from nasbench.nni_bridge.address import LOOPBACK
from nasbench.results import commands
from nasbench.sweeps import commands as sweeps

KINDS = {"spaces": "space", "strategies": "strategy", "evaluators": "evaluator", "datasets": "dataset"}
BENCHMARKS = ("kernel", "step", "memory", "startup")

app = typer.Typer(
    help="Neural architecture search for lightweight vision networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Options = Annotated[
    list[str] | None,
    typer.Option("-s", "--strategy-option", metavar="NAME=VALUE", help="Option of the strategy."),
]
SpaceOptions = Annotated[
    list[str] | None,
    typer.Option("-p", "--space-option", metavar="NAME=VALUE", help="Option of the space."),
]
EvaluatorOptions = Annotated[
    list[str] | None,
    typer.Option("-e", "--evaluator-option", metavar="NAME=VALUE", help="Option of the evaluator."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the last line of stdout.")]
Width = Annotated[float | None, typer.Option(help="Width multiplier; short for -p width=…")]
Candidates = Annotated[
    str | None,
    typer.Option(help="Candidates of a choice: a set's name or names with commas; short for -p candidates=…"),
]


@app.command()
def run(
    space: Annotated[str | None, typer.Option(help="Search space: a name of `nasbench list`, or module:Class.")] = None,
    strategy: Annotated[str | None, typer.Option(help="Strategy: a name of `nasbench list`, or module:Class.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Data set: a name of `nasbench list`, or module:Class.")] = None,
    preset: Annotated[str | None, typer.Option(help="quick, cifar or paper; by default the data set's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything that is random.")] = None,
    choice: Annotated[
        str | None,
        typer.Option(help="For --strategy fixed: a candidate, a named architecture, a JSON file or a record."),
    ] = None,
    width: Width = None,
    candidates: Candidates = None,
    epochs: Annotated[int | None, typer.Option(help="Limit of the search.")] = None,
    retrain_epochs: Annotated[int | None, typer.Option(help="Epochs of the training from scratch.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step, over all devices.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to this side.")] = None,
    train_images: Annotated[int | None, typer.Option(help="Use a stratified subset of the training images.")] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets; else NASBENCH_DATA, else ~/.cache/nasbench."),
    ] = None,
    download: Annotated[bool | None, typer.Option("--download", help="Fetch a missing data set.")] = None,
    skip_broken: Annotated[
        bool | None, typer.Option("--skip-broken", help="Leave out image files that cannot be read.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that load image files.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Start from these weights.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    devices: Annotated[
        int | None, typer.Option(help="Processes on this machine, each with a device; they share out every batch.")
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(help="Machines: start the command on each with NODE_RANK (0, 1, …) and MASTER_ADDR set."),
    ] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16, 16 or 64.")] = None,
    evaluator: Annotated[
        str | None, typer.Option(help="Evaluator: a name of `nasbench list`, or module:Class.")
    ] = None,
    max_trials: Annotated[int | None, typer.Option(help="Networks a multi-trial strategy may train.")] = None,
    strategy_options: Options = None,
    space_options: SpaceOptions = None,
    evaluator_options: EvaluatorOptions = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings; options given beside it win.")] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder that receives the record; or the record of an interrupted run, which goes on."),
    ] = Path("runs"),
    ui: Annotated[bool, typer.Option("--ui", help="Show the run live in NNI's web portal.")] = False,
    port: sweeps.Port = None,
    host: sweeps.Host = LOOPBACK,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the complete settings and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Search a space, train the network that was found from scratch, and test it."""
    from nasbench.config import dump_config, read_config
    from nasbench.presets import resolve_config

    given = read_config(config) if config is not None else {}
    flags = {
        "space": space,
        "strategy": strategy,
        "dataset": dataset,
        "preset": preset,
        "seed": seed,
        "epochs": epochs,
        "retrain_epochs": retrain_epochs,
        "batch_size": batch_size,
        "image_size": image_size,
        "train_images": train_images,
        "data_root": None if data_root is None else str(data_root),
        "download": download,
        "skip_broken": skip_broken,
        "workers": workers,
        "weights": None if weights is None else str(weights),
        "device": device,
        "devices": devices,
        "nodes": nodes,
        "precision": precision,
        "evaluator": evaluator,
        "max_trials": max_trials,
    }
    given |= {k: v for k, v in flags.items() if v is not None}
    _merge(given, "space_options", space_options, width=width, candidates=candidates)
    _merge(given, "strategy_options", strategy_options, choice=choice)
    _merge(given, "evaluator_options", evaluator_options)
    resolved = resolve_config(given)
    if print_config:
        typer.echo(dump_config(resolved), nl=False)
        return

    from nasbench.show import plain_console, summary

    if ui:
        from nasbench.nni_bridge.single import run_in_portal

        record = run_in_portal(resolved, out, commands.say, port, host)
    else:
        from nasbench.distributed import node_rank
        from nasbench.pipeline import run as run_pipeline

        if node_rank(resolved) > 0:
            from nasbench.follower import follow_node

            follow_node(resolved)
            return
        record = run_pipeline(resolved, out)
    plain_console(stderr=as_json).print(summary(record))
    if as_json:
        _print_json(record.result().model_dump(mode="json"))


@app.command("list")
def list_(
    what: Annotated[str | None, typer.Argument(help="spaces, strategies, evaluators or datasets.")] = None,
    as_json: Json = False,
) -> None:
    """List what is registered, by this package and by others."""
    from nasbench.registry import summaries

    if what is not None and what not in KINDS:
        raise OptionError(unknown("kind", what, KINDS))
    found = {plural: summaries(kind) for plural, kind in KINDS.items() if what in (None, plural)}
    if as_json:
        _print_json(found if what is None else found[what])
        return
    from rich.table import Table

    from nasbench.show import plain_console

    table = Table(box=None, show_header=False, pad_edge=False)
    for plural, names in found.items():
        table.add_row(f"[bold]{plural}[/bold]")
        for name, text in names.items():
            table.add_row(f"  {name}", text)
    plain_console().print(table)


@app.command()
def show(
    record: Annotated[Path, typer.Argument(help="Folder of a run.")],
    as_json: Json = False,
) -> None:
    """Show what a run chose, and how good the network is."""
    from nasbench.record import Record
    from nasbench.show import plain_console, summary

    opened = Record(record)
    if as_json:
        _print_json({**opened.result().model_dump(mode="json"), "record": str(record)})
    else:
        plain_console().print(summary(opened))


@app.command()
def profile(
    space: Annotated[
        str, typer.Option(help="Search space: a name of `nasbench list`, or module:Class.")
    ] = "mbv2_metapool",
    architecture: Annotated[
        str | None,
        typer.Option(help="A candidate, a named architecture, a JSON file or a record; by default the first named."),
    ] = None,
    width: Width = None,
    candidates: Candidates = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Take classes and image size from this data set (else the space's own)."),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    space_options: SpaceOptions = None,
    as_json: Json = False,
) -> None:
    """Count parameters and multiply-adds of one architecture, in all and by block, and time it on the CPU."""
    from nasbench.presets import resolve_config

    given: dict[str, Any] = {"space": space, "image_size": image_size, "dataset": dataset}
    given["data_root"] = None if data_root is None else str(data_root)
    # The preset's options are those of a run; a profile without any is of the full network.
    given["preset"] = "paper"
    _merge(given, "space_options", space_options, width=width, candidates=candidates)
    if architecture is not None:
        given["architecture"] = architecture
    config = resolve_config(given)

    from nasbench.networks import profile_architecture
    from nasbench.show import plain_console, profile_table

    chosen, counts = profile_architecture(config, use_dataset=dataset is not None, timed=True)
    if as_json:
        _print_json(
            {
                "space": space,
                "params": counts.params,
                "madds": counts.madds,
                "latency": asdict(counts.latency) if counts.latency else None,
                "notes": counts.notes,
                "architecture": chosen,
                "blocks": [
                    {"name": p.name, "params": p.params, "madds": p.madds, "output": list(p.output)}
                    for p in counts.parts
                ],
            }
        )
    else:
        plain_console().print(profile_table(counts))


@app.command()
def bench(
    what: Annotated[list[str] | None, typer.Argument(help="kernel, step, memory or startup; by default all.")] = None,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds, in each of which every contender runs once.")] = 7,
    as_json: Json = False,
) -> None:
    """Measure speed and memory side by side: ours, eager PyTorch, NNI's DARTS, and networks without a choice."""
    chosen = what or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise OptionError(unknown("benchmark", name, BENCHMARKS))
    from importlib import import_module

    from nasbench.show import benchmark_table, plain_console

    measured = {}
    for name in chosen:
        measured[name] = import_module(f"nasbench.benchmarks.{name}").run(repetitions)
        plain_console(stderr=as_json).print(benchmark_table(name, measured[name]))
    if as_json:
        _print_json(measured)


for _command in (commands.table, commands.plot, commands.report, commands.compare):
    app.command()(_command)
app.command(cls=sweeps.SeveralSeeds)(sweeps.sweep)
app.command()(sweeps.ui)


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr and exit code 2."""
    log.ignore_layer_warnings()
    try:
        code = app(standalone_mode=False)
    except NasbenchError as e:
        print(f"error: {e}", file=sys.stderr)
        code = e.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        # The errors of click, or of typer's copy of it, go by name.
        name = type(e).__name__
        if name == "Abort":
            code = 130
        elif name == "NoArgsIsHelpError":
            e.show()  # type: ignore[attr-defined]
            code = 2
        elif hasattr(e, "format_message"):
            print(f"error: {e.format_message()} (see --help)", file=sys.stderr)
            code = 2
        else:
            raise
    sys.exit(code)


def _merge(given: dict[str, Any], key: str, pairs: Iterable[str] | None, **shorthands: Any) -> None:
    options = given.get(key) or {}
    if not isinstance(options, dict):
        raise OptionError(f"{key} must be a mapping of names to values, not {options!r}")
    added = {k: v for k, v in shorthands.items() if v is not None}
    for pair in pairs or ():
        name, sign, value = pair.partition("=")
        if not sign or not name:
            raise OptionError(f"{key.replace('_', ' ')} must be given as NAME=VALUE, not {pair!r}")
        try:
            added[name] = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise OptionError(f"{pair!r}: the value is not YAML") from e
    given[key] = {**options, **added}


def _print_json(content: Any) -> None:
    sys.stdout.flush()
    print(json.dumps(content, ensure_ascii=False), flush=True)
