"""One place for every setting of a run: the defaults, the presets, and how they are put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nasbench.errors import OptionError, unknown

# Soft targets pull without bound, the harder the wider a teacher's last layer: beside MobileNetV2's 1280 channels a
# learning rate of 0.05 diverges without this. In the paper's own network it cuts only the first few dozen steps.
DISTILLATION_CLIP = {"gradient_clip": 5.0}
# The recipe of arXiv 1909.13063; its batches of 128 are the presets', its 300 epochs are asked for.
CHEAP_CONVOLUTIONS = {
    **{"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 2e-4, "milestones": [0.5, 0.75]},
    **DISTILLATION_CLIP,
}
# The paper's recipe (Dong et al., ICASSP 2023, section 3.1), the smaller presets scaled down from it.
# `spaces`, `strategies` and `evaluators` hold options for the class of that name only.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "description": "minutes on two CPU cores; η is raised so that layers do get fixed within a few hundred steps",
        "epochs": 12,
        "retrain_epochs": 15,
        "batch_size": 64,
        "train_images": 2000,
        "spaces": {
            "cheap_resnet": {"depth": 20},
            "mbv2_metapool": {"width": 0.25},
            "menet": {"width": 0.25},
            "mobilenetv3_metapool": {"model": "small", "width": 0.25},
            "shufflenetv2_metapool": {"width": 0.25},
        },
        "strategies": {
            "pmpl": {"eta": 0.1, "rho": 0.2, "warmup_epochs": 3},
            "darts": {"eta": 0.1, "warmup_epochs": 3},
        },
        "evaluators": {
            "classification": {"learning_rate": 0.05},
            "online_distillation": {"learning_rate": 0.05, **DISTILLATION_CLIP},
        },
    },
    "cifar": {
        "description": "an evening on one GPU for 32×32 images",
        "epochs": 30,
        "retrain_epochs": 200,
        "batch_size": 128,
        "strategies": {
            "pmpl": {"eta": 3e-3, "rho": 0.2, "warmup_epochs": 5},
            "darts": {"eta": 3e-3, "warmup_epochs": 5},
        },
        "evaluators": {
            "classification": {"learning_rate": 0.1, "weight_decay": 4e-5},
            "online_distillation": CHEAP_CONVOLUTIONS,
        },
    },
    "paper": {
        "description": "ImageNet as in the paper: 30 search and 200 retraining epochs",
        "epochs": 30,
        "retrain_epochs": 200,
        "batch_size": 128,
        "workers": 8,
        "strategies": {
            "pmpl": {"eta": 3e-4, "rho": 0.2, "meta_fraction": 0.5},
            "darts": {"eta": 3e-4, "meta_fraction": 0.5},
        },
        "evaluators": {
            "classification": {"learning_rate": 0.05, "weight_decay": 4e-5},
            "online_distillation": CHEAP_CONVOLUTIONS,
        },
    },
}
PRESET_OF = {"digits": "quick", "imagenet": "paper"}
DEFAULT_PRESET = "cifar"


class RunConfig(BaseModel):
    """Everything that determines a run; the same configuration gives the same result on the same machine.

    Attributes:
        space: registered name or `module:Class` of the search space.
        space_options: its options (`-p`).
        strategy: registered name or `module:Class` of the strategy.
        strategy_options: its options (`-s`).
        evaluator: registered name or `module:Class` of the evaluator.
        evaluator_options: its options (`-e`), for search and retraining alike.
        dataset: registered name or `module:Class` of the data set.
        data_root: folder of the data sets (else `NASBENCH_DATA`, else `~/.cache/nasbench`).
        download: fetch a missing data set through torchvision.
        image_size: side in pixels to which images are resized; the data set's own where `None`.
        train_images: stratified subset of the training images; all where `None`.
        batch_size: images a step, over all processes.
        workers: processes that load image files.
        preset: which preset filled in what was not given.
        epochs: limit of the search.
        retrain_epochs: epochs of the training from scratch.
        max_trials: networks that a multi-trial strategy may train in the search.
        seed: of weights, order of images, augmentation, and the strategy's own draws.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        devices: processes on each machine, each with a device of its own; they share out every batch.
        nodes: machines that work together on the run.
        precision: `32`, `bf16`, `16` or `64` (slow: for comparisons that rounding would blur).
        weights: file of pretrained weights to start from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    space: str = "mbv2_metapool"
    space_options: dict[str, Any] = Field(default_factory=dict)
    strategy: str = "pmpl"
    strategy_options: dict[str, Any] = Field(default_factory=dict)
    evaluator: str = "classification"
    evaluator_options: dict[str, Any] = Field(default_factory=dict)
    dataset: str = "digits"
    data_root: Path = Field(default_factory=lambda: default_data_root())
    download: bool = False
    image_size: int | None = Field(default=None, ge=4, le=4096)
    train_images: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1)
    workers: int = Field(default=0, ge=0, le=256)
    preset: Literal["quick", "cifar", "paper"] = "quick"
    epochs: int = Field(default=30, ge=1)
    retrain_epochs: int = Field(default=200, ge=1)
    max_trials: int = Field(default=20, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**32)
    device: str = "auto"
    devices: int = Field(default=1, ge=1, le=1024)
    nodes: int = Field(default=1, ge=1, le=1024)
    precision: Literal["32", "bf16", "16", "64"] = "32"
    weights: Path | None = None

    def data_options(self) -> dict[str, Any]:
        """The options of the data set, as the evaluator passes them on."""
        return {
            "data_root": str(self.data_root),
            "image_size": self.image_size,
            "batch_size": self.batch_size,
            "train_images": self.train_images,
            "workers": self.workers,
            "download": self.download,
            "seed": self.seed,
        }


def default_data_root() -> Path:
    """`NASBENCH_DATA`, else `~/.cache/nasbench`."""
    return Path(os.environ.get("NASBENCH_DATA") or Path.home() / ".cache" / "nasbench")


def resolve_config(given: Mapping[str, Any]) -> RunConfig:
    """Fill in the preset under what was given.

    Args:
        given: fields of `RunConfig`; what is absent or `None` comes from the preset (by default the data set's).

    Returns:
        The complete configuration.

    Raises:
        OptionError: unknown field, or a value of the wrong kind or out of range.
    """
    known = list(RunConfig.model_fields)
    for key in given:
        if key not in known:
            raise OptionError(unknown("setting", key, known))
    chosen = {k: v for k, v in given.items() if v is not None}
    for key in ("space_options", "strategy_options", "evaluator_options"):
        if not isinstance(chosen.get(key, {}), Mapping):
            raise OptionError(f"{key} must be a mapping of names to values, not {chosen[key]!r}")
    defaults = RunConfig.model_fields
    name = chosen.get("preset") or PRESET_OF.get(chosen.get("dataset", defaults["dataset"].default), DEFAULT_PRESET)
    if name not in PRESETS:
        raise OptionError(unknown("preset", name, PRESETS))
    preset = PRESETS[name]
    merged = {k: v for k, v in preset.items() if k in known} | chosen | {"preset": name}
    if "train_images" in merged and "train_images" not in chosen and chosen.get("dataset", "digits") == "digits":
        del merged["train_images"]  # the preset's subset is meant for larger sets
    for kind, group in (("space", "spaces"), ("strategy", "strategies"), ("evaluator", "evaluators")):
        which = chosen.get(kind, defaults[kind].default)
        merged[f"{kind}_options"] = {
            **preset.get(group, {}).get(which, {}),
            **chosen.get(f"{kind}_options", {}),
        }
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise OptionError(f"{where}: {first['msg'].lower()}, not {first['input']!r}") from e


def read_config(path: Path) -> dict[str, Any]:
    """Read a YAML file of `RunConfig` fields.

    Raises:
        OptionError: the file is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise OptionError(f"config {path} cannot be read: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise OptionError(f"config {path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(content, dict):
        raise OptionError(f"config {path} must be a mapping of settings to values")
    return content


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML, in the order of the fields."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
