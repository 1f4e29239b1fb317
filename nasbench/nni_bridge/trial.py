"""One run of a sweep as an NNI trial: `python -m nasbench.nni_bridge.trial SPECIFICATION`, started by NNI's manager."""

import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from nasbench.errors import NasbenchError
from nasbench.files import write_atomic

MODULE = "nasbench.nni_bridge.trial"  # this one; as a program it has another name
SPECIFICATION = "specification.json"
OUTCOME = "outcome.json"  # in the trial's folder
RECORD = "record"  # likewise, with the record of a trial on another machine


@dataclass(frozen=True)
class Specification:
    """What the trials of a sweep share."""

    study: dict[str, Any]  # fields of `Study`
    runs: list[dict[str, Any]]  # parameters of each in order; empty where a tuner chooses
    out: str  # folder that receives the records, or a record that goes on; relative to the folder of the command
    resume: bool  # go on with a record in `out` of the same run that was broken off
    # For trials on other machines, whose records are fetched: folder in which each has one by its id, as the machine
    # sees it; NNI's own of the trial where empty.
    apart: str | None = None

    def write(self, path: Path) -> None:
        """Write the file that a trial reads."""
        write_atomic(path, json.dumps(asdict(self), indent=2, default=str) + "\n")


class Channel:
    """This trial's side of NNI.

    The channel below NNI's own functions (`nni.get_next_parameter`, …) is used, and these are given a mute one: in
    each stage of a run they would report an intermediate or final result for themselves, and NNI's engine for searches
    that train several networks refuses to work where they are in use.
    """

    def __init__(self, specification: Specification) -> None:
        """Ask NNI for the parameters: first of all, because NNI hands them out in the order in which it is asked."""
        from nni.runtime.trial_command_channel import (
            get_default_trial_command_channel,
            set_default_trial_command_channel,
        )
        from nni.runtime.trial_command_channel.standalone import StandaloneTrialCommandChannel

        self._channel: Any = get_default_trial_command_channel()
        set_default_trial_command_channel(StandaloneTrialCommandChannel())
        self._trial = os.environ["NNI_TRIAL_JOB_ID"]
        handed_out = self._channel.receive_parameter()
        if handed_out is None:
            raise NasbenchError("NNI's manager has gone")
        own = self._written_down() or handed_out
        self._id: int = own["parameter_id"]
        self.parameters: dict[str, Any] = dict(own["parameters"])
        number = int(os.environ.get("NNI_TRIAL_SEQ_ID", -1))
        if own is handed_out and 0 <= number < len(specification.runs):
            self._id, self.parameters = number, specification.runs[number]
        self._reports = 0
        self.last: float | None = None

    def _written_down(self) -> Any:
        """What the manager shows as this trial's parameters.

        Of two trials that start together, the one that asks first gets the parameters of the first, whichever it is;
        the portal would then show the measures of one run beside the parameters of the other.
        """
        address = os.environ.get("NNI_TRIAL_COMMAND_CHANNEL", "").partition("/env/")[0]
        for _ in range(20):
            try:
                with urlopen(f"{address}/api/v1/nni/trial-jobs/{self._trial}", timeout=10) as answer:
                    return json.loads(json.load(answer)["hyperParameters"][0])
            except (URLError, ValueError, OSError):
                return None  # a remote trial talks to a keeper on its own machine
            except (KeyError, IndexError, TypeError):
                time.sleep(0.1)  # not written down yet
        return None

    def intermediate(self, measures: Mapping[str, float]) -> None:
        """Report an epoch; `default` is what the portal draws and an assessor judges."""
        self.last = measures["default"]
        self.send("PERIODICAL", self._reports, measures)
        self._reports += 1

    def send(self, kind: str, sequence: int, measures: Mapping[str, float]) -> None:
        """Report an epoch or, as `FINAL`, the result; `default` is what a tuner learns from."""
        self._channel.send_metric(
            type=kind, parameter_id=self._id, trial_job_id=self._trial, sequence=sequence, value=dict(measures)
        )


def main() -> None:
    """Run the trial; the exit code tells NNI whether it succeeded."""
    folder = Path(os.environ["NNI_OUTPUT_DIR"])
    specification = Specification(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if specification.apart:
        folder = Path(specification.apart) / os.environ["NNI_TRIAL_JOB_ID"]
        folder.mkdir(parents=True, exist_ok=True)
    channel = Channel(specification)
    try:
        record = _run(specification, channel, folder)
    except KeyboardInterrupt:
        # NNI takes a process that ends by itself, with whatever exit code, for one that failed.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except NasbenchError as e:
        print(f"error: {e}", file=sys.stderr, flush=True)
        _write(folder, error=str(e), mendable=True)
        sys.exit(2)
    except BaseException as e:
        from nasbench.registry import describe_exception

        traceback.print_exc()
        _write(folder, error=describe_exception(e), mendable=False)
        sys.exit(1)
    _write(folder, record=str(record))


def _run(specification: Specification, channel: Channel, folder: Path) -> Path:
    import torch

    from nasbench.pipeline import run
    from nasbench.studies.plan import finished, held_out, interrupted, known
    from nasbench.studies.study import make_study

    limit = os.environ.get("OMP_NUM_THREADS", "")
    if limit.isdigit() and int(limit):
        torch.set_num_threads(int(limit))
    study = make_study(specification.study)
    config = study.run(channel.parameters).config
    out = Path(specification.out) if specification.apart is None else folder / RECORD
    records = known([out]) if specification.resume else []
    # A tuner may propose the same twice.
    earlier = finished(config, records) or interrupted(config, records)
    if earlier is not None and earlier.finished:
        record = earlier.record
    else:
        record = run(config, out if earlier is None else earlier.record.path, report=channel.intermediate)
    result = record.result()
    accuracy = held_out(record)
    accuracy = channel.last if accuracy is None else accuracy
    if accuracy is None and study.search:
        raise NasbenchError(f"evaluator {config.evaluator!r} logs no val_top1, from which the tuner could learn")
    told = {"default": result.top1 if accuracy is None else accuracy, "test_top1": result.top1}
    channel.send("FINAL", 0, {**told, "params": result.params, "madds": result.madds})
    return record.path


def _write(folder: Path, **outcome: Any) -> None:
    write_atomic(folder / OUTCOME, json.dumps(outcome) + "\n")


if __name__ == "__main__":
    main()
