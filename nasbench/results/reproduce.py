"""The exact command of a run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import yaml

from nasbench.config import GIVEN, Role, RunConfig, default_data_root
from nasbench.presets import resolve_config

FLAGS = {"space_options": "-p", "strategy_options": "-s", "evaluator_options": "-e", "dataset_options": "-d"}
NAMES = ("space", "strategy", "dataset")  # always said


def command(config: RunConfig, seeds: Iterable[int] | None = None) -> str:
    """A shell command that repeats a run; what its preset and its parts' defaults say by themselves is left out.

    Args:
        config: of the run.
        seeds: repeat it for each of these, in a loop; only the run's own where `None`.
    """
    words = ["nasbench", "run"]
    said: dict[str, Any] = {name: getattr(config, name) for name in NAMES}
    if config.strategy is None:
        said |= {"strategy": GIVEN, "strategy_options": {"choice": config.architecture}}
    for name in NAMES:
        words += [f"--{name}", str(said[name])]
    if config.architecture is not None:
        words += [
            "--choice",
            config.architecture if isinstance(config.architecture, str) else _json(config.architecture),
        ]
    usual = resolve_config(said)
    if config.preset is not None and config.preset != usual.preset:
        words += ["--preset", config.preset]
        usual = resolve_config({**said, "preset": config.preset})
    for name in config.differing(usual, Role.SEARCH, Role.RECIPE, Role.DEVICE):
        value, default = config.model_dump(mode="json")[name], usual.model_dump(mode="json")[name]
        if name in FLAGS:
            for option, chosen in value.items():
                if option not in default or default[option] != chosen:
                    words += [FLAGS[name], f"{option}={_yaml(chosen)}"]
        elif name not in (*NAMES, "architecture"):
            said_as = [] if value is True else ["none" if value is None else str(value)]
            words += [f"--{name.replace('_', '-')}", *said_as]
    if config.data_root != default_data_root():
        words += ["--data-root", PurePath(config.data_root).as_posix()]
    chosen_seeds = [config.seed] if seeds is None else list(dict.fromkeys(seeds))
    line = shlex.join(words)
    if len(chosen_seeds) == 1:
        return f"{line} --seed {chosen_seeds[0]}"
    return f"for seed in {' '.join(map(str, chosen_seeds))}; do {line} --seed $seed; done"


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False)


def _yaml(value: Any) -> str:
    # As the command line reads it back: YAML 1.1 takes 1e-05 for a word, and JSON writes it so.
    return (
        str(yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True))
        .removesuffix("...\n")
        .strip()
    )
