"""Room on the disk: told before a run starts, and when there is none left."""

import errno
import shutil
from pathlib import Path

from torch import nn

from nasbench.errors import FullError

REST = 16 * 2**20  # bytes of a record without weights: curves, log
HINT = "remove something, for instance what `nasbench clean` lists"
LEAST = 2**20  # bytes below which a file that could not be written is put down to the disk


def needed(space: nn.Module) -> int:
    """Bytes that a run may take at most at one time: two checkpoints of the supernet, with weights and momentum."""
    return REST + 4 * sum(p.numel() * p.element_size() for p in space.parameters())


def demand(folder: Path, size: int) -> None:
    """Raise a FullError unless there is room for so many bytes."""
    free = room(folder)
    if free < size:
        raise FullError(f"a run in {folder} needs up to {_mib(size)}, and {_mib(free)} are free: {HINT}")


def as_full(error: BaseException, folder: Path) -> FullError | None:
    """What to say of an error if the disk was full; PyTorch's own files tell only that they cannot be written."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            break
        cause = cause.__cause__ or cause.__context__
    if cause is None and (room(folder) >= LEAST or not isinstance(error, (OSError, RuntimeError))):
        return None
    hint = f"{HINT}; then `nasbench resume {folder}` goes on"
    return FullError(f"the disk of {folder} is full, {_mib(room(folder))} are free: {hint}")


def room(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def _mib(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"
