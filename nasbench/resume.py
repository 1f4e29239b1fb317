"""A training that was interrupted goes on after its last whole epoch, as if nothing had happened."""

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pytorch_lightning import Callback

from nasbench.contracts import Evaluator
from nasbench.distributed import broadcast, gathered, is_first, rank
from nasbench.errors import RecordError
from nasbench.files import sha256

DIGITS = 16  # of the SHA-256 in a file's name


class Resumption(Callback):
    """Keeps the state of one training after every epoch but the last, in a file named by its content.

    In it are weights, architecture parameters, optimisers, schedules, what is decided, all callbacks' states (Lightning
    has these), the random states of every process, the order of the data and the time that it took so far. A new file
    is whole before the one before it goes. `before` are the seconds that earlier processes took.
    """

    def __init__(self, folder: Path, stage: str, deadline: float | None = None) -> None:
        """Count the time of a stage, whose name begins those of the files in `folder`, from now on.

        Before an epoch that would end after `deadline` (`time.perf_counter`) it raises a KeyboardInterrupt.
        """
        self._deadline, self._last = deadline, 0.0
        self._folder, self._stage = folder, stage
        self._begun = time.perf_counter()
        self.before = 0.0

    def follow(self, evaluator: Evaluator) -> str | None:
        """Keep the next fit; returns the checkpoint that it goes on from, if any. Raises RecordError: it is damaged."""
        self._data = evaluator.datamodule
        evaluator.observe([self])
        found: Path | None = broadcast(self._found() if is_first() else None)
        return None if found is None else str(found)

    def keep(self, content: Any) -> None:
        """Keep values and tensors of the first process, in the place of what was kept before."""
        if is_first():
            self._replace(lambda temporary: torch.save(content, temporary))
        if self._late():
            raise KeyboardInterrupt

    def kept(self) -> Any:
        """What an earlier process kept, in every process; `None` if nothing. Raises RecordError: it is damaged."""
        found = self._found() if is_first() else None
        return broadcast(None if found is None else torch.load(found, weights_only=True))

    @property
    def seconds(self) -> float:
        """What the training has taken so far, in this process and in those before it."""
        return self.before + time.perf_counter() - self._begun

    def clear(self) -> None:
        """Remove the files: the stage is done."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the state; the end of the last epoch is the end of the stage."""
        # The first process has reduced the epoch's measures for its record: the others must, before more is shared.
        _ = trainer.callback_metrics
        late = self._late()
        if trainer.current_epoch + 1 >= trainer.max_epochs or trainer.should_stop:
            return
        self._replace(trainer.save_checkpoint)
        if late:
            raise KeyboardInterrupt

    def state_dict(self) -> dict[str, Any]:
        """What Lightning does not keep."""
        return {"random": random_states(), "data": self._data.state_dict(), "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the order of the data and the random numbers, before Lightning draws any from the loaders."""
        self.before = state_dict["seconds"]
        self._data.load_state_dict(state_dict["data"])
        set_random_states(state_dict["random"])

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"{self._stage}-*.ckpt"), key=lambda path: path.stat().st_mtime_ns)

    def _replace(self, write: Callable[[Path], Any]) -> None:
        """Write a new file and remove the one before it; every process writes, the first one's stays."""
        old, temporary = self._files(), self._folder / f".{self._stage}.{os.getpid()}.tmp"
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            if is_first():
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(self._folder / f"{self._stage}-{sha256(temporary)[:DIGITS]}.ckpt")
                for path in old:
                    path.unlink(missing_ok=True)
        finally:
            temporary.unlink(missing_ok=True)

    def _late(self) -> bool:
        """Whether as much again would take longer than there is time."""
        now = time.perf_counter()
        taken, self._last = now - (self._last or self._begun), now
        return self._deadline is not None and now + taken > self._deadline

    def _found(self) -> Path | None:
        files = self._files()
        if not files:
            return None
        if files[-1].stem != f"{self._stage}-{sha256(files[-1])[:DIGITS]}":
            raise RecordError(f"{files[-1]} is damaged: remove it, and the stage {self._stage} begins anew")
        return files[-1]


def random_states() -> list[dict[str, Any]]:
    """Of everything that draws in each process, as values that a checkpoint may hold; every process must call it."""
    name, key, *rest = cast(Any, np.random.get_state())  # noqa: NPY002  (libraries draw from it)
    return gathered(
        {
            "python": random.getstate(),
            "numpy": [name, key.tolist(), *rest],
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        }
    )


def set_random_states(states: Sequence[dict[str, Any]]) -> None:
    """Go on with the random numbers of this process."""
    state = states[rank()]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
