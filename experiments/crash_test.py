"""Kills, full disks and damaged files: every run goes on bit for bit, or says by name what is wrong.

`make crash-test` runs all of it and writes the figures of docs/reliability.md; `--short` a twentieth, for the tests.
Needs `unshare` (Linux) for the disks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import yaml

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typer.testing import CliRunner

from nasbench.cli import app
from nasbench.errors import NasbenchError
from nasbench.files import write_atomic
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.progress import Display
from nasbench.quiet import silence
from nasbench.record import DATA_FILES, MODEL, Record, find_records
from nasbench.watch import Watcher

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- figures of make crash-test -->", "<!-- end -->"
SAME = ("architecture.json", "decisions.json", "search.csv", "metrics.csv", "confusion.csv", MODEL)
MACHINE = {"search_seconds": 0.0, "retrain_seconds": 0.0, "peak_memory_bytes": 0, "record": ""}
TINY: dict[str, Any] = {
    **{"dataset": "digits", "preset": "quick", "device": "cpu", "space_options": {"width": 0.05}},
    **{"train_images": 160, "batch_size": 16, "epochs": 4, "retrain_epochs": 4},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "search by evidence": {"strategy_options": {"fixing": "evidence", "warmup_epochs": 1}},
    "search by DARTS": {"strategy": "darts"},
    "retraining with an average of the weights": {"architecture": "global", "evaluator_options": {"ema": 0.9}},
    "distillation": {"architecture": "none", "evaluator": "online_distillation"},
    "search that trains networks one by one": {
        **{"strategy": "random", "strategy_options": {"trials": 3}, "epochs": None, "retrain_epochs": 2},
    },
}
PARALLEL = "training in two processes"
KINDS_OF_RUN = {**SETTINGS, PARALLEL: {"architecture": "none", "devices": 2}}
HEADER = "| what was killed | kills | runs | repeated at most | all bit-equal |\n|---|---|---|---|---|"
READERS = (("show",), ("explain",), ("table", "strategies"), ("report",))
KINDS = ("flip", "cut", "empty", "null", "[]", "{}", "missing", "noise")


Job = tuple[Callable[..., str], float, tuple[str, ...]]  # function, how many, further arguments


class FoundError(Exception):
    """Something that the promise excludes."""


def train(settings: dict[str, Any], out: Path, steps: Path) -> None:
    """Run or go on in this process, silently; a byte in `steps` for every training step."""
    done = Watcher.on_train_batch_end

    def counted(self: Any, *arguments: Any) -> None:
        done(self, *arguments)
        with steps.open("ab") as file:
            file.write(b".")

    Watcher.on_train_batch_end = counted  # type: ignore[method-assign]
    os.setpgid(0, 0)  # other processes of the run die with it
    try:
        with silence():
            run(resolve_config(TINY | settings), out, Display())
    except BaseException:
        steps.with_suffix(".error").write_text(traceback.format_exc())
        raise


def one_record(folder: Path) -> Path | None:
    """The record in a folder, if it has come to one."""
    return next(find_records(folder), None) if folder.is_dir() else None


def alike(one: Path, other: Path) -> None:
    """Raise a FoundError unless two runs have the same result, to the last bit."""
    for name in SAME:
        if (one / name).exists() != (other / name).exists():
            raise FoundError(f"{name} is there only once: {other}")
        if (one / name).exists() and (one / name).read_bytes() != (other / name).read_bytes():
            raise FoundError(f"{name} differs: {other}")
    results = [Record(path).result().model_copy(update=MACHINE) for path in (one, other)]
    if results[0] != results[1]:
        raise FoundError(f"the results differ: {other}")


def killed(settings: dict[str, Any], whole: Path, seconds: float, folder: Path, draw: random.Random) -> tuple[int, int]:
    """Run in processes that are killed at random moments until one gets to the end; (kills, steps in all)."""
    steps, kills, context = folder.with_suffix(".steps"), 0, multiprocessing.get_context("fork")
    steps.touch()
    while True:
        record, before = one_record(folder), steps.stat().st_size
        process = context.Process(target=train, args=(settings, record or folder, steps))
        process.start()
        if "devices" in settings:  # whose start takes longer than their work
            while process.is_alive() and steps.stat().st_size == before:
                time.sleep(0.02)
        process.join(draw.uniform(0, seconds))
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()
            kills += 1
        elif process.exitcode:
            raise FoundError(f"a run that went on failed: {record}\n{steps.with_suffix('.error').read_text()}")
        else:
            break
    found = one_record(folder)
    assert found is not None
    alike(whole, found)
    return kills, steps.stat().st_size


def kills(folder: Path, wanted: int, draw: random.Random, name: str) -> str:
    """Kill runs of one kind; a line of the table."""
    settings = KINDS_OF_RUN[name]
    begun = time.perf_counter()
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(settings, folder / "whole", folder / "whole.steps")
    )
    process.start()
    process.join()
    # Within six tenths of a run few get to the end at once: most are killed several times, each time further on.
    seconds, whole = 0.6 * (time.perf_counter() - begun), one_record(folder / "whole")
    if whole is None or process.exitcode:
        raise FoundError(f"{name}: not even the undisturbed run ends")
    if "devices" in settings:
        result = Record(whole).result()
        seconds = result.search_seconds + result.retrain_seconds
    usual, total, runs, most = (folder / "whole.steps").stat().st_size, 0, 0, 0.0
    while total < wanted:
        count, steps = killed(settings, whole, seconds, folder / f"killed{runs}", draw)
        total, runs = total + count, runs + 1
        most = max(most, (steps - usual) / usual / max(1, count))
    return f"| {name} | {total} | {runs} | {100 * most:.0f} % of a run, each time | yes |"


def sweeps(folder: Path, wanted: int, draw: random.Random) -> str:
    """Kill `nasbench sweep` at random moments of its two runs, and start it again; a line of the table."""
    study = {"name": "crash", "base": TINY | SETTINGS["search by evidence"], "grid": {"seed": [0, 1]}}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(study))

    def start(out: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "nasbench", "sweep", "sweep.yaml", "--out", out]
        return subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def records(out: str) -> dict[int, Path]:
        found = [Record(path) for path in find_records(folder / out)]
        if len(found) != 2:
            raise FoundError(f"a sweep of two runs has {len(found)} records")
        return {record.config().seed: record.path for record in found}

    begun, total, number = time.perf_counter(), 0, 0
    if start("whole").wait():
        raise FoundError("not even the undisturbed sweep ends")
    seconds, whole = time.perf_counter() - begun, records("whole")
    while total < wanted:
        number += 1
        while True:
            process = start(out := f"killed{number}")
            try:
                _, said = process.communicate(timeout=draw.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                total += 1
                continue
            if process.returncode or "Traceback" in said:
                raise FoundError(f"a sweep that went on failed: {said[-2000:]}")
            break
        for seed, record in records(out).items():
            alike(whole[seed], record)
    return f"| sweep of two runs | {total} | {2 * number} | | yes |"


DISK = """
mount -t tmpfs -o size=24m tmpfs "$1" || exit 77
(sleep "$2"; dd if=/dev/zero of="$1/fill" bs=16k 2>/dev/null) &
"$3" -m nasbench run --config "$4" --out "$1/runs"; code=$?
wait; rm -f "$1/fill"
[ $code = 2 ] && ! ls "$1"/runs/*/config.yaml 2>/dev/null && code=1  # there was no room for a record
[ $code = 0 ] || [ $code = 1 ] || exit 3
if [ $code = 1 ]; then
  if ls "$1"/runs/*/config.yaml; then "$3" -m nasbench resume "$1"/runs/*/ || exit 4
  else "$3" -m nasbench run --config "$4" --out "$1/runs" || exit 5; fi
fi
"$3" -m nasbench verify "$1/runs" && cp -r "$1"/runs/* "$5" && exit $code
"""


def disks(folder: Path, wanted: int, draw: random.Random) -> str:
    """Fill the disk of runs at random moments; a sentence."""
    mounted = folder / "mounted"
    mounted.mkdir()
    settings = TINY | SETTINGS["search by evidence"]
    with silence():
        whole = run(resolve_config(settings), folder / "whole", Display()).path
    config, full, begun = whole / "config.yaml", 0, time.perf_counter()
    start = [sys.executable, "-m", "nasbench", "run", "--config", config, "--out", folder / "again"]
    subprocess.run(start, capture_output=True, check=True)
    seconds = time.perf_counter() - begun
    words = ["unshare", "-Urm", "sh", "-c", DISK, "sh", mounted]
    while full < wanted:
        kept = folder / f"kept{full}"
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir()
        wait = draw.uniform(0, seconds)
        done = subprocess.run(
            [*words, f"{wait:.2f}", sys.executable, config, kept], capture_output=True, text=True, check=False
        )
        if done.returncode == 77:
            raise FoundError("no file system can be mounted here")
        if done.returncode not in (0, 1) or "Traceback" in done.stderr:
            raise FoundError(f"a full disk: {done.stderr[-2000:]}")
        if done.returncode == 1:
            if sum(line.startswith("error:") for line in done.stderr.splitlines()) != 1:
                raise FoundError(f"a full disk is not one line: {done.stderr[-2000:]}")
            full += 1
            found = one_record(kept)
            assert found is not None
            alike(whole, found)
    return f"{full} full disks at random moments of a search: one line each, and every run went on bit for bit."


def harm(path: Path, kind: str, draw: random.Random) -> None:
    """Damage a file."""
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
    elif kind == "flip" and content:
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :])
    elif kind == "cut":
        path.write_bytes(content[: draw.randrange(max(1, len(content)))])
    elif kind == "noise":
        path.write_bytes(draw.randbytes(200))
    else:
        path.write_bytes({"empty": b"", "flip": b"x"}.get(kind, kind.encode()))


def damages(folder: Path, wanted: int, draw: random.Random) -> str:
    """Damage the files of a finished run one by one; a sentence."""
    with silence():
        whole = run(resolve_config(TINY | SETTINGS["search by evidence"]), folder / "sound", Display()).path
    names = [name for name in (*DATA_FILES, MODEL) if (whole / name).is_file()]
    runner, copy, page = CliRunner(), folder / "damaged" / "run", folder / "report"
    refused = repaired = 0
    for number in range(wanted):
        name, kind = names[number % len(names)], KINDS[number // len(names) % len(KINDS)]
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(whole, copy)
        before = (copy / name).read_bytes()
        harm(copy / name, kind, draw)
        if (copy / name).is_file() and (copy / name).read_bytes() == before:
            continue
        told = runner.invoke(app, ["verify", str(copy.parent)])
        if name not in told.output and not (told.exception and name in str(told.exception)):
            raise FoundError(f"{kind} of {name} is not named: {told.output}")
        # Another command each time that this damage comes round.
        words = READERS[(number + number // (len(names) * len(KINDS))) % len(READERS)]
        told = runner.invoke(app, [*words, str(copy), *(["--output", str(page)] if words == ("report",) else [])])
        if not (told.exception is None or isinstance(told.exception, (NasbenchError, SystemExit))):
            raise FoundError(f"{kind} of {name}: {words[0]} ends with {told.exception!r}")
        told = runner.invoke(app, ["resume", str(copy)])
        if told.exit_code == 0:
            alike(whole, copy)
            repaired += 1
        elif isinstance(told.exception, NasbenchError) and name in str(told.exception):
            refused += 1
        else:
            raise FoundError(f"{kind} of {name}: resume ends with {told.exception!r}")
    return (
        f"{refused + repaired} damaged files ({', '.join(KINDS)}): every one named by `nasbench verify`; "
        f"`nasbench resume` refused {refused} by name and made {repaired} again, bit for bit."
    )


def main() -> None:
    """Do it all, two things at a time, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a twentieth of it, and no page")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    part, begun = 20 if given.short else 1, time.perf_counter()
    rows: list[Job] = [(kills, (20 if name == PARALLEL else 36) / part, (name,)) for name in KINDS_OF_RUN]
    rows.append((sweeps, 12 / part, ()))
    sentences: list[Job] = [(disks, 20 / part, ()), (damages, 520 / part, ())]
    with tempfile.TemporaryDirectory() as name, ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        waiting = []
        for number, (function, wanted, more) in enumerate([*sentences, *rows]):
            folder = Path(name) / str(number)
            folder.mkdir()
            draw = random.Random(100 * given.seed + number)
            waiting.append(pool.submit(function, folder, max(1, round(wanted)), draw, *more))
        try:
            found = []
            for future in waiting:
                found.append(future.result())
                print(found[-1], flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    lines = [HEADER, *found[len(sentences) :], "", "\n\n".join(found[: len(sentences)]), ""]
    lines.append(f"`make crash-test` took {(time.perf_counter() - begun) / 60:.0f} min on {os.cpu_count()} cores.")
    if not given.short:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.partition(BEGIN)[0], text.partition(END)[2]
        write_atomic(PAGE, before + "\n".join([BEGIN, *lines, END]) + after)


if __name__ == "__main__":
    main()
