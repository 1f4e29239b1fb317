"""From what a user gave to the complete settings of a run: presets, the parts' own defaults, and other spellings."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nasbench import registry
from nasbench.config import GIVEN, KINDS, RunConfig, default_data_root, make_config
from nasbench.errors import OptionError, unknown
from nasbench.limits.kind import normal, parse
from nasbench.limits.levers import AUTO, taken
from nasbench.packs import is_file, locate
from nasbench.record import ARCHITECTURE

# What concerns every part; what a part's own options are in a preset stands beside the part. The paper's recipe is that
# of Dong et al., ICASSP 2023, section 3.1, and the smaller presets are scaled down from it.
PRESETS: dict[str, dict[str, Any]] = {
    # Minutes on two CPU cores.
    "quick": {"epochs": 12, "retrain_epochs": 15, "batch_size": 64, "train_images": 2000},
    # An evening on one GPU for 32×32 images.
    "cifar": {"epochs": 30, "retrain_epochs": 200, "batch_size": 128},
    # ImageNet as in the paper.
    "paper": {"epochs": 30, "retrain_epochs": 200, "batch_size": 128, "workers": 8},
    # Some hundred to some thousand photos, from pretrained weights; the epochs are those of about 2,000 images.
    "finetune": {"epochs": 5, "retrain_epochs": 10, "batch_size": 32},
}
# In a preset, images that a stage goes through, all epochs together: the fewer there are, the more often.
SHOWN = {"finetune": {"epochs": 10_000, "retrain_epochs": 20_000}}
FEWEST_EPOCHS, MOST_EPOCHS = 5, 30
DEFAULT_PRESET = "cifar"  # of a data set that names none
RATE = "learning_rate"  # of an evaluator
FIRST = ""  # the first of the space's named architectures, where fixed has no choice
OPTIONAL = ("image_size", "train_images", "weights")  # where none is a value, and not the absence of one


def resolve_config(given: Mapping[str, Any], say: Callable[[str], object] = lambda line: None) -> RunConfig:
    """Fill in the preset and the parts' defaults under what was given; the configuration is complete.

    What is absent comes from the preset (by default the data set's), else from the part itself. Width and image size
    may be `auto` where there are limits, and a preset's learning rate is for its batch size and scaled with that; `say`
    is told what these came to. Raises OptionError: unknown field, name or option, or a value of the wrong kind or out
    of range.
    """
    chosen = {k: v for k, v in given.items() if v is not None or k in OPTIONAL}
    for kind in KINDS:
        if not isinstance(chosen.get(f"{kind}_options", {}), Mapping):
            raise OptionError(f"{kind}_options must be a mapping of names to values, not {chosen[f'{kind}_options']!r}")
    chosen = _spelt_out(chosen)
    dataset = registry.load("dataset", chosen.get("dataset", RunConfig.model_fields["dataset"].default))
    name = chosen.get("preset") or registry.declared(dataset, "default_preset", DEFAULT_PRESET)
    if name not in PRESETS:
        raise OptionError(unknown("preset", name, PRESETS))
    common = {**PRESETS[name], **registry.declared(dataset, "presets", {}).get(name, {})}
    common |= _epochs(name, dataset, chosen)
    settings = {**common, **chosen, "preset": name}
    if "epochs" not in chosen and isinstance(most := chosen.get("max_epochs"), int):
        settings["epochs"] = min(settings["epochs"], max(most, 1))
    rate = None  # of a preset
    settings["dataset_options"] = {**common.get("dataset_options", {}), **chosen.get("dataset_options", {})}
    for kind in KINDS:
        part = settings.get(kind, RunConfig.model_fields[kind].default)
        if part is not None and kind != "dataset":
            of_preset = registry.preset(kind, part, name, common, settings)
            own = settings.get(f"{kind}_options", {})
            settings[f"{kind}_options"] = {**of_preset, **own}
            if kind == "evaluator" and RATE not in own:
                rate = of_preset.get(RATE)
    config = taken(settings, lambda found: complete(make_config(found)), say)
    usual = common.get("batch_size", RunConfig.model_fields["batch_size"].default)
    if rate is not None and config.batch_size != usual:  # the linear rule of arXiv 1706.02677
        scaled = rate * config.batch_size / usual
        config = config.model_copy(update={"evaluator_options": {**config.evaluator_options, RATE: scaled}})
        say(f"learning rate {rate:g} scaled to {scaled:g} for batch {config.batch_size}")
    for kind in KINDS:
        part, found = getattr(config, kind), getattr(config, f"{kind}_options")
        said = {k: v for k, v in chosen.get(f"{kind}_options", {}).items() if v != AUTO}
        for option, value in registry.complete(kind, part, said, settle=False).items() if part else ():
            if option in said and value and option in found and found[option] != value:  # the part has set it back
                raise OptionError(
                    f"{kind} {part!r}: {option}={value} has no effect beside the other options: leave it out"
                )
    return config


def _epochs(preset: str, dataset: Any, chosen: Mapping[str, Any]) -> dict[str, int]:
    """The epochs of a preset that shows so many images, where the data set can tell how many there are."""
    count = registry.declared(dataset, "count_images", None)
    if preset not in SHOWN or count is None:
        return {}
    images = count(Path(chosen.get("data_root") or default_data_root()))
    if not images:
        return {}  # the run will say what is missing
    images = min(images, chosen.get("train_images") or images)
    return {
        stage: min(max(round(shown / images), FEWEST_EPOCHS), MOST_EPOCHS) for stage, shown in SHOWN[preset].items()
    }


def layer(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over others: options join those of the same part, and go with a part that is replaced."""
    merged = dict(lower)
    for kind in KINDS:
        if upper.get(kind) not in (None, lower.get(kind) or RunConfig.model_fields[kind].default):
            merged.pop(f"{kind}_options", None)
    if upper.get("architecture") is not None:
        merged = {k: v for k, v in merged.items() if k not in ("strategy", "strategy_options")}
    elif upper.get("strategy") is not None:
        merged.pop("architecture", None)
    for key, value in upper.items():
        joined = key.endswith("_options") and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = {**merged[key], **value} if joined else value
    return merged


def complete(config: RunConfig) -> RunConfig:
    """The same settings with every option of every part, converted and in its normal form. Raises OptionError."""
    changed: dict[str, Any] = {"limits": {limit.name: normal(limit) for limit in parse(config.limits)}}
    options = dict(config.space_options)
    if isinstance(config.architecture, str):
        # Named architectures that differ in more than their choices bring options of the space along.
        named = registry.declared(registry.load("space", config.space), "named_options", lambda name: {})
        options = {**named(config.architecture), **options}
    for kind in KINDS:
        part = getattr(config, kind)
        if part is not None:
            given = options if kind == "space" else getattr(config, f"{kind}_options")
            changed[f"{kind}_options"] = registry.complete(kind, part, given)
    if config.strategy is None or not registry.searches(config.strategy, changed["strategy_options"]):
        changed |= dict.fromkeys(("epochs", "max_trials", "max_epochs", "max_minutes"))
    config = config.model_copy(update=changed)
    if config.architecture == FIRST:
        from nasbench.networks import default_architecture

        config = config.model_copy(update={"architecture": default_architecture(config)})
    return config


def _spelt_out(chosen: dict[str, Any]) -> dict[str, Any]:
    """Without the spellings of an architecture that is given; its files are read, since they may not stay."""
    chosen = dict(chosen)
    if chosen.get("strategy") == GIVEN:
        del chosen["strategy"]
        options = dict(chosen.pop("strategy_options", {}))
        choice = options.pop("choice", None)
        if options:
            raise OptionError(unknown("option of strategy 'fixed'", next(iter(options)), ["choice"]))
        chosen.setdefault("architecture", FIRST if choice is None else choice)
    if "architecture" in chosen:
        if chosen.get("strategy") is not None:
            raise OptionError(
                f"an architecture is given, so nothing is left to strategy {chosen['strategy']!r}: leave one out"
            )
        chosen |= {"strategy": None, "strategy_options": {}}
        chosen["architecture"] = read_architecture(chosen["architecture"])
    return chosen


def read_architecture(choice: Any) -> Any:
    """The content of the JSON text, file or record that an architecture was given by; anything else as it is."""
    if isinstance(choice, Mapping):
        return dict(choice)
    if not isinstance(choice, str):
        raise OptionError(f"an architecture is a name or a mapping of labels to candidates, not {choice!r}")
    if choice.startswith("{"):
        return _mapping(choice, "the architecture")
    path = locate(Path(choice))
    if is_file(path / ARCHITECTURE):
        path = path / ARCHITECTURE
    elif path.suffix != ".json" or not is_file(path):
        return choice  # a name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise OptionError(f"{path} cannot be read: {e}") from e
    return _mapping(text, str(path))


def _mapping(text: str, what: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as e:
        raise OptionError(f"{what} is not JSON: {e}") from e
    if not isinstance(content, dict):
        raise OptionError(f"{what} is not a mapping of labels to candidates")
    return content
