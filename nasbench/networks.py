"""From a configuration to networks: building, loading, naming and counting them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nasbench import registry
from nasbench.architecture import Architecture, choices, instantiate, named, resolve, validate
from nasbench.config import RunConfig, digest
from nasbench.errors import RecordError
from nasbench.facts import DataFacts
from nasbench.profile import Profile, latency, profile
from nasbench.quiet import quiet_libraries
from nasbench.record import MODEL, Record
from nasbench.weights import begin_as_identity

PROFILE_DEFAULTS = (1000, 224)  # classes and image size of a profile without a data set
LONGEST_LABEL = 40  # characters of the options in a run's label; longer ones are named by a digest


def build_space(config: RunConfig, num_classes: int, image_size: int) -> Any:
    """Build the search space of a configuration. Raises OptionError: unknown space or option, or a wrong value."""
    context = dict.fromkeys(registry.CLASSES_NAMES, num_classes) | dict.fromkeys(registry.SIZE_NAMES, image_size)
    return registry.build("space", config.space, config.space_options, **context)


def native(config: RunConfig) -> tuple[int, int]:
    """Classes and image size for which a space was made."""
    classes, size = registry.declared(registry.load("space", config.space), "profile_defaults", PROFILE_DEFAULTS)
    return classes, config.image_size or size


def default_architecture(config: RunConfig) -> str:
    """The name of the first of a space's named architectures. Raises ArchitectureError: it names none."""
    with quiet_libraries():
        space = build_space(config, *native(config))
        resolve(space, None)
        return next(iter(named(space)))


def named_architectures(config: RunConfig) -> list[str]:
    """The names of a space's named architectures."""
    with quiet_libraries():
        return list(named(build_space(config, *native(config))))


def derived(config: RunConfig, architecture: Architecture, data: DataFacts) -> nn.Module:
    """The network of an architecture for a run's data, with fresh weights; ArchitectureError: there is none."""
    classes, size = len(data.class_names), data.image_size
    architecture = validate(build_space(config, classes, size), architecture)
    return instantiate(lambda: build_space(config, classes, size), architecture)


def load_model(path: str | Path, trust: bool = False) -> nn.Module:
    """The derived, trained network of a record, (N, 3, S, S) → (N, classes), in evaluation mode.

    Images are to be normalised with the mean and standard deviation of the record's `data.json`. `trust` allows spaces
    that are not registered, whose code then runs. Raises RecordError: there is no trained network, or it is damaged.
    Raises OptionError: its space is neither registered nor trusted.
    """
    record = Record(path)
    state = weights_of(record)
    with quiet_libraries(), registry.trusting(trust):
        model = derived(record.config(), record.architecture(), record.data())
    try:
        put(state, model)
    except Exception as e:
        raise RecordError(f"{path}/{MODEL} does not fit the record: {' '.join(str(e).split())[:200]}") from e
    return model.eval()


def weights_of(record: Record) -> dict[str, Tensor]:
    """The weights of a record's trained network. Raises RecordError: there are none, or they are damaged."""
    if record.file(MODEL) is None:
        raise RecordError(f"{record.path} has no {MODEL}: its training has not finished, or its weights were not kept")
    try:
        return load_file(record.intact(MODEL))
    except (OSError, SafetensorError) as e:
        raise RecordError(f"{record.path / MODEL} is damaged: {' '.join(str(e).split())[:200]}") from e


def put(state: dict[str, Tensor], model: nn.Module) -> None:
    """Put the weights of a trained network into one of its architecture."""
    begin_as_identity(model, state)
    model.load_state_dict(state)


def names_of(space: Any, architecture: Mapping[str, Any]) -> list[str]:
    """What an architecture is called: named architectures of the space that are equal, and its one candidate."""
    found = [name for name, known in named(space).items() if dict(known) == dict(architecture)]
    different = {str(value) for value in architecture.values()}
    everywhere = different if len(different) == 1 and len(choices(space)) == len(architecture) else set()
    return list(dict.fromkeys([*found, *everywhere]))


def label_of(config: RunConfig, architecture: Mapping[str, Any], names: Sequence[str] = ()) -> str:
    """A short name for what a run trains, e.g. `global`, `se at output`, `pmpl (full)`, `darts order 2 (ablation)`.

    Parts say in `words` what stands in the place of their options. Other options of the space are told where they are
    not the default, except for the width, which readers are told apart.
    """
    of_space = registry.words("space", config.space, config.space_options)
    candidates = of_space.pop("candidates", "")
    if config.strategy is None:
        different = {str(value) for value in architecture.values()}
        known = config.architecture if isinstance(config.architecture, str) else next(iter(names), None)
        parts = [different.pop() if len(different) == 1 else known or f"given {digest(dict(architecture))[:4]}"]
    else:
        parts = [config.strategy, *registry.words("strategy", config.strategy, config.strategy_options).values()]
        parts += [f"{name} ≤ {value}" for name, value in config.limits.items()]
        parts += [f"({candidates})"] if candidates else []
    defaults = registry.complete("space", config.space, {})
    others = [
        f"{name} {value}"
        for name, value in config.space_options.items()
        if name not in ("width", "candidates", *of_space) and value != defaults.get(name)
    ]
    text = " ".join(others)
    parts += [*of_space.values(), text if len(text) <= LONGEST_LABEL else f"options {digest(others)[:4]}"]
    main = RunConfig.model_fields["space"].default
    parts += [] if config.space == main else [f"in {config.space.rpartition(':')[2]}"]
    return " ".join(filter(None, parts))


def profile_architecture(
    config: RunConfig, use_dataset: bool = False, timed: bool = False
) -> tuple[Architecture, Profile]:
    """Count parameters and multiply-adds of a configuration's architecture, or of the first that its space names.

    Classes and image size are the data set's with `use_dataset`, else the space's `profile_defaults`. Raises
    NasbenchError: the space, its options or the architecture are wrong, or the data set is missing.
    """
    with quiet_libraries():
        classes, size = native(config)
        if use_dataset:
            data = registry.build_dataset(config.dataset, config.data_options())
            data.setup()
            classes, size = data.num_classes, data.image_size
        architecture = resolve(build_space(config, classes, size), config.architecture)
        return _counted(config, architecture, classes, size, timed)


def profile_record(record: Record, timed: bool = False, trust: bool = False) -> tuple[Architecture, Profile]:
    """Count the network of a record whose search is done: its own space, options, classes and image size."""
    with quiet_libraries(), registry.trusting(trust):
        data = record.data()
        return _counted(record.config(), record.architecture(), len(data.class_names), data.image_size, timed)


def _counted(
    config: RunConfig, architecture: Architecture, classes: int, size: int, timed: bool
) -> tuple[Architecture, Profile]:
    facts = DataFacts(class_names=[""] * classes, image_size=size)
    model = derived(config, architecture, facts)
    counts = replace(profile(model, size), notes=tuple(registry.declared(model, "notes", list)()))
    return architecture, replace(counts, latency=latency(model, size)) if timed else counts
