import json
import shlex
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import yaml

from nasbench.config import KINDS, Role, RunConfig, default_data_root
from nasbench.presets import OPTIONAL, SHOWN, resolve_config

FLAGS = {
    **{"space_options": "-p", "strategy_options": "-s", "evaluator_options": "-e", "dataset_options": "-d"},
    "limits": "--limit",
}


def command(config: RunConfig, seeds: Iterable[int] | None = None, trust: bool = False) -> str:
    """A shell command that repeats a run, or its setting with these seeds in a loop.

    What its preset and its parts' defaults say by themselves is left out. Parts that are not registered are asked for
    theirs, which runs their code, only where they are trusted; else everything is said.
    """
    settings = config.model_dump(mode="json")
    said = {name: settings[name] for name in (*KINDS, "architecture") if settings[name] is not None}
    usual: dict[str, Any] = {}

    def settle() -> None:
        if trust or not any(":" in said.get(kind, "") for kind in KINDS):
            usual.update(resolve_config(said).model_dump(mode="json"))

    settle()
    words = ["nasbench", "run", "--space", config.space, "--strategy", config.method, "--dataset", config.dataset]
    if config.architecture is not None:
        given = config.architecture
        words += ["--choice", given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)]
    if config.evaluator != RunConfig.model_fields["evaluator"].default:
        words += ["--evaluator", config.evaluator]
    if config.preset is not None and config.preset != usual.get("preset"):
        words += ["--preset", config.preset]
        said["preset"] = config.preset
        settle()
    for name, value in config.part(Role.SEARCH, Role.RECIPE, Role.DEVICE).items():
        meant = value is not None or name in OPTIONAL
        known = name in usual and usual[name] == value and name not in SHOWN.get(config.preset or "", ())
        if name not in said and name not in FLAGS and meant and not known:
            said[name] = value
            words.append(f"--{name.replace('_', '-')}")
            words += [] if value is True else ["none" if value is None else str(value)]
            settle()  # what goes without saying, options of a preset too, may depend on what was said by now
    for group, flag in FLAGS.items():
        for option, value in settings[group].items():
            if group not in usual or option not in usual[group] or usual[group][option] != value:
                words += [flag, f"{option}={_yaml(value)}"]
    if config.data_root != default_data_root():
        words += ["--data-root", PurePath(config.data_root).as_posix()]
    chosen_seeds = [config.seed] if seeds is None else list(dict.fromkeys(seeds))
    line = shlex.join(words)
    if len(chosen_seeds) == 1:
        return f"{line} --seed {chosen_seeds[0]}"
    return f"for seed in {' '.join(map(str, chosen_seeds))}; do {line} --seed $seed; done"


def _yaml(value: Any) -> str:
    # As the command line reads it back: YAML 1.1 takes 1e-05 for a word, and JSON writes it so.
    text = str(yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True))
    return text.removesuffix("...\n").strip()
