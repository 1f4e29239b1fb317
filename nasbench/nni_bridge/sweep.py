"""Running a sweep, or one run, as an NNI experiment: each run that is left to do as a trial, and what became of it."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nasbench import machine
from nasbench.config import RunConfig, digest
from nasbench.errors import OptionError, RecordError, RunFailed
from nasbench.files import write_atomic
from nasbench.nni_bridge import portal
from nasbench.nni_bridge.experiment import ENDS, STDERR, Allocation, Experiment, Say, Trial, check_algorithms, tail
from nasbench.nni_bridge.machines import Machines
from nasbench.nni_bridge.portal import LOOPBACK, NNI_FOLDER, check_host, warn_if_exposed
from nasbench.nni_bridge.trial import Specification
from nasbench.record import CONFIG, Record
from nasbench.signals import terminable
from nasbench.studies.plan import Result, check, plan, write_results
from nasbench.studies.study import Study

MANAGER = "manager.json"
LEFTOVER_SECONDS = 10.0


def prepare_sweep(study: Study, machines: Machines | None = None) -> Allocation:
    """Check every run of a study without training, and allocate the machine; NasbenchError names what is wrong."""
    samples = study.samples()
    configs = [run.config for run in samples]
    here = machines is None or machines.service.platform == "local"
    if machines is None or here:
        import torch

        gpus = torch.cuda.device_count() if any(config.device != "cpu" for config in configs) else 0
        allocation = allocate(configs, study.trials if study.search else len(samples), study.concurrency, gpus)
    else:
        allocation = Allocation(machines.concurrency(study.concurrency, configs), threads=0, gpus=0)
    check_algorithms(study)
    check(samples, here)
    return allocation


def allocate(
    configs: Iterable[RunConfig], runs: int, concurrency: int | None, gpus: int, cores: int | None = None
) -> Allocation:
    """Allocate the `cores` (by default all of this process's) or `gpus` of this machine to the runs of a sweep.

    `runs` counts those that are finished, too: when the sweep goes on after an interruption, each run gets the threads
    that the others had. OptionError: a run asks for a GPU by its number, for too many, or for several machines.
    """
    if cores is None:
        cores = machine.cpus()
    configs = list(configs)
    if any(config.nodes > 1 for config in configs):
        raise OptionError("nodes: a run of a sweep has one machine; start a run on several with `nasbench run`")
    devices = {config.device for config in configs}
    on_gpu = gpus > 0 and devices != {"cpu"}
    for device in sorted(devices) if on_gpu else ():
        if device.startswith("cuda:"):
            raise OptionError(f"device {device}: a sweep gives each run its GPU; use auto, cuda or cpu")
    each = max(config.devices for config in configs)
    if on_gpu and each > gpus:
        raise OptionError(f"devices {each}: this machine has {gpus} GPU(s)")
    most = min(concurrency or gpus, gpus // each) if on_gpu else concurrency or max(1, cores // 2)
    most = min(most, runs)
    threads = max(1, cores // most)
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        threads = min(threads, int(given))
    # NNI's scheduler never gives away all GPUs of a machine at once; there the runs take turns without it.
    return Allocation(most, threads, each if on_gpu and each < gpus else 0)


def run_in_portal(config: RunConfig, out: Path, say: Say, port: int | None = None, host: str = LOOPBACK) -> Record:
    """Make one run as the only trial of an NNI experiment; `out` and errors as `nasbench.pipeline.run`, RunFailed."""
    check_host(host)
    warn_if_exposed(host, say)
    if config.nodes > 1:
        raise OptionError("nodes: the portal shows runs on one machine")
    settings = config.model_dump(mode="json")
    shown = {"strategy": config.method, "dataset": config.dataset, "seed": config.seed}
    shown |= {f"strategy_options.{name}": value for name, value in config.strategy_options.items()}
    name = f"{config.space.rpartition(':')[2]}, {config.method}, seed {config.seed}"
    study = Study(name=name[:80], base=settings, grid={key: [value] for key, value in shown.items()})
    is_record = (out / CONFIG).is_file()
    specification = Specification(study.model_dump(mode="json"), [shown], str(out), resume=False)
    # A run that has the machine to itself uses it as it would without a portal.
    alone = Allocation(concurrency=1, threads=0, gpus=0)
    experiment = Experiment(study, alone, specification, (out.parent if is_record else out) / NNI_FOLDER, 1)
    last: list[Trial] = []
    told: Iterator[str] = iter(())
    with terminable():
        try:
            say(f"portal: {experiment.start(port, host)}")
            for trials in experiment.polls():
                if trials and not last:
                    told = tail(experiment.trial_folder(trials[0].id) / STDERR)
                last = trials or last
                _say_lines(next(told, ""), say)
        finally:
            experiment.stop()
            _say_lines(next(told, ""), say)
    (trial,) = last
    if trial.record is None or trial.state != "finished":
        if trial.mendable:
            experiment.forget()
            raise OptionError(trial.error or "the run failed")
        raise RunFailed(trial.error or f"the run was {trial.state}")
    return Record(trial.record)


def run_sweep(
    study: Study,
    allocation: Allocation,  # see `prepare_sweep`
    out: Path,  # folder that receives the records
    say: Say,  # told the portal's address, and what becomes of each run
    port: int | None = None,  # of the portal; the first free one from 8080 on where `None`
    host: str = LOOPBACK,  # on which the portal listens
    machines: Machines | None = None,  # where the runs take place, if not here
) -> list[Result]:
    """Make the runs that a study lacks, each as an NNI trial; returns what became of every run, in the study's order.

    RecordError: the folder has another sweep, or cannot be written. NasbenchError: NNI did not start, or died.
    """
    with _locked(out):
        stop_leftover(out, say)
        planned = plan(study, out)
        todo = {digest(run.parameters): run for run in planned.missing}
        results = {digest(r.parameters): r for r in planned.results}
        count = len(todo) + planned.proposals
        parameters = [dict(run.parameters) for run in planned.missing]
        runs, first = ([], parameters) if study.search else (parameters, [])
        specification = Specification(study.model_dump(mode="json"), runs, str(out), resume=True)
        folder = out / NNI_FOLDER
        try:
            if count:
                experiment = Experiment(study, allocation, specification, folder, count, planned.known, first, machines)
                started: set[str] = set()
                ended: set[str] = set()
                with _running(experiment, out, say, port, host):
                    for trial in (trial for trials in experiment.polls() for trial in trials):
                        label, key = study.label(trial.parameters), digest(trial.parameters)
                        if trial.state == "running" and trial.id not in started:
                            started.add(trial.id)
                            say(f"started   {label}")
                        if trial.state in ENDS and trial.id not in ended:
                            ended.add(trial.id)
                            how = "run again" if key in todo and todo[key].interrupted is not None else "run"
                            facts = (trial.error, trial.record, trial.seconds)
                            results[key] = Result(label, trial.parameters, trial.state, how, *facts)
                            say(f"{_line(results[key])}  [{len(ended)}/{count}]")
                            write_results(out, study, list(results.values()))
        finally:
            for key, run in todo.items():
                results.setdefault(key, Result(run.label, run.parameters, "not finished", "run"))
            ordered = {digest(r.parameters): results[digest(r.parameters)] for r in study.runs()} | results
            write_results(out, study, list(ordered.values()))
    return list(ordered.values())


def stop_leftover(out: Path, say: Say) -> None:
    """Stop what an earlier sweep in a folder has left running when it was killed, and say so."""
    try:
        noted = json.loads((out / NNI_FOLDER / MANAGER).read_text(encoding="utf-8"))
        experiment, leader = str(noted["id"]), noted.get("pid")
    except (OSError, ValueError, KeyError):
        return
    group = portal.group_of(experiment, leader)
    if group is not None:
        say(f"stopping what an earlier sweep left running here when it was killed (NNI experiment {experiment})")
        portal.stop_group(group, LEFTOVER_SECONDS)


@contextmanager
def _running(experiment: Experiment, out: Path, say: Say, port: int | None, host: str) -> Iterator[None]:
    """Start an experiment, noted in the folder in case this process is killed, and stop it at the end."""
    note = out / NNI_FOLDER / MANAGER
    write_atomic(note, json.dumps({"id": experiment.id}) + "\n")
    with terminable():
        try:
            address = experiment.start(port, host)
            write_atomic(note, json.dumps({"id": experiment.id, **experiment.manager}) + "\n")
            say(f"portal: {address}")
            yield
        finally:
            say("stopping NNI and its portal")
            experiment.stop()
            note.unlink(missing_ok=True)


def _locked(out: Path) -> AbstractContextManager[Any]:
    try:
        (out / NNI_FOLDER).mkdir(parents=True, exist_ok=True)
        return FileLock(out / NNI_FOLDER / "lock", timeout=0).acquire()
    except Timeout as e:
        raise RecordError(f"another sweep is running in {out}") from e
    except OSError as e:
        raise RecordError(f"no sweep can be written in {out}: {e.strerror}; choose another folder with --out") from e


def _line(result: Result) -> str:
    if result.state == "failed":
        return f"failed    {result.label}: {result.error}"
    took = "" if result.seconds is None else f" after {result.seconds:.0f} s"
    if result.record is None:
        return f"{result.state:<9} {result.label}{took}"
    top1 = Record(result.record).result().top1
    return f"finished  {result.label}{took}: top-1 {100 * top1:.2f} %"


def _say_lines(text: str, say: Say) -> None:
    for line in text.splitlines():
        if not line.startswith("error: "):  # the outcome tells it, too
            say(line)
