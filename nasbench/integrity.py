"""What has become of a record's files, and what of it can be made again."""

from pathlib import Path

from nasbench import machine
from nasbench import record as records
from nasbench.errors import RecordError
from nasbench.record import STAGES, Record

# Lost file → stage that makes it.
REPEATED = {records.RESULT: "test", records.CONFUSION: "test", records.DATA: "retrain", records.MODEL: "retrain"}


def repair(record: Record) -> list[str]:
    """Make a record ready to go on although files are damaged that can be made again; says what is done about each.

    Raises RecordError: one that cannot is damaged.
    """
    done, again = [], set()
    for name, reason in record.damaged().items():
        if name == records.ENVIRONMENT:
            record.write_json(records.ENVIRONMENT, {**machine.facts(), "started": None})
            done.append(f"{name}: {reason}; it tells of this machine now")
        elif name in REPEATED:
            again.add(REPEATED[name])
            done.append(f"{name}: {reason}; the stage {REPEATED[name]} is repeated")
        else:
            hint = f"start anew with `nasbench run --config {record.path / records.CONFIG}`"
            raise RecordError(f"{record.path / name} is damaged and cannot be made again: {reason}; {hint}")
    if again:
        record.forget(STAGES[min(map(STAGES.index, again)) :])
    return done


def check(record: Record) -> str:
    """Read everything that a record holds: it is `whole`, or `unsealed` if older than the SHA-256 of its files.

    Raises RecordError: the first thing that is wrong.
    """
    record.config(), record.environment()
    status = record.status()
    for name, reason in record.damaged().items():
        raise RecordError(f"{name}: {reason}")
    if "search" in status.stages:
        record.architecture(), record.decisions()
    if "retrain" in status.stages:
        record.data()
    if "test" in status.stages:
        record.result(), record.confusion()
    record.curves(records.SEARCH), record.curves(records.METRICS)
    return "whole" if status.sha256 else "unsealed"


def superfluous(record: Record) -> list[Path]:
    """Files that neither results nor a continued run need; none while a run is writing.

    Raises RecordError: the record's state is damaged.
    """
    if record.is_owned():
        return []
    checkpoints = sorted((record.path / records.CHECKPOINTS).glob("*")) if record.finished("test") else []
    left = [*record.path.glob(".*.tmp"), *record.path.glob(f"{records.CHECKPOINTS}/.*.tmp")]
    return sorted({*checkpoints, *left})
