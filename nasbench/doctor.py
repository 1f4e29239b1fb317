"""What is wrong with a machine or a run: findings by name, each with what was measured and the command to type next."""

import shlex
import sys
from collections.abc import Iterator
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nasbench import disk, integrity, machine, show
from nasbench.config import default_data_root
from nasbench.errors import NasbenchError, listed
from nasbench.nni_bridge.portal import FIRST_PORT, PORTS, is_free
from nasbench.reasons import UNDECIDED, evidence
from nasbench.record import CONFIG, ENVIRONMENT, METRICS, MODEL, Record
from nasbench.results import collect, explain, statistics
from nasbench.strategies.pmpl import reachable_lead

EXPLODED, RISEN = 2.0, 1.1  # times the training loss of the first epoch, and the lowest held-out loss
GAINED, WIDE = 0.01, 0.1  # of accuracy: in training, over the last fifth of the epochs; of a 95 % interval
ROOM = 2**30  # bytes on the disk


class Finding(NamedTuple):
    """What is wrong (`fault`: nothing came of it, or it is lost), or may be (`caution`); `command` is to type next."""

    severity: str
    name: str
    measured: str
    command: str


Report = tuple[dict[str, str], list[Finding]]  # what there is, and what is wrong with it, the faults first
fault, caution = partial(Finding, "fault"), partial(Finding, "caution")


def of_machine() -> Report:
    """What runs will have here."""
    known, root, here, found = machine.facts(), default_data_root(), Path.cwd(), list[Finding]()
    specs = [PathFinder.find_spec("nasbench", [entry]) for entry in sys.path]
    packages = {Path(spec.origin).resolve().parent for spec in specs if spec and spec.origin}
    if others := packages - {Path(__file__).resolve().parent}:
        told = f"beside {Path(__file__).parent}: {listed(sorted(others))}; each takes an environment of its own"
        found.append(caution("another nasbench", told, "python -m venv FOLDER"))
    if not is_free(FIRST_PORT):
        port = next((p for p in range(FIRST_PORT, FIRST_PORT + PORTS) if is_free(p)), "none")
        found.append(caution("port in use", f"{FIRST_PORT} is; the portal takes {port}", "nasbench ui --list"))
    if (room := disk.room(here)) < ROOM:
        found.append(caution("little room", f"{room / 2**20:.0f} MiB are free in {here}", "nasbench clean runs"))
    data = listed(sorted(path.name for path in root.glob("[!.]*"))) or "nothing"
    return {
        "versions": ", ".join(f"{n} {v}" for n, v in {"Python": known["python"], **known["packages"]}.items()),
        "devices": f"{listed(known['gpus']) or 'no GPU'}; processors {machine.cpus()}, threads {known['threads']}",
        "disk": f"{room / 2**30:,.1f} GiB free in {here}",
        "data root": f"{root} holds {data}" if root.is_dir() else f"{root} is no folder",
    }, found


def of_run(record: Record) -> Report:
    """What is wrong with a run, as far as its stages have come."""
    facts, found, path = dict[str, str](), list[Finding](), shlex.quote(str(record.path))
    stages = {"retrain": _trained, "test": _tested, "search": _searched}
    try:
        facts["state"] = record.status().state
        for look in (_kept, *(look for stage, look in stages.items() if record.finished(stage))):
            found += look(record, f"nasbench run --config {path}/{CONFIG}")
    except (NasbenchError, TypeError, ValueError) as e:  # unless its SHA-256 has told that already
        if not any(finding.name == "damaged" for finding in found):
            found.append(fault("damaged", str(e), f"nasbench verify {path}"))
    return facts, sorted(found, key=lambda finding: finding.severity, reverse=True)


def _kept(record: Record, again: str) -> Iterator[Finding]:
    status, lost, resume = record.status(), record.damaged(), f"nasbench resume {shlex.quote(str(record.path))}"
    slower = f"{again} -e learning_rate={record.config().evaluator_options.get('learning_rate', 0.01) / 10:g}"
    told = status.error or "its process is gone"
    known = {"is not finite": ("diverged", slower), "misses its limits": ("limit missed", f"{again} --image-size auto")}
    name, then = next((known[words] for words in known if words in told), (status.state, resume))
    if status.state in ("interrupted", "failed"):
        yield fault(name, told, then)
    if record.file(MODEL) is None and lost.pop(MODEL, ""):
        yield fault("weights missing", f"there is no {MODEL} to export or to predict with", resume)
    if lost:
        then = resume if lost.keys() <= {*integrity.REPEATED, ENVIRONMENT} else again
        yield fault("damaged", "; ".join(f"{name}: {reason}" for name, reason in lost.items()), then)
    for stage in ("search", "retrain"):
        losses = _epochs(record, stage).get("train_loss", [0.0])
        if losses[-1] > EXPLODED * losses[0]:
            told = (
                f"training loss {losses[0]:.3g} after the first epoch of the {stage}, {losses[-1]:.3g} after the last"
            )
            yield fault("diverged", told, slower)


def _trained(record: Record, again: str) -> Iterator[Finding]:
    found, images = _epochs(record, "retrain"), (record.data().model_extra or {}).get("held_out_images")
    ended = getattr(record.status().stages["retrain"], "best_epoch", None)  # what came after it is not in the weights
    found = {name: values[:ended] for name, values in found.items()}
    if images and {"train_top1", "val_top1", "val_loss"} <= found.keys():
        train, loss = found["train_top1"], found["val_loss"]
        low, high, told = _sure(found["val_top1"][-1], images, "held-out")
        best, past = loss.index(min(loss)) + 1, -1 - min(len(loss) - 1, max(1, len(loss) // 5))
        if train[-1] > high and loss[-1] > RISEN * min(loss):
            both = f"{100 * train[-1]:.1f} % of training images right, {told}; lowest held-out loss after epoch {best}"
            yield caution("overfitting", both, f"{again} --retrain-epochs {best}")
        elif train[-1] > train[past] + GAINED and loss[-1] < loss[past]:
            rise = f"accuracy in training rose from {100 * train[past]:.1f} % to {100 * train[-1]:.1f} % at the end"
            yield caution("still improving", rise, f"{again} --retrain-epochs {2 * len(loss)}")
        if high - low > WIDE:
            yield caution("small held-out set", told, f"{again} --train-images none --data-root FOLDER_WITH_MORE")


def _tested(record: Record, again: str) -> Iterator[Finding]:
    config, result, counts = record.config(), record.result(), pd.Series(record.confusion(), dtype=float)
    if images := int(counts.sum()):
        low, high, told = _sure(result.top1, images, "test")
        true, taken = (counts.groupby(level=side).sum() for side in (0, 1))
        if low <= (chance := float((true * taken).sum()) / images**2):
            longer = f"{again} --retrain-epochs {max(10, 3 * config.retrain_epochs)}"
            yield fault("at chance", f"{told}; {100 * chance:.1f} % by chance", longer)
        if high - low > WIDE:
            yield caution("small test set", told, f"{again} --data-root FOLDER_WITH_MORE")
    if config.evaluator_options.get("balance") == "none" and (told := show.balanced(record).strip()):
        yield caution("unequal classes", told, f"{again} -e balance=loss")


def _searched(record: Record, again: str) -> Iterator[Finding]:
    config, decisions, gathered = record.config(), record.decisions(), evidence(record)
    if told := "" if gathered and gathered.decided else str(gathered or show.doubt([*decisions.values()])):
        yield caution("undecided", told, f"nasbench explain {shlex.quote(str(record.path))}")
    if left := {label: d for label, d in decisions.items() if d.by == UNDECIDED}:
        told, commands = explain.longer(config, left, again)
        yield from (caution("too few steps", told, command) for command in commands)
    eta, rho, warm = (float(config.strategy_options.get(name) or 0) for name in ("eta", "rho", "warmup_epochs"))
    steps = collect.curves(record, METRICS).query("stage == 'search'")["step"].max()
    if config.strategy_options.get("fixing") == "lead" and eta and config.epochs and steps > 0:
        had = round(steps * (1 - warm / config.epochs))
        if (lead := reachable_lead(had, eta, max(len(d.pi or ()) for d in decisions.values()))) < rho:
            told = f"in {had} steps of α at η = {eta:g} a candidate can lead by {lead:.2g} at most, and ρ is {rho:g}"
            yield caution("too few steps", told, f"{again} -s eta=null")


def _epochs(record: Record, stage: str) -> dict[str, list[float]]:
    """Measure → its value in every epoch of what a stage trained last."""
    rows = collect.curves(record, METRICS).query("stage == @stage").drop_duplicates(["epoch", "name"], keep="last")
    return {str(name): group["value"].tolist() for name, group in rows.groupby("name")}


def _sure(share: float, images: int, which: str) -> tuple[float, float, str]:
    low, high = statistics.exact(share, images)
    told = f"{share:.1%} of {images:,} {which} images right (95% interval {low:.1%} to {high:.1%})"
    return low, high, told.replace("%", " %")
