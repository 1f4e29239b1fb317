"""Whatever is given to the commands, they answer: no traceback, no hang, no wrong number, nothing changed by reading.

`make fuzz` tries 2,000 cases and more; the usual tests try a few dozen of each kind.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import nasbench
from nasbench.cli import main
from nasbench.errors import NasbenchError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import Record

SCALE = int(os.environ.get("NASBENCH_FUZZ", "1"))  # how many times as many cases as usual
TINY: dict[str, Any] = {
    **{"space_options": {"width": 0.05}, "image_size": 8, "train_images": 48, "batch_size": 16, "device": "cpu"},
    **{"epochs": 2, "retrain_epochs": 1, "dataset": "digits", "strategy_options": {"warmup_epochs": 1}},
}
# Not tried by default: settings whose size is time, such as epochs, are only given wrong values.
quick = settings(max_examples=12 * SCALE, derandomize=True, suppress_health_check=list(HealthCheck), database=None)
numbers = st.sampled_from([0, -1, 1, 0.5, 1e-300, 1e6, 1e30, 2**40, -(2**63), math.inf, -math.inf, math.nan])
words = st.sampled_from(
    ["", " ", "a", "none", "full", "none,none", "None", "null", "[]", "{}", "\x1b[31mred", "é" * 300]
)
plain = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner),
)


def command(*arguments: str) -> tuple[int, str, str]:
    """What a command answers in this process: exit code, output and errors."""
    out, errors, before = StringIO(), StringIO(), sys.argv
    sys.argv = ["nasbench", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            main()
    except SystemExit as stopped:
        return int(stopped.code or 0), out.getvalue(), errors.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue(), errors.getvalue()


def answered(*arguments: str) -> int:
    """Run a command, and check that it ends well or says in a line why not."""
    code, out, errors = command(*arguments)
    assert code in (0, 1, 2), arguments
    assert "Traceback" not in errors, (arguments, errors)
    assert "\x1b[31m" not in out + errors, arguments  # a terminal escape from a file
    if code:
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, (arguments, errors)
        assert len(lines[0]) < 3000, arguments
    return code


def fingerprint(folder: Path) -> dict[str, str]:
    """What is in a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished records, of a search and of a given architecture."""
    folder = tmp_path_factory.mktemp("templates")
    run(resolve_config(TINY), folder / "searched")
    given = {**TINY, "strategy": "fixed", "strategy_options": {"choice": "global"}}
    run(resolve_config(given), folder / "given")
    for kept in folder.glob("*/*"):
        shutil.rmtree(kept / "checkpoints")
    return folder


def leaves(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values in nested mappings and lists."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(leaf for key, value in inner for leaf in leaves(value, (*path, key)))]


def replaced(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """The content with another value at one place."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replaced(copy[path[0]], path[1:], value)
    return copy


def damage(record: Path, data: st.DataObject) -> None:
    """Do something to one of a record's files."""
    file = record / data.draw(st.sampled_from(sorted(p.name for p in record.iterdir() if p.is_file())), label="file")
    how = data.draw(
        st.sampled_from(["value", "value", "value", "whole", "cut", "bytes", "gone", "folder"]), label="how"
    )
    content = file.read_bytes()
    structured = file.suffix in (".json", ".yaml")
    if how in ("value", "whole") and structured:
        try:
            tree = json.loads(content) if file.suffix == ".json" else yaml.safe_load(content)
        except (ValueError, yaml.YAMLError):
            return  # damaged already
        path = data.draw(st.sampled_from(leaves(tree)), label="where") if how == "value" else ()
        tree = replaced(tree, path, data.draw(plain, label="value"))
        file.write_text(json.dumps(tree) if file.suffix == ".json" else yaml.safe_dump(tree))
    elif how == "gone":
        file.unlink()
    elif how == "folder":
        file.unlink()
        file.mkdir()
    elif how == "cut":
        file.write_bytes(content[: data.draw(st.integers(0, max(0, len(content) - 1)))])
    else:
        where = data.draw(st.integers(0, max(0, len(content) - 1)))
        file.write_bytes(content[:where] + data.draw(st.binary(max_size=20)) + content[where + 5 :])


READING: tuple[Callable[[Path, Path], list[str]], ...] = (
    lambda record, out: ["show", str(record)],
    lambda record, out: ["show", str(record), "--json"],
    lambda record, out: ["explain", str(record)],
    lambda record, out: ["explain", str(record), "--output", str(out)],
    lambda record, out: ["table", "table3", str(record.parent.parent)],
    lambda record, out: ["table", "strategies", str(record.parent.parent), "--format", "json"],
    lambda record, out: ["table", "pivot", str(record.parent.parent)],
    lambda record, out: ["agreement", str(record.parent.parent), "--format", "json"],
    lambda record, out: ["compare", str(record), str(next(record.parent.parent.glob("given/*")))],
    lambda record, out: ["profile", "--architecture", str(record)],
    lambda record, out: ["plot", str(record), "--what", "alphas", "--output", str(out)],
    lambda record, out: ["plot", str(record.parent.parent), "--what", "tradeoff", "--output", str(out)],
    lambda record, out: ["report", str(record.parent.parent), "--output", str(out)],
)


@quick
@given(data=st.data(), which=st.sampled_from(range(len(READING))))
def test_damaged_records_are_named_and_left_as_they_are(templates: Path, data: st.DataObject, which: int) -> None:
    with TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        shutil.copytree(templates, runs)
        record = next((runs / data.draw(st.sampled_from(["searched", "given"]))).iterdir())
        for _ in range(data.draw(st.integers(1, 2))):
            damage(record, data)
        before = fingerprint(runs)
        answered(*READING[which](record, Path(folder) / "out"))
        with suppress(NasbenchError):
            nasbench.load_model(record)
        assert fingerprint(runs) == before


OPTIONS = {
    "--space": words,
    "--strategy": words,
    "--dataset": words,
    "--preset": words,
    "--width": numbers,
    "--candidates": words,
    "--choice": words,
    "--seed": numbers,
    "--batch-size": numbers,
    "--image-size": st.sampled_from([-1, 0, 3, 4, 5, 2**40, "a", math.nan]),
    "--train-images": numbers,
    "--epochs": st.sampled_from([-1, 0, "a", math.inf]),
    "--precision": words,
    "--device": st.sampled_from(["", "cuda:9", "tpu", "cpu:1"]),
    "--devices": st.sampled_from([-1, 0, 2000]),
    "-s": st.tuples(st.sampled_from(["eta", "rho", "zeta", "warmup_epochs", "meta_fraction", "seed", "x"]), plain),
    "-p": st.tuples(st.sampled_from(["width", "dropout", "reduction", "position", "num_classes", "candidates"]), plain),
    "-e": st.tuples(
        st.sampled_from(
            ["learning_rate", "momentum", "label_smoothing", "gradient_clip", "ema", "data", "stage", "epochs"]
        ),
        plain,
    ),
}


def said(name: str, value: Any) -> list[str]:
    """An option as it is typed."""
    if isinstance(value, tuple):
        return [name, f"{value[0]}={json.dumps(value[1]).replace('NaN', '.nan').replace('Infinity', '.inf')}"]
    return [f"{name}={value}"] if name.startswith("--") else [name, str(value)]


def checked_run(folder: Path, arguments: list[str]) -> None:
    """A run ends with finite numbers, or says why it cannot."""
    code = answered("run", "--out", str(folder / "runs"), *arguments)
    for path in (folder / "runs").glob("*"):
        record = Record(path)
        assert (record.status().state == "finished") == (code == 0)
        if code == 0:
            for number in (record.result().top1, *(float(row["value"]) for row in record.curves("metrics.csv"))):
                assert math.isfinite(number)


@quick
@given(chosen=st.lists(st.sampled_from(sorted(OPTIONS)), min_size=1, max_size=3, unique=True), data=st.data())
def test_command_lines(chosen: list[str], data: st.DataObject) -> None:
    usual = {"--width": 0.05, "--image-size": 8, "--train-images": 48, "--batch-size": 16, "--epochs": 2}
    arguments = [word for name, value in usual.items() if name not in chosen for word in said(name, value)]
    arguments += [word for name in chosen for word in said(name, data.draw(OPTIONS[name], label=name))]
    with TemporaryDirectory() as folder:
        checked_run(Path(folder), [*arguments, "--retrain-epochs", "1"])


PROFILED = ("--space", "--dataset", "--width", "--candidates", "--image-size", "-p")


@quick
@given(chosen=st.lists(st.sampled_from(PROFILED), min_size=1, max_size=3, unique=True), data=st.data())
def test_profiles(chosen: list[str], data: st.DataObject) -> None:
    arguments = [word for name in chosen for word in said(name, data.draw(OPTIONS[name], label=name))]
    which = data.draw(st.sampled_from([[], [f"--architecture={data.draw(words)}"]]), label="architecture")
    answered("profile", "--width=0.05", "--image-size=8", *arguments, *which)


SMALL = [
    "--width=0.05",
    "--image-size=8",
    "--batch-size=8",
    "--strategy=random",
    "--retrain-epochs=1",
    "--train-images=40",
]


@quick
@given(data=st.data())
def test_arrays(data: st.DataObject) -> None:
    shapes = st.sampled_from(
        [(24, 8, 8), (24, 8, 8, 3), (24, 8, 8, 1), (24, 8, 8, 4), (0, 8, 8), (24, 5), (24, 9, 6, 3)]
    )
    kinds = st.sampled_from(["uint8", "uint8", "uint8", "float32", "int64", "bool"])
    labels = st.sampled_from(["two", "two", "two", "one", "huge", "negative", "float", "text", "short"])
    rng = np.random.default_rng(0)

    def of_labels(count: int) -> Any:
        values = np.arange(count) % 2
        how = data.draw(labels, label="labels")
        changed = {"one": values * 0, "huge": values * 2**40, "negative": values - 1, "short": values[:-1]}
        changed |= {"float": values / 2, "text": values.astype(str)}
        return changed.get(how, values)

    with TemporaryDirectory() as folder:
        arrays = {}
        for part in ("train", "test"):
            shape = data.draw(shapes, label=part)
            kind = data.draw(kinds, label=f"{part} type")
            arrays[f"x_{part}"] = rng.integers(0, 256, shape).astype(kind)
            arrays[f"y_{part}"] = of_labels(shape[0])
        if data.draw(st.booleans(), label="lacking"):
            del arrays[data.draw(st.sampled_from(sorted(arrays)))]
        np.savez(Path(folder) / "data.npz", **arrays)
        checked_run(Path(folder), ["--dataset=arrays", f"--data-root={folder}/data.npz", *SMALL])


@quick
@given(data=st.data())
def test_folders_of_pictures(data: st.DataObject) -> None:
    parts = st.sampled_from(["", "train", "test", "valid", "Validation", "other", "train/inner"])
    modes = ["RGB", "RGBA", "L", "LA", "P", "CMYK", "1", "I;16"]
    broken = st.sampled_from([None, None, None, b"", b"text", b"\x89PNG\r\n\x1a\n", "folder", "fifo"])
    with TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        root.mkdir()
        for part in data.draw(st.lists(parts, min_size=1, max_size=3, unique=True), label="parts"):
            for name in data.draw(st.sampled_from([["a", "b"], ["a"], ["a", "b", "é c"], []]), label="classes"):
                (root / part / name).mkdir(parents=True, exist_ok=True)
                for number in range(data.draw(st.sampled_from([0, 1, 12]), label="pictures")):
                    size = (data.draw(st.integers(1, 20)), 9)
                    mode = modes[number % len(modes)]
                    Image.new("L", size, 40 * (number % 6)).convert(mode).save(
                        root / part / name / f"{number}.{'tiff' if mode == 'CMYK' else 'png'}"
                    )
                bad = data.draw(broken, label="broken")
                path = root / part / name / "bad.png"
                if bad == "fifo":
                    os.mkfifo(path)
                elif bad == "folder":
                    path.mkdir()
                elif isinstance(bad, bytes):
                    path.write_bytes(bad)
        more = ["--skip-broken"] if data.draw(st.booleans(), label="skip") else []
        checked_run(Path(folder), ["--dataset=imagefolder", f"--data-root={root}", *SMALL, *more])
