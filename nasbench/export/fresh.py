"""A file in its own runtime, in a process that had no part in writing it."""

import os
import pickle
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasbench import registry
from nasbench.errors import ExportError, NasbenchError
from nasbench.export.card import Card
from nasbench.export.format import read


class Fresh(AbstractContextManager["Fresh"]):
    """Another process, which has the file's runtime. What it prints is dropped."""

    def __init__(self) -> None:
        """Start it; it gets ready while the file is being written."""
        paths = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        command = [sys.executable, "-m", "nasbench.export.fresh"]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=quiet, env=paths)

    def read(self, name: str, path: Path, trust: bool) -> tuple[Card, bool]:
        """Load a file: what it says, and whether this machine can run it. Raises NasbenchError: see `format.read`."""
        return self._ask((name, path, trust))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of uint8 images (N, S, S, 3)."""
        return torch.from_numpy(self._ask(images.numpy()))

    def _ask(self, question: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            pickle.dump(question, self.process.stdin)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
        except (EOFError, BrokenPipeError) as e:
            raise ExportError(f"the process that tried the file died (exit status {self.process.wait()})") from e
        if isinstance(answer, NasbenchError):
            raise answer
        return answer

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()


def main() -> None:
    """The other process: reads a file, then computes logits until it is ended."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    name, path, trust = pickle.load(sys.stdin.buffer)
    try:
        with registry.trusting(trust):
            found = read(name, path)
    except NasbenchError as e:
        return answer(e)
    answer((found.card, found.runs))
    with torch.inference_mode():
        while found.runs:
            answer(found.logits(torch.from_numpy(pickle.load(sys.stdin.buffer))).numpy())


if __name__ == "__main__":
    main()
