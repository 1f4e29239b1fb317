"""The whole path of a run: search → derive → retrain → test, each stage once and resumable, alike on every rank."""

import contextlib
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nni.nas.strategy  # (before nni.nas.oneshot, which imports it in a circle)
import torch
from nni.nas.oneshot.pytorch.strategy import OneShotStrategy
from nni.nas.space import RawFormatModelSpace, SimplifiedModelSpace
from nni.nas.strategy.middleware import Chain, Filter
from pytorch_lightning import seed_everything

from nasbench import record as records
from nasbench import registry
from nasbench.architecture import Architecture, choices, resolve
from nasbench.config import RunConfig
from nasbench.contracts import Drawing, Evaluator, SearchWishes, Wishing
from nasbench.derive import within_limits
from nasbench.disk import as_full, demand, needed
from nasbench.distributed import Processes, broadcast, is_first, node_rank, world_size
from nasbench.errors import LimitError, NasbenchError, OptionError
from nasbench.facts import DataFacts
from nasbench.integrity import repair
from nasbench.limits.budget import budget_of
from nasbench.loggers import Logs, check
from nasbench.machine import deterministic
from nasbench.memory import LESS, as_exhausted, freed_memory_kept, of_training
from nasbench.networks import build_space, derived, put
from nasbench.presets import complete
from nasbench.progress import Display
from nasbench.quiet import quiet_libraries
from nasbench.record import Record, continues
from nasbench.resume import Resumption
from nasbench.signals import terminable
from nasbench.stages import RecordIO, Search, StageIO
from nasbench.trials import Engine, TimeLimit
from nasbench.watch import Report
from nasbench.weights import DEFAULT, Weights, cautions, fill, published, read

NO_WISHES = SearchWishes()


def build_evaluator(config: RunConfig, stage: str, wishes: SearchWishes = NO_WISHES, **context: Any) -> Evaluator:
    """Build the evaluator of a configuration for a stage, `search` or `retrain`, with its data.

    The strategy's `wishes` go over the configuration; `context` is passed on where the evaluator takes it. Raises
    OptionError: unknown evaluator or option, or a value out of range. DataError: the data set is missing or damaged.
    """
    accepted = registry.parameters(registry.load("evaluator", config.evaluator))
    if world_size(config) > 1 and not {"devices", "nodes"} <= accepted.keys():
        raise OptionError(f"evaluator {config.evaluator!r} has no options devices and nodes: it runs in one process")
    options, data = dict(config.evaluator_options), config.data_options()
    if config.weights == DEFAULT and (known := published(config)):
        data["normalisation"] = (known.mean, known.std)
    for kind, part, option, wish, taken in (
        ("evaluator", config.evaluator, "learning_rate", wishes.learning_rate, options),
        ("dataset", config.dataset, "meta_fraction", wishes.meta_fraction, data),
    ):
        if wish is not None:
            if option not in registry.parameters(registry.load(kind, part)):
                raise OptionError(f"strategy {config.strategy!r} sets {option}, which {kind} {part!r} does not have")
            taken[option] = wish
    searching = wishes.epochs or config.epochs or 1
    if stage == "search" and config.max_epochs and searching > config.max_epochs:
        raise OptionError(f"max_epochs={config.max_epochs} does not suffice for one training of epochs={searching}")
    return registry.build(
        "evaluator",
        config.evaluator,
        options,
        dataset=config.dataset,
        data=data,
        stage=stage,
        epochs=searching if stage == "search" else config.retrain_epochs,
        device=config.device,
        devices=config.devices,
        nodes=config.nodes,
        precision=config.precision,
        **context,
    )


def prepare(config: RunConfig, weights: Weights | None = None) -> Search:
    """Build everything that the search of a complete configuration needs: mistakes show before a record is made.

    It starts from `weights`, as the first process has read them, and reads them where `None`. Raises NasbenchError:
    whatever is wrong with the configuration or the data.
    """
    with quiet_libraries():
        if is_first():
            check(config.logger)
        retrain = build_evaluator(config, "retrain")  # its options are checked now, not after the search
        data = retrain.datamodule
        strategy = evaluator = None
        if config.strategy:
            strategy = registry.build("strategy", config.strategy, config.strategy_options, seed=config.seed)
            wishes = strategy.wishes() if isinstance(strategy, Wishing) else NO_WISHES
            evaluator = build_evaluator(config, "search", wishes)
        seed_everything(config.seed, workers=True, verbose=False)
        space = build_space(config, data.num_classes, data.image_size)
        if not choices(space):
            raise OptionError(f"space {config.space!r} has no choices to search")
        registry.declared(retrain, "check_space", lambda space: None)(space)
        notes = [data.summary(), *registry.declared(space, "notes", list)()]
        weights, kept = weights or read(config), {}
        if weights is not None:
            fit = fill(space, weights, config.weights_partial)
            kept = {"name": weights.name, "sha256": weights.sha256, **asdict(fit)}
            notes += [f"weights {weights.name}: {fit}", *cautions(config, data)]
        budget = None
        if config.limits and is_first():
            if isinstance(strategy, OneShotStrategy) and not isinstance(strategy, nni.nas.strategy.DARTS):
                raise OptionError(f"strategy {config.strategy!r} has no π to choose by below a limit")
            budget = budget_of(config, data.num_classes, data.image_size)
            notes += budget.notes()
        size = data.image_size
        if strategy is None:
            architecture = resolve(space, config.architecture)
            return Search(space, size, notes, kept, architecture, budget=budget)
        one_shot = isinstance(strategy, OneShotStrategy)
        executable = (RawFormatModelSpace if one_shot else SimplifiedModelSpace).from_model(space, evaluator)
        engine = Engine(config, lambda: registry.declared(evaluator, "epochs", config.epochs or 1))
        search = Search(space, size, notes, kept, None, strategy, evaluator, engine, budget)
        try:
            if isinstance(strategy, Drawing):
                strategy.allows = search.allows
            limited = config.limits and not one_shot and not isinstance(strategy, Drawing)
            whole = Chain(strategy, Filter(lambda model: search.allows(model.sample))) if limited else strategy
            whole.initialize(executable, engine)
        except NasbenchError:
            raise
        except Exception as e:
            reason = registry.describe_exception(e)
            raise OptionError(f"strategy {config.strategy!r} cannot search space {config.space!r}: {reason}") from e
    return search


@freed_memory_kept()
def run_stages(
    config: RunConfig,  # complete
    io: StageIO,  # of this process
    search: Search | None,  # see `prepare`; `None` where the first process knows the architecture already
    checkpoints: str,  # folder of the checkpoints, on the first process's machine
    weights: Weights | None,  # that it starts from, as the first process has read them
    deadline: float | None = None,  # see `Resumption`
) -> None:
    """Everything that happens in a run, the same in each of its processes. NasbenchError: the search found nothing."""
    if search is not None:
        resumption = Resumption(Path(checkpoints), "search", deadline)
        search.budget = broadcast(search.budget)
        wanted = _search(config, io, search, resumption)
        if is_first():
            settled = within_limits(search.strategy, search.budget, wanted)
            io.searched(config, search, settled, resumption.seconds)
        resumption.clear()
    resumption, beside = (Resumption(Path(checkpoints), stage, deadline) for stage in ("retrain", "test"))
    seed_everything(config.seed, workers=True, verbose=False)
    evaluator = build_evaluator(config, "retrain", checkpoints=checkpoints)
    facts = evaluator.datamodule.description()
    chosen, trained = broadcast((io.architecture(), io.network()))
    model = None if trained is None else _fresh(config, chosen, facts)
    if model is not None:
        put(trained, model)
        restore = registry.declared(evaluator, "restore", lambda model, beside: False)
        model = model if restore(model, beside.kept()) else None  # and is trained again
    if model is None:
        model = _fresh(config, chosen, facts)
        io.retraining(facts)
        if weights is not None and config.retrain == "finetune":
            fill(model, weights, partial=True)  # what does not fit was said before the search
        evaluator.observe(io.watch("retrain"))
        if config.nodes == 1 and (found := resumption.follow(evaluator)):  # other machines do not see this one's files
            evaluator.fit_kwargs["ckpt_path"] = found
        evaluator.evaluate(model)
        if others := registry.declared(evaluator, "beside", dict)():
            beside.keep(others)
        io.trained(model, resumption.seconds, facts, registry.declared(evaluator, "numbers", {}))
    start = time.perf_counter()
    io.tested(config, model, evaluator.test(), time.perf_counter() - start)
    resumption.clear()
    beside.clear()


def memory_of(config: RunConfig, search: Search) -> tuple[int, int]:
    """Bytes that a run's processes on this machine take at their peak by `of_training`, and bytes to be had.

    Both are 0 where the space cannot be asked before the search has made something of it (NNI's RandomOneShot).
    """
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    try:
        each, free = of_training(search.space, search.image_size, config.batch_size // world_size(config), on_gpu)
    except Exception:
        return 0, 0
    return each * (1 if on_gpu else config.devices), free


def run(
    config: RunConfig,
    # Folder that receives a new record; or the record of an interrupted run of the same configuration, which goes on
    # after its last whole epoch.
    out: Path,
    display: Display | None = None,  # where progress is shown
    report: Report | None = None,  # told the measures of every epoch, see `nasbench.watch.Watcher`
    stop_after: float | None = None,  # seconds after which it is to be interrupted, at the end of an epoch before that
) -> Record:
    """Search, derive, retrain and test; returns the finished record.

    Raises KeyboardInterrupt: the run was interrupted, also by SIGTERM; it can go on. NasbenchError: before a record is
    made, whatever is wrong with the configuration or the data.
    """
    display = display or Display()
    deadline = None if stop_after is None else time.perf_counter() + stop_after
    if node_rank(config) > 0:
        raise OptionError("this machine's NODE_RANK is not 0: the record is written on the one where it is")
    config = complete(config)
    if (out / records.CONFIG).is_file():
        record = Record(out)
        continues(record, config)
        with record.owned():
            for line in repair(record):
                display.say(line)
        weights = None if record.finished("retrain") else read(config)
        search = None if record.finished("search") else prepare(config, weights)
    else:
        weights = read(config)
        search = prepare(config, weights)
        demand(out, needed(search.space))
        record = Record.create(out, config)
    quiet = quiet_libraries(record.path / records.LOG, display.say if display.verbose else None)
    with record.owned(), quiet, display, terminable(), deterministic(config.deterministic):
        logs = Logs(config, record, display.say, report)
        record.set_status(state="running", error=None)
        for line in (*search.notes, *_shortage(config, search)) if search else ():
            display.say(line)
        try:
            if not record.finished("test"):
                with Processes(config, lambda reason: record.set_status(state="failed", error=reason)):
                    checkpoints, settings = str(record.path / records.CHECKPOINTS), config.model_dump(mode="json")
                    stages = {"search": search is not None, "checkpoints": checkpoints, "weights": weights}
                    broadcast({"config": settings, **stages})
                    run_stages(config, RecordIO(record, display, logs.report), search, checkpoints, weights, deadline)
            record.set_status(state="finished")
        except (KeyboardInterrupt, SystemExit) as e:  # Lightning answers Ctrl-C with SystemExit
            record.set_status(state="interrupted")
            display.say(f"interrupted; `nasbench resume {record.path}` goes on")
            raise KeyboardInterrupt from e
        except BaseException as e:
            full = as_full(e, record.path) or as_exhausted(e)
            reason = str(full or e) if full or isinstance(e, NasbenchError) else registry.describe_exception(e)
            with contextlib.suppress(OSError):  # a record that nobody writes is interrupted
                record.set_status(state="failed", error=reason)
            if full:
                raise full from e
            raise
        finally:
            logs.end()
    return record


def _shortage(config: RunConfig, search: Search) -> list[str]:
    if not isinstance(search.strategy, OneShotStrategy):  # one network, and not all of them at once
        return []
    needed, free = memory_of(config, search)
    if not free or needed <= free:
        return []
    return [
        f"warning: this takes about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} are to be had: {LESS}"
    ]


def _fresh(config: RunConfig, architecture: Architecture, facts: Mapping[str, Any]) -> Any:
    seed_everything(config.seed, workers=True, verbose=False)
    return derived(config, architecture, DataFacts.model_validate(facts))


def _search(config: RunConfig, io: StageIO, search: Search, resumption: Resumption) -> Architecture:
    if search.architecture is not None:
        return search.architecture
    assert search.strategy is not None
    assert search.evaluator is not None
    assert search.engine is not None
    watching = io.watch("search")
    search.evaluator.observe(watching)
    one_shot = isinstance(search.strategy, OneShotStrategy)
    if not one_shot:
        if known := search.engine.follow(resumption, watching):
            io.say(f"search goes on: {known} network(s) are trained already")
    elif (
        config.nodes == 1
        and registry.declared(search.strategy, "resumable", False)
        and (found := resumption.follow(search.evaluator))
    ):
        search.strategy.load_state_dict({"ckpt_path": found})
    clock = TimeLimit(config.max_minutes, resumption) if one_shot and config.max_minutes else None
    search.evaluator.observe([clock] if clock else [])
    seed_everything(config.seed, workers=True, verbose=False)
    search.strategy.run()
    search.engine.wait_models()
    if ended := (clock or search.engine).ended:
        io.say(f"the search trained {ended}")
    models = list(search.strategy.list_models(limit=1))
    if not models and config.limits:
        raise LimitError(f"strategy {config.strategy!r} found no network that keeps the limits: raise them")
    if not models:
        raise OptionError(f"strategy {config.strategy!r} found no architecture: every network that it tried failed")
    return dict(models[0].sample)
