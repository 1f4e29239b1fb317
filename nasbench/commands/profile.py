from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from nasbench.commands.shared import Candidates, Json, SpaceOptions, Trust, Width, merge, short
from nasbench.config import RunConfig, make_config
from nasbench.errors import OptionError
from nasbench.networks import named_architectures, profile_architecture, profile_record
from nasbench.presets import FIRST, complete, read_architecture
from nasbench.record import Record, is_record
from nasbench.results.pareto import front
from nasbench.show import front_table, profile_table
from nasbench.terminal import plain_console, print_json


def command(
    space: Annotated[
        str | None,
        typer.Option(help="Search space: a name of `nasbench list`, or module:Class; by default mbv2_metapool."),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="A candidate, a named architecture, random or random:SEED, a JSON file, or a record, whose own "
            "network is counted; by default the first named."
        ),
    ] = None,
    width: Width = None,
    candidates: Candidates = None,
    dataset: Annotated[
        str | None, typer.Option(help="Take classes and image size from this data set (else the space's own).")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images.")] = None,
    data_root: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    space_options: SpaceOptions = None,
    trust: Trust = False,
    as_json: Json = False,
) -> None:
    """Count parameters and multiply-adds of one architecture, in all and by block, and time it on the CPU.

    Without --architecture, all architectures that the space names are compared, too.
    """
    promoted = [*(space_options or ()), *short(width, candidates)]
    given = {"space": space, "dataset": dataset, "image_size": image_size, "data_root": data_root}
    others: list[dict[str, Any]] = []
    if architecture is not None and is_record(Path(architecture)):
        told = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
        told += [f"-p {option}" for option in promoted]
        if told:
            raise OptionError(f"{', '.join(told)}: {architecture} is a record, which says itself what its network is")
        record = Record(architecture)
        name = record.config().space
        chosen, counts = profile_record(record, timed=True, trust=trust)
    else:
        settings = merge({}, given | {"space_options": promoted})
        choice = FIRST if architecture is None else read_architecture(architecture)
        config = complete(make_config({**settings, "strategy": None, "architecture": choice}))
        name = config.space
        chosen, counts = profile_architecture(config, use_dataset=dataset is not None, timed=True)
        others = _named(config, dataset is not None) if architecture is None else []
    if as_json:
        counted = asdict(counts)
        blocks = counted.pop("parts")
        print_json({"space": name, **counted, "architecture": chosen, "blocks": blocks, "named": others})
    else:
        plain_console().print(profile_table(counts))
        if len(others) > 1:
            plain_console().print(front_table(others))


def _named(config: RunConfig, use_dataset: bool) -> list[dict[str, Any]]:
    """What the named architectures of a space cost, and which none of the others undercuts."""
    found: list[dict[str, Any]] = []
    for name in named_architectures(config):
        counts = profile_architecture(config.model_copy(update={"architecture": name}), use_dataset)[1]
        found.append({"name": name, "params": counts.params, "madds": counts.madds})
    on = front([(row["params"], row["madds"]) for row in found])
    return [{**row, "front": is_on} for row, is_on in zip(found, on, strict=True)]
