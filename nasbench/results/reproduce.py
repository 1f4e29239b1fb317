"""The exact command of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import yaml

from nasbench.config import PRESET_OF, RunConfig, default_data_root, resolve_config

FLAGS = {"space_options": "-p", "strategy_options": "-s", "evaluator_options": "-e"}
IDENTITY = ("space", "strategy", "dataset")
LEFT_OUT = ("preset", "seed", "space", "strategy", "dataset", "data_root", "device", "workers", "download")


def command(config: RunConfig, seeds: Iterable[int] | None = None) -> str:
    """A shell command that repeats a run; settings of its preset and of the machine are left out.

    Args:
        config: of the run.
        seeds: repeat it for each of these, in a loop; only the run's own where `None`.
    """
    words = ["nasbench", "run"]
    for name in IDENTITY:
        words += [f"--{name}", str(getattr(config, name))]
    if config.preset != PRESET_OF.get(config.dataset):
        words += ["--preset", config.preset]
    given = config.model_dump(mode="json")
    default = _defaults(config)
    for name, value in given.items():
        if name in FLAGS:
            for option, chosen in value.items():
                if option not in default[name] or default[name][option] != chosen:
                    words += [FLAGS[name], f"{option}={_yaml(chosen)}"]
        elif name not in LEFT_OUT and value != default[name] and value is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    if given["data_root"] != str(default_data_root()):
        words += ["--data-root", PurePath(given["data_root"]).as_posix()]
    chosen_seeds = [config.seed] if seeds is None else list(dict.fromkeys(seeds))
    line = shlex.join(words)
    if len(chosen_seeds) == 1:
        return f"{line} --seed {chosen_seeds[0]}"
    return f"for seed in {' '.join(map(str, chosen_seeds))}; do {line} --seed $seed; done"


def _defaults(config: RunConfig) -> dict[str, Any]:
    """What the preset alone gives to these three names."""
    names = {name: getattr(config, name) for name in IDENTITY}
    return resolve_config({**names, "preset": config.preset}).model_dump(mode="json")


def _yaml(value: Any) -> str:
    # As the command line reads it back: YAML 1.1 takes 1e-05 for a word, and JSON writes it so.
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True))
        .removesuffix("...\n")
        .strip()
    )
