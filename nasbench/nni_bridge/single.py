from collections.abc import Iterator
from pathlib import Path

from nasbench.config import RunConfig
from nasbench.errors import OptionError, RunFailed
from nasbench.nni_bridge.experiment import Allocation, Experiment, Say, Trial, tail
from nasbench.nni_bridge.portal import LOOPBACK, NNI_FOLDER, check_host, warn_if_exposed
from nasbench.nni_bridge.trial import Specification
from nasbench.record import CONFIG, Record
from nasbench.signals import terminable
from nasbench.studies.study import Study


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
                    told = tail(experiment.stderr(trials[0].id))
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


def _say_lines(text: str, say: Say) -> None:
    for line in text.splitlines():
        if not line.startswith("error: "):  # the outcome tells it, too
            say(line)
