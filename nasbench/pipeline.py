"""The whole path of a run: search → derive → retrain → test, each stage once and resumable."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nni.nas.strategy  # before nni.nas.oneshot, which imports it in a circle
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import ModelSpace
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.space import RawFormatModelSpace, SimplifiedModelSpace
from pytorch_lightning import seed_everything
from safetensors.torch import load_file, save_file
from torch import nn

from nasbench import registry
from nasbench.architecture import Architecture, choices, instantiate, resolve, validate
from nasbench.config import RunConfig
from nasbench.distributed import Processes, node_rank, share, world_size
from nasbench.errors import NasbenchError, OptionError, RecordError
from nasbench.memory import peak_bytes, reset_peak
from nasbench.profile import Profile, latency, profile
from nasbench.progress import Display
from nasbench.quiet import logged, quiet_libraries
from nasbench.record import Record, same_run
from nasbench.watch import Report, Watcher

# What other people's spaces call the number of classes and the side of the image.
CLASSES_NAMES = ("num_classes", "num_labels", "n_classes")
SIZE_NAMES = ("image_size", "input_size", "img_size")
PROFILE_DEFAULTS = (1000, 224)  # classes and image size of a profile without a data set


@dataclass
class Search:
    """A search that is ready to start: built and checked before anything is written."""

    strategy: Any
    evaluator: Any
    engine: SequentialExecutionEngine


def build_space(config: RunConfig, num_classes: int, image_size: int) -> Any:
    """Build the search space of a configuration for a data set.

    Args:
        config: names the space and its options.
        num_classes: passed on under the name that the space has for it.
        image_size: likewise.

    Raises:
        OptionError: unknown space or option, or a value out of range.
    """
    context = dict.fromkeys(CLASSES_NAMES, num_classes) | dict.fromkeys(SIZE_NAMES, image_size)
    space = registry.build("space", config.space, config.space_options, **context)
    if not isinstance(space, nn.Module):
        raise OptionError(f"space {config.space!r} is not an nn.Module")
    return space


def with_named_options(config: RunConfig, choice: Any) -> RunConfig:
    """Complete a configuration with what a named architecture needs of its space.

    Architectures that differ in more than their choices (channels, depth) have options of the space beside them. A
    space with such architectures has a class method `named_options`: name → options, empty for other names. They go
    under the options that were given.

    Args:
        config: names the space and its options.
        choice: the architecture, as a user wrote it.

    Raises:
        OptionError: unknown space.
    """
    named_options = getattr(registry.load("space", config.space), "named_options", None)
    if named_options is None or not isinstance(choice, str):
        return config
    return config.model_copy(update={"space_options": {**named_options(choice), **config.space_options}})


def build_evaluator(config: RunConfig, stage: str, **context: Any) -> Any:
    """Build the evaluator of a configuration for a stage, with its data.

    Raises:
        OptionError: unknown evaluator or option, or a value out of range.
        DataError: the data set is missing or damaged.
    """
    accepted = registry.parameters(registry.load("evaluator", config.evaluator))
    if world_size(config) > 1 and not {"devices", "nodes"} <= accepted.keys():
        raise OptionError(f"evaluator {config.evaluator!r} has no options devices and nodes: it runs in one process")
    return registry.build(
        "evaluator",
        config.evaluator,
        config.evaluator_options,
        dataset=config.dataset,
        data=config.data_options(),
        stage=stage,
        epochs=config.epochs if stage == "search" else config.retrain_epochs,
        device=config.device,
        devices=config.devices,
        nodes=config.nodes,
        precision=config.precision,
        **context,
    )


def prepare(config: RunConfig) -> Search:
    """Build everything that the search of a configuration needs, so that mistakes show before a record is made.

    Raises:
        NasbenchError: whatever is wrong with the configuration or the data.
    """
    with quiet_libraries():
        evaluator = build_evaluator(config, "search")
        retrain = build_evaluator(config, "retrain")  # its options are checked now, not after the search
        data = evaluator.datamodule
        seed_everything(config.seed, workers=True, verbose=False)
        space = build_space(config, data.num_classes, data.image_size)
        if not isinstance(space, ModelSpace):
            raise OptionError(f"space {config.space!r} is not an NNI ModelSpace")
        if not choices(space):
            raise OptionError(f"space {config.space!r} has no choices to search")
        if hasattr(retrain, "check_space"):
            retrain.check_space(space)
        strategy = _build_strategy(config, space)
        if config.weights is not None:
            load_weights(space, config.weights)
        one_shot = isinstance(strategy, OneShotStrategy)
        executable = (RawFormatModelSpace if one_shot else SimplifiedModelSpace).from_model(space, evaluator)
        engine = SequentialExecutionEngine(max_model_count=None if one_shot else config.max_trials)
        try:
            strategy.initialize(executable, engine)
        except NasbenchError:
            raise
        except Exception as e:
            reason = registry.blame(e)
            raise OptionError(f"strategy {config.strategy!r} cannot search space {config.space!r}: {reason}") from e
    return Search(strategy, evaluator, engine)


def run(config: RunConfig, out: Path, display: Display | None = None, report: Report | None = None) -> Record:
    """Search, derive, retrain and test.

    Args:
        config: what to run.
        out: folder that receives a new record; or the record of an interrupted run of the same configuration, which
            goes on after its last finished stage.
        display: where progress is shown.
        report: told the measures of every epoch, see `nasbench.watch.Watcher`.

    Returns:
        The finished record.

    Raises:
        NasbenchError: before a record is made, whatever is wrong with the configuration or the data.
    """
    display = display or Display()
    if node_rank(config) > 0:
        raise OptionError("this machine's NODE_RANK is not 0: the record is written on the one where it is")
    if config.strategy == "fixed":
        config = with_named_options(config, config.strategy_options.get("choice"))
    resumed = (out / "config.yaml").is_file()
    if resumed:
        record = Record(out)
        differences = same_run(record.config(), config)
        if differences:
            raise RecordError(f"{out} is a record of another configuration: {', '.join(differences)} differ(s)")
        search = None if record.finished("search") else prepare(config)
    else:
        search = prepare(config)
        record = Record.create(out, config)
    with record.owned(), logged(record), display:
        record.set_status(state="running", error=None)
        try:
            if not record.finished("test"):
                with Processes(config, lambda reason: record.set_status(state="failed", error=reason)):
                    checkpoints, settings = str(record.path / "checkpoints"), config.model_dump(mode="json")
                    share({"config": settings, "search": search is not None, "checkpoints": checkpoints})
                    if search is not None:
                        _search(config, search, record, display, report)
                    _retrain_and_test(config, record, display, report, checkpoints)
        except (KeyboardInterrupt, SystemExit) as e:  # Lightning answers Ctrl-C with SystemExit
            record.set_status(state="interrupted")
            display.say(f"interrupted; `nasbench run --config {record.path}/config.yaml --out {record.path}` goes on")
            raise KeyboardInterrupt from e
        except BaseException as e:
            record.set_status(state="failed", error=registry.blame(e))
            raise
        record.set_status(state="finished")
    return record


def profile_architecture(
    config: RunConfig, choice: str | None, use_dataset: bool, timed: bool = False
) -> tuple[Architecture, Profile]:
    """Count parameters and multiply-adds of one architecture.

    Args:
        config: names the space, its options, the data set and the image size.
        choice: see `nasbench.architecture.resolve`.
        use_dataset: take the number of classes and the image size from the data set; else the space's
            `profile_defaults`, or 1000 and 224 where it has none.
        timed: measure its latency on the CPU too.

    Raises:
        NasbenchError: the space, its options or the architecture are wrong, or the data set is missing.
    """
    with quiet_libraries():
        classes, size = getattr(registry.load("space", config.space), "profile_defaults", PROFILE_DEFAULTS)
        size = config.image_size or size
        if use_dataset:
            data = registry.build("dataset", config.dataset, config.data_options())
            data.setup()
            classes, size = data.num_classes, data.image_size
        config = with_named_options(config, choice)
        architecture = resolve(build_space(config, classes, size), choice)
        model = instantiate(lambda: build_space(config, classes, size), architecture)
        counts = profile(model, size)
        return architecture, replace(counts, latency=latency(model, size)) if timed else counts


def load_model(path: str | Path) -> nn.Module:
    """The derived, trained network of a record.

    Args:
        path: the record's folder.

    Returns:
        A plain `torch.nn.Module` in evaluation mode, (N, 3, S, S) → (N, classes); images are to be normalised with
        the mean and standard deviation of the record's `data.json`.

    Raises:
        RecordError: the record has no trained network, or it is damaged.
    """
    record = Record(Path(path))
    model = derived(record.config(), record.read_json("architecture.json"), record.read_json("data.json"))
    try:
        model.load_state_dict(load_file(record.path / "model.safetensors"))
    except FileNotFoundError as e:
        raise RecordError(f"{path} has no model.safetensors: its training has not finished") from e
    except Exception as e:
        raise RecordError(f"{path}/model.safetensors does not fit the record: {' '.join(str(e).split())[:200]}") from e
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> int:
    """Copy every tensor of a weight file whose name and shape fit.

    Args:
        model: the network or space.
        path: `.safetensors`, or a torch file of a state dict (loaded without running code).

    Returns:
        How many tensors were copied.

    Raises:
        OptionError: the file cannot be read, or nothing in it fits.
    """
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as e:
        raise OptionError(f"weights {path} cannot be read: {' '.join(str(e).split())[:200]}") from e
    if not isinstance(state, Mapping):
        raise OptionError(f"weights {path} hold no state dict")
    state = state.get("state_dict", state)
    own = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and getattr(v, "shape", None) == own[k].shape}
    if not fitting:
        raise OptionError(f"weights {path}: none of its {len(state)} tensors fits the network")
    model.load_state_dict(fitting, strict=False)
    return len(fitting)


def _search(config: RunConfig, search: Search, record: Record, display: Display, report: Report | None) -> None:
    reset_peak()
    start = time.perf_counter()
    strategy, evaluator = search.strategy, search.evaluator
    evaluator.observe([Watcher("search", record, display, report)])
    seed_everything(config.seed, workers=True, verbose=False)
    strategy.run()
    search.engine.wait_models()
    models = list(strategy.list_models(limit=1))
    if not models:
        raise OptionError(f"strategy {config.strategy!r} found no architecture; see {record.path / 'log.txt'}")
    architecture = dict(models[0].sample)
    record.write_json("decisions.json", _decisions(config, strategy, architecture))
    record.write_json("architecture.json", architecture)
    record.finish_stage(
        "search",
        seconds=time.perf_counter() - start,
        peak_memory_bytes=peak_bytes(),
        **evaluator.datamodule.description(),
    )


def _decisions(config: RunConfig, strategy: Any, architecture: Architecture) -> dict[str, Any]:
    known = dict(getattr(strategy, "decisions", {}))
    pi: dict[str, Any] = {}
    if isinstance(strategy, OneShotStrategy) and not known:
        with contextlib.suppress(Exception):  # not every strategy of NNI's has probabilities
            pi = strategy.oneshot_module.export_probs()
    by = "limit" if pi else config.strategy
    return {
        label: known.get(label)
        or {
            "step": None,
            "pi": {str(k): v for k, v in pi[label].items()} if label in pi else None,
            "by": by,
            "train_loss": None,
        }
        for label in architecture
    }


def derived(config: RunConfig, architecture: Architecture, data: Mapping[str, Any]) -> nn.Module:
    """The network of an architecture, with fresh weights.

    Args:
        config: names the space and its options.
        architecture: label → candidate.
        data: what a data set's `description` tells.

    Raises:
        ArchitectureError: it does not fit the space.
    """
    classes, size = len(data["class_names"]), data["image_size"]
    space = build_space(config, classes, size)
    architecture = validate(space, architecture)
    return instantiate(lambda: build_space(config, classes, size), architecture)


def _retrain_and_test(
    config: RunConfig, record: Record, display: Display, report: Report | None, checkpoints: str
) -> None:
    reset_peak()
    start = time.perf_counter()
    seed_everything(config.seed, workers=True, verbose=False)
    evaluator = build_evaluator(config, "retrain", checkpoints=checkpoints)
    data = evaluator.datamodule.description()
    record.write_json("data.json", data)
    architecture = share(record.read_json("architecture.json"))
    seed_everything(config.seed, workers=True, verbose=False)
    model = derived(config, architecture, data)
    if config.weights is not None:
        load_weights(model, config.weights)
    cost = profile(model, data["image_size"])
    evaluator.observe([Watcher("retrain", record, display, report)])
    evaluator.evaluate(model)
    retrain_seconds = time.perf_counter() - start
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    save_file(state, record.path / "model.safetensors.tmp")
    (record.path / "model.safetensors.tmp").replace(record.path / "model.safetensors")
    retrain_peak = peak_bytes()
    record.finish_stage("retrain", seconds=retrain_seconds, peak_memory_bytes=retrain_peak, **data)
    reset_peak()
    start = time.perf_counter()
    measured = evaluator.test()
    test_seconds, test_peak = time.perf_counter() - start, peak_bytes()
    search = record.status()["stages"]["search"]
    decisions = record.read_json("decisions.json")
    record.write_json(
        "result.json",
        {
            "top1": measured["top1"],
            "top5": measured["top5"],
            "params": cost.params,
            "madds": cost.madds,
            "search_seconds": search["seconds"],
            "retrain_seconds": retrain_seconds,
            "peak_memory_bytes": max(search["peak_memory_bytes"], retrain_peak, test_peak),
            "fixed_by_threshold": sum(d["by"] == "threshold" for d in decisions.values()),
            **{name: value for name, value in measured.items() if name not in ("top1", "top5", "loss")},
            "architecture": architecture,
            "record": str(record.path),
        },
    )
    record.finish_stage("test", seconds=test_seconds, peak_memory_bytes=test_peak, loss=measured["loss"])


def _build_strategy(config: RunConfig, space: Any) -> Any:
    options = dict(config.strategy_options)
    if config.strategy == "fixed":
        options["choice"] = resolve(space, options.get("choice"))
    factory = registry.load("strategy", config.strategy)
    context = {"seed": config.seed} if "seed" in registry.parameters(factory) else {}
    strategy = registry.build("strategy", config.strategy, options, **context)
    if not isinstance(strategy, nni.nas.strategy.Strategy):
        raise OptionError(f"strategy {config.strategy!r} is not an NNI Strategy")
    return strategy
