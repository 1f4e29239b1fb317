"""A sweep as an NNI experiment: what NNI is told, and what becomes of its trials."""

import contextlib
import inspect
import json
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasbench.errors import NasbenchError, OptionError, unknown
from nasbench.machine import environment
from nasbench.nni_bridge import log, portal
from nasbench.nni_bridge.machines import Machines
from nasbench.nni_bridge.places import Cluster, Place, Remote, end_manager
from nasbench.nni_bridge.trial import MODULE, OUTCOME, SPECIFICATION, Specification
from nasbench.registry import describe_exception
from nasbench.studies.study import Algorithm, Study

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
# NNI's words for trials that have ended, and ours.
STATES = {
    "SUCCEEDED": "finished",
    "FAILED": "failed",
    "EARLY_STOPPED": "stopped early",
    "USER_CANCELED": "cancelled",
    "SYS_CANCELED": "cancelled",
}
ENDS = set(STATES.values())
ENDED = ("DONE", "STOPPED")  # NNI's words for experiments that have
STDERR = "trial.stderr"
KILLED = "killed without a word, which is how a process ends when the memory runs out"
POLL_SECONDS = 0.5
PATIENCE = 5  # polls without an answer after which a manager counts as dead
REASON = re.compile(r"^(error: |Fatal |[\w.]*(Error|Exception|Interrupt)\b)")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Allocation:
    """What each run may use."""

    concurrency: int  # runs at a time
    threads: int  # of each run's process; 0 where they are not limited
    gpus: int  # that NNI gives to each run; 0 where it hands out none


@dataclass(frozen=True)
class Trial:
    """What became of a run."""

    id: str  # NNI's
    parameters: Mapping[str, Any]  # of the run
    state: str  # `waiting`, `running`, `finished`, `failed`, `stopped early` or `cancelled`
    error: str | None = None  # why it failed, one line
    mendable: bool = False  # whether the failure is a mistake in the settings
    record: Path | None = None  # its folder
    seconds: float | None = None  # it took


def check_algorithms(study: Study) -> None:
    """Build tuner and assessor as NNI will; OptionError for what is unknown, not installed, or cannot be searched."""
    log.silence()
    if study.search:
        tuner = _build("tuner", study.tuner)
        try:
            tuner.update_search_space(study.search_space())
        except Exception as e:
            raise OptionError(f"tuner {study.tuner.name} cannot search this space: {describe_exception(e)}") from e
    if study.assessor is not None:
        _build("assessor", study.assessor)


def arguments(kind: str, algorithm: Algorithm) -> dict[str, Any]:
    """The arguments of a tuner or assessor, with `optimize_mode` where it takes one."""
    from nni.tools.package_utils.tuner_factory import get_builtin_module_class_name

    module, name = get_builtin_module_class_name(f"{kind}s", algorithm.name)
    found = getattr(__import__(module, fromlist=[name]), name)
    takes = "optimize_mode" in inspect.signature(found.__init__).parameters
    return {"optimize_mode": "maximize", **algorithm.options} if takes else dict(algorithm.options)


class Experiment:
    """An NNI experiment over the runs of a study; `id` is NNI's."""

    def __init__(
        self,
        study: Study,  # what varies
        allocation: Allocation,  # what each run may use
        specification: Specification,  # what the trials are told
        folder: Path,  # that receives NNI's folder of the experiment
        trials: int,  # how many runs to start
        known: Sequence[Mapping[str, Any]] = (),  # finished runs of a tuner's study, as `import_data` takes them
        first: Sequence[Mapping[str, Any]] = (),  # parameters of its runs that were broken off
        machines: Machines | None = None,  # where the runs take place, if not here
    ) -> None:
        log.silence()
        from nni.experiment import Experiment as NniExperiment
        from nni.experiment.config import AlgorithmConfig, CustomAlgorithmConfig, ExperimentConfig

        config: Any = ExperimentConfig("local")
        config.experiment_name = f"{portal.NAME} {study.name}"
        config.experiment_working_directory = str(folder.resolve())
        config.trial_code_directory = str(Path.cwd())  # where a user's own classes are looked for
        config.trial_concurrency = allocation.concurrency
        config.max_trial_number = trials
        if allocation.gpus:
            config.trial_gpu_number = allocation.gpus
            # Otherwise a GPU that also draws a desktop would never be used.
            config.training_service.use_active_gpu = True
        if study.search:
            config.search_space = study.search_space()
            options = arguments("tuner", study.tuner)
            config.tuner = AlgorithmConfig(name=study.tuner.name, class_args=options)
            if known or first:
                config.tuner = CustomAlgorithmConfig(
                    class_name="nasbench.nni_bridge.tuner.Resumed",
                    code_directory=str(Path(__file__).resolve().parents[2]),
                    class_args={"name": study.tuner.name, "options": options, "known": known, "first": first},
                )
        else:
            config.search_space = {"combine_params": {"_type": "choice", "_value": specification.runs}}
            config.tuner = AlgorithmConfig(name="Batch")
        if study.assessor is not None:
            options = arguments("assessor", study.assessor)
            config.assessor = AlgorithmConfig(name=study.assessor.name, class_args=options)
        if machines is not None and machines.service.platform == "local":
            config.training_service, machines = machines.service, None
        self._machines, self._specification = machines, specification
        self._place: Place | None = None
        self._nni: Any = NniExperiment(config)
        self.id: str = self._nni.id
        self._folder = folder / self.id
        self._made_out = not folder.parent.exists()
        self._threads = allocation.threads
        path = self._folder / SPECIFICATION
        # One simple command: the shell becomes Python, which then gets NNI's signals.
        config.trial_command = shlex.join(["exec", sys.executable, "-m", MODULE, str(path.resolve())])
        path.parent.mkdir(parents=True)
        for tells_the_prefix in (folder, Path.home() / portal.LIST):
            tells_the_prefix.mkdir(exist_ok=True)
            tells_the_prefix.chmod(0o700)
        specification.write(path)

    @property
    def manager(self) -> dict[str, Any]:
        """NNI's manager, once it runs: its `pid`, also of its process group; the portal's `port` and `prefix`."""
        return {"pid": self._nni._proc.pid, "port": self._nni.port, "prefix": self._nni.url_prefix}

    def start(self, port: int | None, host: str) -> str:
        """Start NNI; returns the portal's address. Raises NasbenchError: it did not start."""
        with environment(**(dict.fromkeys(THREADS, str(self._threads)) if self._threads else {})):
            if self._machines is not None:
                config, where = self._nni.config, (self._machines, self.id, self._folder, host)
                remote = self._machines.service.platform == "remote"
                self._place = Remote(*where, config.trial_concurrency) if remote else Cluster(*where)
                elsewhere = replace(self._specification, apart=self._place.trials, resume=False)
                elsewhere.write(self._place.configure(config))
                port = self._place.port(port)
            return portal.start(self._nni, port, host)

    def stop(self) -> None:
        """Stop trials, manager and portal."""
        try:
            if self._place is not None and self._nni._proc is not None:
                end_manager(self._nni._proc, self._folder / "log" / "nnimanager.log")
            portal.stop(self._nni)
        finally:
            if self._place is not None:
                self._place.close()

    def forget(self) -> None:
        """Remove a stopped experiment's folder and its entry in NNI's list."""
        from nni.tools.nnictl.config_utils import Experiments

        Experiments().remove_experiment(self.id)
        shutil.rmtree(self._folder, ignore_errors=True)
        (self._folder.parent / "_latest").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._folder.parent.rmdir()  # unless other experiments are in it
            if self._made_out:
                self._folder.parent.parent.rmdir()

    def polls(self) -> Iterator[list[Trial]]:
        """All trials so far, again and again until it has ended. NasbenchError: NNI's manager or tuner has died."""
        silent, log = 0, self._folder / "log"
        while True:
            try:
                status, jobs = self._nni.get_status(), self._nni.list_trial_jobs()
                silent = 0
            except Exception as e:
                silent += 1
                if silent == PATIENCE or self._nni._proc.poll() is not None:
                    reason = describe_exception(e)
                    raise NasbenchError(f"NNI's manager does not answer ({reason}); see {log}") from e
                status, jobs = "", []  # busy
            if status == "ERROR":
                raise NasbenchError(f"NNI's manager or tuner failed; see {log}")
            yield [self._trial(job) for job in jobs if job.hyperParameters]
            if status in ENDED:
                return
            time.sleep(POLL_SECONDS)

    def trial_folder(self, trial: str) -> Path:
        """Where a trial leaves its outcome and its error stream, `STDERR`."""
        return self._folder / "environments" / "local-env" / "trials" / trial

    def _trial(self, job: Any) -> Trial:
        parameters, trial_folder = job.hyperParameters[0].parameters, self.trial_folder(job.trialJobId)
        state = STATES.get(job.status, job.status.lower())
        seconds = (job.endTime - job.startTime) / 1000 if job.endTime and job.endTime > 0 and job.startTime else None
        if state in ENDS and state != "finished":  # NNI has one word for those that it stopped and that were killed
            log = _text(self._folder / "log" / "nnimanager.log")
            # The assessor's wish has quotes; a person's, or the end's, has none.
            other = "cancelled" if f"cancelTrialJob: {job.trialJobId}" in log else "failed"
            state = "stopped early" if f'cancelTrialJob: "{job.trialJobId}"' in log else other
        if self._place is not None and state in ("finished", "failed"):
            self._place.fetch(job.trialJobId, job.logPath, trial_folder, Path(self._specification.out))
        outcome: dict[str, Any] = json.loads(_text(trial_folder / OUTCOME) or "{}")
        record = Path(outcome["record"]) if "record" in outcome else None
        error = None
        if state == "finished" and "error" in outcome:
            state = "failed"  # it ended well, but on a machine that its record did not come back from
        if state == "failed":
            told = [line for line in _text(trial_folder / STDERR).splitlines() if REASON.match(line)] or [KILLED]
            error = " ".join(str(outcome.get("error") or told[-1]).split())
        return Trial(job.trialJobId, parameters, state, error, bool(outcome.get("mendable")), record, seconds)


def tail(path: Path) -> Iterator[str]:
    """What is added to a file, each time it is asked; nothing while it does not exist."""
    known = 0
    while True:
        text = _text(path)
        yield text[known:]
        known = len(text)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):  # there is nothing yet
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _build(kind: str, algorithm: Algorithm) -> Any:
    from nni.tools.package_utils import create_builtin_class_instance, get_algo_meta, get_all_algo_meta
    from nni.tools.package_utils.tuner_factory import create_validator_instance

    meta = get_algo_meta(algorithm.name)
    if meta is None or meta.algo_type != kind or meta.is_advisor or meta.name == "Batch":
        names = [m.name for m in get_all_algo_meta() if m.algo_type == kind and not m.is_advisor and m.name != "Batch"]
        raise OptionError(unknown(f"{kind} of NNI", algorithm.name, sorted(names)))
    try:
        options = arguments(kind, algorithm)
        validator = create_validator_instance(f"{kind}s", algorithm.name)
        if validator is not None:
            validator.validate_class_args(**options)
        return create_builtin_class_instance(algorithm.name, options, f"{kind}s")
    except ImportError as e:
        raise OptionError(
            f"{kind} {algorithm.name} needs a package that is not installed: {describe_exception(e)}"
        ) from e
    except Exception as e:
        raise OptionError(f"{kind} {algorithm.name}: {describe_exception(e)}") from e
