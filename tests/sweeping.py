"""Real sweeps for tests: a space that trains in no time, and the command as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from nasbench.cli import main
from nasbench.studies.study import Study, make_study

# A space that trains in no time, and of which a user may have got something wrong.
SPACE = """
import os, signal, time
from pathlib import Path
import torch
from torch import nn
from nni.nas.nn.pytorch import LayerChoice, ModelSpace

class Space(ModelSpace):
    def __init__(self, fate: str = 'well', num_classes: int = 2):
        super().__init__()
        self.fate = fate
        self.stem = nn.Conv2d(3, 4, 3)
        self.pool = LayerChoice({'average': nn.AdaptiveAvgPool2d(1), 'maximum': nn.AdaptiveMaxPool2d(1)}, label='pool')
        self.head = nn.Linear(4, num_classes)
        self.pixels = nn.Linear(192, num_classes)

    def forward(self, x):
        if self.fate == 'raise':
            raise RuntimeError('no\\nsuch luck')
        if self.fate == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        while self.fate == 'wait' and not Path('go').exists():
            time.sleep(0.1)
        if self.fate == 'good':
            return self.pixels(x.flatten(1))
        if self.fate == 'bad':
            time.sleep(0.4)
            return 0 * self.pixels(x.flatten(1))
        if self.fate == 'record':
            Path('inherited').write_text(repr((dict(os.environ), torch.get_num_threads())))
        return self.head(self.pool(self.stem(x)).flatten(1))
"""
QUICK = {"image_size": 8, "train_images": 96, "batch_size": 32, "epochs": 2, "retrain_epochs": 2, "device": "cpu"}


def command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["nasbench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def enter_own_space(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with a user's space the current one."""
    (folder / "own_space.py").write_text(SPACE)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("own_space", None)
    return folder


def fates(*names: str, **fields: Any) -> Study:
    """A sweep over what happens to the runs."""
    base = {**QUICK, "space": "own_space:Space", "strategy": "random"}
    return make_study({"name": "fates", "base": base, "grid": {"space_options.fate": list(names)}, **fields})


def leftovers(*words: str) -> list[str]:
    """Command lines of processes that name one of these words."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if process.pid != os.getpid() and any(word in line for word in words):
                found.append(line)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    """What a condition gives as soon as it is true."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)
    return value


class Running:
    """The command line as a process, with what it has said so far."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nasbench", *arguments],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As after Ctrl-C in a terminal; a shell's background processes ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            # What is tested may not be what is installed.
            env={**os.environ, "PYTHONPATH": f"{cwd}:{os.environ.get('PYTHONPATH', '')}", "COLUMNS": "200"},
        )
        self.said: list[str] = []
        self.printed: list[str] = []
        self._threads = [
            threading.Thread(target=self._read, args=pair, daemon=True)
            for pair in ((self.process.stderr, self.said), (self.process.stdout, self.printed))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def line(self, start: str, seconds: float = 120) -> str:
        """The rest of the first line that begins so, on either stream."""

        def found() -> str | None:
            lines = [line for line in [*self.said, *self.printed] if line.startswith(start)]
            assert lines or self.process.poll() is None, "\n".join(self.said)
            return lines[0] if lines else None

        return str(wait_for(found, seconds)).removeprefix(start)

    def end(self, seconds: float = 300) -> int:
        """Its exit code, when it has ended by itself."""
        code = self.process.wait(seconds)
        for thread in self._threads:
            thread.join()
        return code


@contextmanager
def running(*arguments: str, cwd: Path) -> Iterator[Running]:
    """The command line as a process that is ended with the test."""
    started = Running(*arguments, cwd=cwd)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.terminate()
            started.end(60)


def sweep_file(folder: Path, sweep: Study | dict[str, Any]) -> str:
    """The name of a file in a folder with a sweep."""
    fields = sweep.model_dump(mode="json", exclude_unset=True) if isinstance(sweep, Study) else sweep
    (folder / "sweep.yaml").write_text(yaml.safe_dump(fields, sort_keys=False))
    return "sweep.yaml"
