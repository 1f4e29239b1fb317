"""Peak memory of a stage, and what is free."""

import contextlib
import resource
import sys
from pathlib import Path


def reset_peak() -> None:
    """Start a new measurement of the peak."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Where this is not Linux, or not allowed, the peak is the whole process's so far.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def free_bytes() -> int:
    """Memory that this process may still take, by the machine and by its control group; 0 where nobody knows."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            group = Path("/sys/fs/cgroup")
            limit, used = (int((group / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
            free = min(free, max(0, limit - used))
        return free
    return 0


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
