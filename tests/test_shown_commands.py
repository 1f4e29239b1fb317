"""Every command that README and documents show, as it stands, on small data: none is out of date, none is forgotten."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nasbench
from nasbench.commands import COMMANDS
from tests.test_commands import TINY

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```(?:sh|bash|console|shell)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Whole pages and sections that other tests follow from the first line to the last.
FOLLOWED = {
    "test_site.py": [f"docs/tutorials/{name}.md" for name in ("compare", "extend", "photos", "receptive_field")],
    "test_walk.py": ["README.md: From your photos to a phone"],
}
ELSEWHERE = {
    "make run": "CI installs, and this file runs what it runs",
    "make test": "CI",
    "pip install": "CI, and test_packaging.py",
    "nasbench run --ui": "test_portal.py, where somebody looks at the portal and ends it",
    "nasbench ui": "test_portal.py",
    "nasbench bench": "test_benchmarks.py, with fewer repetitions",
    "nasbench sweep seeds.yaml --on": "test_remote.py",
    "nasbench run --space nni.nas.hub.pytorch:MobileNetV3Space": "test_nni.py, as a smaller one of 9 GB less",
    "NODE_RANK=": "test_distributed.py, as two machines at once",
}
# Added to a command: its last word for an option counts.
LESS = {
    "run": "--batch-size 20 --workers 0 --epochs 2 --retrain-epochs 1 --max-trials 2",
    "tabular": "--seeds 2 --max-trials 5",
    "rank": "--networks 5 --batch-size 4 --score params --score naswot",
    "sweep": "--dry-run",
}
# What a machine without network, or one that is busy, is told.
REFUSED = {"--weights default": "cannot be had", "--limit latency": "cannot be kept"}


def sections(path: Path) -> Iterator[tuple[str, str]]:
    """Heading and text of a document's sections."""
    text = path.read_text(encoding="utf-8")
    fences = [match.span() for match in re.finditer(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)]
    starts = [
        match.start()
        for match in re.finditer(r"^#+ .*$", text, re.MULTILINE)
        if not any(a < match.start() < b for a, b in fences)
    ]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        heading, _, rest = text[start:end].partition("\n")
        yield heading.lstrip("# "), rest


def commands() -> list[str]:
    """The commands that no other test follows."""
    found = []
    followed = {name for names in FOLLOWED.values() for name in names}
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        page = str(path.relative_to(ROOT))
        for heading, text in sections(path) if page not in followed else ():
            if f"{page}: {heading}" in followed:
                continue
            for block in FENCE.findall(text):
                for line in block.replace("\\\n", " ").splitlines():
                    found += [part.strip() for part in re.sub(r"(^|\s)#.*", "", line).split("&&")]
    return list(dict.fromkeys(filter(None, found)))


SHOWN = [line for line in commands() if not line.startswith(tuple(ELSEWHERE))]
SLOW = ("run", "sweep", "tabular", "rank", "explain", "export", "profile")


def test_nothing_is_left_out_that_is_not_there() -> None:
    lines = commands()
    assert all(any(line.startswith(start) for line in lines) for start in ELSEWHERE)
    assert all((ROOT / "tests" / name).is_file() for name in FOLLOWED)
    assert len(SHOWN) > 40
    assert {line.split()[0] for line in SHOWN} == {"nasbench"}
    used = {line.split()[1] for line in SHOWN} | {"ui", "bench", "predict"}
    told = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in set(COMMANDS) - used - {"migrate"}:  # in a sentence at least
        assert f"nasbench {name}" in re.sub(r"\s+", " ", told), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader types: with a few runs, small data and the README's own space."""
    here = tmp_path_factory.mktemp("reader")
    found = [
        nasbench.run(out=here / "runs", strategy="pmpl", strategy_options={"warmup_epochs": 0}, epochs=1, **TINY),
        nasbench.run(out=here / "runs", architecture="global", **TINY),
    ]
    nasbench.run(out=here / "runs", strategy="pmpl", strategy_options={"warmup_epochs": 0}, epochs=1, seed=1, **TINY)
    found.append(nasbench.run(out=here / "singly", strategy="random", strategy_options={"trials": 2}, epochs=1, **TINY))
    for name, run in zip(("RUN_A", "RUN_B", "TRIALS"), found, strict=True):
        (here / name).symlink_to(run.path)
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("n01", "n02"):
            (here / "DIR" / "imagenet" / part / kind).mkdir(parents=True)
            for number in range(20):
                image = Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8))
                image.save(here / "DIR" / "imagenet" / part / kind / f"{number}.png")
    images, labels = rng.integers(0, 255, (40, 32, 32, 3), dtype=np.uint8), np.arange(40) % 10
    np.savez(here / "DIR" / "cifar10.npz", x_train=images, y_train=labels, x_test=images[::-1], y_test=labels[::-1])
    for code in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S | re.M):
        if name := re.match(r"# (\S+\.py)\n", code):
            (here / name[1]).write_text(code, encoding="utf-8")
    return here


def adapted(line: str, folder: Path) -> list[str]:
    """The words of a command for this folder and a machine without GPU."""
    for placeholder, path in (("RUNS…", "runs"), ("[RUN]", "RUN_A"), ("runs/*", "RUN_A"), ("/data", "DIR")):
        line = line.replace(placeholder, path)
    line = (
        re.sub(r"\bRUN\b", "TRIALS" if "trials" in line else "RUN_A", line)
        .replace("--device cuda", "--device cpu")
        .replace("--precision 16", "")
    )
    line = re.sub(r"--devices \d", "--devices 2", line)
    _, command, *words = shlex.split(line)
    less = LESS.get(command, "").split()
    if command == "run" and "planted" not in words:
        less += ["--train-images", "40", *([] if "--image-size" in words else ["--image-size", "16"])]
        less += ["-p", "width=0.05"] if not {"--space", "--width", "-p"} & {*words} else []
    return [command, *words, *less]


@pytest.mark.parametrize(
    "line", [pytest.param(x, marks=[pytest.mark.slow] if x.split()[1] in SLOW else []) for x in SHOWN]
)
def test_a_command_as_it_is_shown(line: str, folder: Path, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue("real_data") if line.split()[1] in ("tabular", "rank") else "DIR"
    words = adapted(line, folder)
    done = subprocess.run(
        [sys.executable, "-m", "nasbench", *words],
        cwd=folder,
        env=os.environ | {"MPLBACKEND": "agg", "NASBENCH_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = f"{' '.join(words)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert "Traceback" not in done.stderr, told
    if done.returncode == 2:
        (reason,) = [reason for option, reason in REFUSED.items() if option in line] or [""]
        assert reason, told
        assert reason in done.stderr.splitlines()[-1], told
    else:
        assert done.returncode == 0 or (words[0] == "doctor" and "fault:" in done.stdout), told
