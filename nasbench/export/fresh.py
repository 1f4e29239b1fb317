"""A file in its own runtime, in a process that had no part in writing it."""

import os
import subprocess
import sys
from contextlib import AbstractContextManager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
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
        self.pipe, theirs = Pipe()
        number, null = theirs.fileno(), subprocess.DEVNULL
        command = [sys.executable, "-m", "nasbench.export.fresh", str(number)]
        self.process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, env=paths, pass_fds=[number])
        theirs.close()

    def read(self, name: str, path: Path, trust: bool) -> tuple[Card, bool]:
        """Load a file: what it says, and whether this machine can run it. Raises NasbenchError: see `format.read`."""
        return self._ask((name, path, trust))

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of uint8 images (N, S, S, 3)."""
        return torch.from_numpy(self._ask(images.numpy()))

    def _ask(self, question: Any) -> Any:
        try:
            self.pipe.send(question)
            answer = self.pipe.recv()
        except (EOFError, ConnectionError) as e:
            raise ExportError(f"the process that tried the file died (exit status {self.process.wait()})") from e
        if isinstance(answer, NasbenchError):
            raise answer
        return answer

    def __exit__(self, *error: object) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.pipe.close()


def main() -> None:
    """The other process: reads a file, then computes logits until it is ended."""
    pipe = Connection(int(sys.argv[1]))
    name, path, trust = pipe.recv()
    try:
        with registry.trusting(trust):
            found = read(name, path)
    except NasbenchError as e:
        return pipe.send(e)
    pipe.send((found.card, found.runs))
    with torch.inference_mode():
        while found.runs:
            pipe.send(found.logits(torch.from_numpy(pipe.recv())).numpy())


if __name__ == "__main__":
    main()
