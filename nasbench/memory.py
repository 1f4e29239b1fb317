"""Peak memory of a stage, what a stage will need, and what is free."""

import contextlib
import copy
import ctypes
import os
import platform
import resource
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from nasbench.errors import FullError

SCATTERED = 1.35  # of the C library's heap: what it holds, over what lives in it
LESS = "a smaller --batch-size or --image-size, a narrower space or fewer candidates take less"
LIBRARIES = 200 * 2**20  # bytes that code takes which the first step compiles or loads


TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # `mallopt`'s numbers of them
LARGEST = 32 * 2**20  # bytes, the largest MMAP_THRESHOLD that it takes


@cache
def _glibc() -> Any:
    """The C library, where it is the one with `mallopt` and the user has not told it when to give memory back."""
    told = {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & set(os.environ)
    if told or "malloc" in os.environ.get("GLIBC_TUNABLES", "") or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let the process keep, meanwhile, what a training step frees, for the next one.

    The system clears each page that it is asked for, which took a fifth of a step. Blocks above `LARGEST` are given
    back all the same. Nothing changes where the C library is not glibc or the environment sets its thresholds.
    """
    library = _glibc()
    if not library:
        yield
        return
    library.mallopt(MMAP_THRESHOLD, LARGEST)
    library.mallopt(TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        library.mallopt(TRIM_THRESHOLD, 2 * LARGEST)  # where glibc's own rule would have brought it
        library.malloc_trim(0)


def reset_peak() -> None:
    """Start a new measurement of the peak, from what is in use."""
    import torch

    if library := _glibc():
        library.malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Where this is not Linux, or not allowed, the peak is the whole process's so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_bytes() -> int:
    """Memory that this process may still take, by the machine and by its control group."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    return free


def peak_bytes() -> int:
    """Peak since `reset_peak`: of the GPU's memory where one was used, else of the process's resident memory."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def of_training(network: Any, image_size: int, batch: int, on_gpu: bool = False) -> tuple[int, int]:
    """Bytes at the peak of training a network (N, 3, S, S) → (N, classes) in float32 on N images, and bytes to be had.

    What lives at one time is counted on the CPU, for two images; if as much for each of N did not fit, for three as
    well, since it grows in a straight line from what does not depend on N. With that goes the momentum and, on the
    CPU, what the process holds already, `SCATTERED` and `LIBRARIES`.
    """
    import torch
    from torch.nn import functional as F

    from nasbench.contracts import main_logits
    from nasbench.limits.memory import Living

    network = copy.deepcopy(network).train()
    weights = sum(p.numel() * p.element_size() for p in network.parameters())
    resident = psutil.Process().memory_info().rss
    held = weights if on_gpu else resident + LIBRARIES
    free = torch.cuda.mem_get_info()[0] if on_gpu else free_bytes() + resident

    def peak(images: int) -> int:
        with torch.random.fork_rng(devices=[]), Living(0) as living:
            logits = main_logits(network(torch.zeros(images, 3, image_size, image_size)))
            F.cross_entropy(logits, torch.zeros(images, dtype=torch.long)).backward()
        network.zero_grad()
        return int(living.peak)

    def whole(living: int) -> int:
        return held + weights + int(living * (1 if on_gpu else SCATTERED))

    two = peak(2)
    bound = whole(two * max(2, batch) // 2)
    return (bound if bound <= free else whole(two + (peak(3) - two) * max(0, batch - 2))), free


def as_exhausted(error: BaseException) -> FullError | None:
    """What to say of an error if memory was full."""
    import torch

    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "can't allocate memory" not in str(error):
        return None
    return FullError(f"out of memory ({str(error).strip().splitlines()[0][:150]}): {LESS}")
