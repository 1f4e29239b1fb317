"""Running a sweep: each run that is left to do as an NNI trial, and what became of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nasbench.errors import RecordError
from nasbench.files import write_atomic
from nasbench.nni_bridge import portal
from nasbench.nni_bridge.address import LOOPBACK
from nasbench.nni_bridge.allocation import Allocation, allocate, gpu_count
from nasbench.nni_bridge.experiment import Experiment, Say, check_algorithms
from nasbench.nni_bridge.machines import Machines
from nasbench.nni_bridge.trial import Specification
from nasbench.record import Record
from nasbench.signals import terminable
from nasbench.studies.plan import Plan, Result, check, plan, write_results
from nasbench.studies.study import Study

MANAGER = "manager.json"
LEFTOVER_SECONDS = 10.0


def prepare_sweep(study: Study, machines: Machines | None = None) -> Allocation:
    """Check every run of a study as far as can be done without training, and allocate the machine.

    Raises NasbenchError: a setting is wrong or data are missing; the message names the run.
    """
    samples = study.samples()
    configs = [run.config for run in samples]
    here = machines is None or machines.platform == "local"
    if machines is None or here:
        gpus = gpu_count() if any(config.device != "cpu" for config in configs) else 0
        allocation = allocate(configs, study.trials if study.search else len(samples), study.concurrency, gpus)
    else:
        allocation = Allocation(machines.concurrency(study.concurrency, configs), threads=0, gpus=0)
    check_algorithms(study)
    check(samples, here)
    return allocation


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

    Raises:
        RecordError: another sweep is running in this folder, or it cannot be written.
        NasbenchError: NNI did not start, or died.
        KeyboardInterrupt: after Ctrl-C (or SIGTERM), when everything has been stopped.
    """
    with _locked(out):
        stop_leftover(out, say)
        planned = plan(study, out)
        results = {_key(r.parameters): r for r in planned.results}
        try:
            if planned.missing or planned.proposals:
                _make(study, allocation, planned, results, out, say, port, host, machines)
        finally:
            for run in planned.missing:
                unfinished = Result(run.label, run.parameters, "not finished", "run")
                results.setdefault(_key(run.parameters), unfinished)
            ordered = {_key(r.parameters): results[_key(r.parameters)] for r in study.runs()} | results
            write_results(out, study, list(ordered.values()))
    return list(ordered.values())


def stop_leftover(out: Path, say: Say) -> bool:
    """Stop what an earlier sweep in a folder has left running when it was killed, and say so; whether there was any."""
    try:
        noted = json.loads((out / portal.NNI_FOLDER / MANAGER).read_text(encoding="utf-8"))
        experiment, leader = str(noted["id"]), noted.get("pid")
    except (OSError, ValueError, KeyError):
        return False
    group = portal.group_of(experiment, leader)
    if group is None:
        return False
    say(f"stopping what an earlier sweep left running here when it was killed (NNI experiment {experiment})")
    portal.stop_group(group, LEFTOVER_SECONDS)
    return True


def _make(
    study: Study,
    allocation: Allocation,
    planned: Plan,
    results: dict[str, Result],
    out: Path,
    say: Say,
    port: int | None,
    host: str,
    machines: Machines | None,
) -> None:
    todo = {_key(run.parameters): run for run in planned.missing}
    parameters = [dict(run.parameters) for run in planned.missing]
    fields = study.model_dump(mode="json")
    specification = Specification(fields, [] if study.search else parameters, str(out), resume=True)
    count = len(todo) + planned.proposals
    first = parameters if study.search else []
    experiment = Experiment(
        study, allocation, specification, out / portal.NNI_FOLDER, count, planned.known, first, machines
    )
    note = out / portal.NNI_FOLDER / MANAGER
    write_atomic(note, json.dumps({"id": experiment.id}) + "\n")
    started: set[str] = set()
    ended: set[str] = set()
    with terminable():
        try:
            address = experiment.start(port, host)
            write_atomic(note, json.dumps({"id": experiment.id, **experiment.manager}) + "\n")
            say(f"portal: {address}")
            for trial in (trial for trials in experiment.polls() for trial in trials):
                label, key = study.label(trial.parameters), _key(trial.parameters)
                if trial.state == "running" and trial.id not in started:
                    started.add(trial.id)
                    say(f"started   {label}")
                if trial.ended and trial.id not in ended:
                    ended.add(trial.id)
                    again = key in todo and todo[key].interrupted is not None
                    how = "run again" if again else "run"
                    facts = (trial.error, trial.record, trial.seconds)
                    results[key] = Result(label, trial.parameters, trial.state, how, *facts)
                    say(f"{_line(results[key])}  [{len(ended)}/{count}]")
                    write_results(out, study, list(results.values()))
        finally:
            say("stopping NNI and its portal")
            experiment.stop()
            note.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(out: Path) -> Iterator[None]:
    try:
        (out / portal.NNI_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / portal.NNI_FOLDER / "lock", timeout=0)
        lock.acquire()
    except Timeout as e:
        raise RecordError(f"another sweep is running in {out}") from e
    except OSError as e:
        raise RecordError(f"no sweep can be written in {out}: {e.strerror}; choose another folder with --out") from e
    try:
        yield
    finally:
        lock.release()


def _line(result: Result) -> str:
    if result.state == "failed":
        return f"failed    {result.label}: {result.error}"
    took = "" if result.seconds is None else f" after {result.seconds:.0f} s"
    if result.record is None:
        return f"{result.state:<9} {result.label}{took}"
    top1 = Record(result.record).result().top1
    return f"finished  {result.label}{took}: top-1 {100 * top1:.2f} %"


def _key(parameters: Mapping[str, Any]) -> str:
    return json.dumps(dict(parameters), sort_keys=True)
