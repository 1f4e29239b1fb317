"""The settings of a run: one model, in which every field says its role once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nasbench.errors import OptionError, quoted, unknown


class Role(Enum):
    """What a setting is for. Which runs are the same, alike or comparable follows from these alone."""

    SEARCH = "what is searched, and how"
    RECIPE = "how the network is trained and tested: what every run of a fair comparison shares"
    SEED = "of everything that is random"
    DEVICE = "the processors that work on the run"
    PLACE = "where things lie on this machine, and how they are read"
    ORIGIN = "where settings came from; they stand in the other fields"


RUN = (Role.SEARCH, Role.RECIPE, Role.SEED, Role.DEVICE)  # what a run that is continued has to share
RESULT = (Role.SEARCH, Role.RECIPE, Role.SEED)  # what runs with the same result share
SETTING = (Role.SEARCH, Role.RECIPE)  # what runs share that are averaged over seeds
KINDS = ("space", "strategy", "evaluator", "dataset")  # each a name, with options beside it


def default_data_root() -> Path:
    """`NASBENCH_DATA`, else `~/.cache/nasbench`."""
    return Path(os.environ.get("NASBENCH_DATA") or Path.home() / ".cache" / "nasbench")


class RunConfig(BaseModel):
    """Everything that determines a run; the same configuration gives the same result on the same machine.

    `nasbench.presets.resolve_config` lays a preset under what a user gives; a `RunConfig` made by hand has none. Every
    run completes the options of its parts with their defaults before it starts, and its record holds them all.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        ser_json_inf_nan="constants",  # and not null: that is another value
        use_attribute_docstrings=True,
    )

    space: Annotated[str, Role.SEARCH] = "mbv2_metapool"
    """Search space: a name of `nasbench list`, or module:Class."""
    space_options: Annotated[dict[str, Any], Role.SEARCH] = Field(default_factory=dict)
    """Option of the space."""
    strategy: Annotated[str | None, Role.SEARCH] = "pmpl"
    """Strategy: a name of `nasbench list`, module:Class, or fixed for an architecture that is given by --choice."""
    strategy_options: Annotated[dict[str, Any], Role.SEARCH] = Field(default_factory=dict)
    """Option of the strategy."""
    architecture: Annotated[str | dict[str, Any] | None, Role.SEARCH] = None
    """An architecture that is given and not searched: a candidate, a named one, a JSON file or a record."""
    limits: Annotated[dict[str, Any], Role.SEARCH] = Field(default_factory=dict)
    """What the network may cost at most: madds=100M, params=2M, latency=5ms@onnx or memory=4MB; may be repeated."""
    dataset: Annotated[str, Role.RECIPE] = "digits"
    """Data set: a name of `nasbench list`, or module:Class."""
    dataset_options: Annotated[dict[str, Any], Role.RECIPE] = Field(default_factory=dict)
    """Option of the data set."""
    preset: Annotated[str | None, Role.ORIGIN] = None
    """quick, cifar, paper, or finetune for small sets of photos; by default the data set's."""
    seed: Annotated[int, Role.SEED] = Field(default=0, ge=0, lt=2**32)
    """Seed of weights, order of images, augmentation, and the strategy's own draws."""
    epochs: Annotated[int | None, Role.SEARCH] = Field(default=30, ge=1)
    """Limit of the search; none where nothing is searched."""
    retrain_epochs: Annotated[int, Role.RECIPE] = Field(default=200, ge=1)
    """Epochs of the training of the network that was found."""
    batch_size: Annotated[int, Role.RECIPE] = Field(default=128, ge=1)
    """Images a step, over all devices."""
    image_size: Annotated[int | None, Role.RECIPE] = Field(default=None, ge=4, le=4096)
    """Resize images to this side in pixels; by default the data set's own."""
    train_images: Annotated[int | None, Role.RECIPE] = Field(default=None, ge=1)
    """Use a stratified subset of at most so many training images."""
    data_root: Annotated[Path, Role.PLACE] = Field(default_factory=default_data_root)
    """Folder of the data sets; else NASBENCH_DATA, else ~/.cache/nasbench."""
    download: Annotated[bool, Role.PLACE] = False
    """Fetch a missing data set."""
    skip_broken: Annotated[bool, Role.RECIPE] = False
    """Leave out image files that cannot be read, and count them."""
    workers: Annotated[int | None, Role.PLACE] = Field(default=None, ge=0, le=256)
    """Processes that load image files; by default one for each CPU but one, 8 at most; none for few files."""
    logger: Annotated[Literal["none", "tensorboard", "mlflow", "csv"], Role.PLACE] = "none"
    """Log the run to tensorboard or csv, in the record's folder logs, or to mlflow; or none."""
    weights: Annotated[Path | None, Role.RECIPE] = None
    """Start from these pretrained weights: a file, or default for those that the backbone's library brings."""
    weights_partial: Annotated[bool, Role.RECIPE] = False
    """Take weights although they fill under half of the network's convolutions."""
    retrain: Annotated[Literal["scratch", "finetune"], Role.RECIPE] = Field(
        default_factory=lambda settings: "scratch" if settings.get("weights") is None else "finetune"
    )
    """What the found network's training starts from: scratch, or finetune for --weights; that where there are any."""
    device: Annotated[str, Role.DEVICE] = "auto"
    """auto, cpu, cuda or cuda:N."""
    devices: Annotated[int, Role.DEVICE] = Field(default=1, ge=1, le=1024)
    """Processes on this machine, each with a device; they share out every batch."""
    nodes: Annotated[int, Role.DEVICE] = Field(default=1, ge=1, le=1024)
    """Machines: start the command on each with NODE_RANK (0, 1, …) and MASTER_ADDR set."""
    precision: Annotated[Literal["32", "bf16", "16", "64"], Role.RECIPE] = "32"
    """32, bf16, 16 or 64 (slow: for comparisons that rounding would blur)."""
    deterministic: Annotated[bool, Role.DEVICE] = False
    """Use only algorithms that give the same bits every time; on GPUs slower. On the CPU all do."""
    evaluator: Annotated[str, Role.RECIPE] = "classification"
    """Evaluator: a name of `nasbench list`, or module:Class."""
    evaluator_options: Annotated[dict[str, Any], Role.RECIPE] = Field(default_factory=dict)
    """Option of the evaluator, in search and retraining alike."""
    max_trials: Annotated[int | None, Role.SEARCH] = Field(default=20, ge=1)
    """Networks a multi-trial strategy may train; none where nothing is searched."""
    max_epochs: Annotated[int | None, Role.SEARCH] = Field(default=None, ge=1)
    """Epochs that a search may train, those of all its networks together."""
    max_minutes: Annotated[float | None, Role.SEARCH] = Field(default=None, gt=0, allow_inf_nan=False)
    """Minutes a search may take; it ends after the last epoch or network that fits, another one on another machine."""

    @model_validator(mode="after")
    def _searched_or_given(self) -> RunConfig:
        if (self.strategy is None) == (self.architecture is None):
            raise ValueError("a run has either a strategy or an architecture that is given")
        if self.retrain == "finetune" and self.weights is None:
            raise ValueError("retrain=finetune starts from pretrained weights: give --weights FILE or default")
        if self.max_epochs and self.epochs and self.epochs > self.max_epochs:
            raise ValueError(f"max_epochs={self.max_epochs} does not suffice for one training of epochs={self.epochs}")
        return self

    @property
    def searches(self) -> bool:
        """Whether anything is trained before the network that is tested."""
        return self.epochs is not None

    @property
    def method(self) -> str:
        """How the architecture was come by: the strategy's name, or `fixed`."""
        return self.strategy or GIVEN

    def part(self, *roles: Role) -> dict[str, Any]:
        """The settings of some roles, as plain values."""
        settings = self.model_dump(mode="json")
        return {name: settings[name] for name, field in type(self).model_fields.items() if role(field) in roles}

    def differing(self, other: RunConfig, *roles: Role) -> list[str]:
        """The settings of some roles in which two configurations differ."""
        mine, others = self.part(*roles), other.part(*roles)
        return [name for name in mine if mine[name] != others[name]]

    def digest(self, *roles: Role) -> str:
        """Ten digits that configurations share whose settings of some roles are equal."""
        return digest(self.part(*roles))

    def data_options(self) -> dict[str, Any]:
        """The options of the data set, its own and those that every data set has."""
        common = ("data_root", "image_size", "batch_size", "train_images", "workers", "download", "skip_broken", "seed")
        settings = self.model_dump(mode="json")
        if self.workers is None:
            del settings["workers"]  # the data set knows best
        return {**self.dataset_options, **{name: settings[name] for name in common if name in settings}}


GIVEN = "fixed"  # how users spell an architecture that is given, where the name of a strategy is asked for


def role(field: Any) -> Role:
    """The role of one of the fields of `RunConfig`."""
    return next(mark for mark in field.metadata if isinstance(mark, Role))


def digest(content: Any) -> str:
    """Ten digits of plain content."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:10]


def make_config(settings: Mapping[str, Any]) -> RunConfig:
    """A configuration of exactly these settings. Raises OptionError: an unknown one, or a value that is not allowed."""
    for key in settings:
        if key not in RunConfig.model_fields:
            raise OptionError(unknown("setting", key, RunConfig.model_fields))
    try:
        return RunConfig.model_validate(dict(settings))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise OptionError(f"{where}: {reason.lower()}, not {quoted(first['input'])}" if where else reason) from e


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of `RunConfig` fields. Raises OptionError: the file is missing, not YAML, or not a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise OptionError(f"config {path} cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        raise OptionError(f"config {path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(content, dict):
        raise OptionError(f"config {path} must be a mapping of settings to values")
    return content


def dump_config(config: RunConfig | Mapping[str, Any]) -> str:
    """The configuration, or settings as `read_config` found them, as YAML, in the order of the fields."""
    settings = config.model_dump(mode="json") if isinstance(config, RunConfig) else dict(config)
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
