"""How many runs of a sweep there are at a time, and what each of them may use."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from nasbench import machine
from nasbench.config import RunConfig
from nasbench.errors import OptionError


@dataclass(frozen=True)
class Allocation:
    """What each run may use."""

    concurrency: int  # runs at a time
    threads: int  # of each run's process; 0 where they are not limited
    gpus: int  # that NNI gives to each run; 0 where it hands out none


def allocate(
    configs: Iterable[RunConfig], runs: int, concurrency: int | None, gpus: int, cores: int | None = None
) -> Allocation:
    """Allocate the `cores` (by default all of this process's) or `gpus` of this machine to the runs of a sweep.

    `configs` are `Study.samples`. `runs` counts those that are finished, too: when the sweep goes on after an
    interruption, each run gets the threads that the others had. Raises OptionError: a run asks for a GPU by its number,
    for more of them than there are, or for several machines.
    """
    if cores is None:
        cores = machine.cpus()
    configs = list(configs)
    if any(config.nodes > 1 for config in configs):
        raise OptionError("nodes: a run of a sweep has one machine; start a run on several with `nasbench run`")
    devices = {config.device for config in configs}
    on_gpu = gpus > 0 and devices != {"cpu"}
    for device in sorted(devices) if on_gpu else ():
        if device.startswith("cuda:"):
            raise OptionError(f"device {device}: a sweep gives each run its GPU; use auto, cuda or cpu")
    each = max(config.devices for config in configs)
    if on_gpu and each > gpus:
        raise OptionError(f"devices {each}: this machine has {gpus} GPU(s)")
    most = min(concurrency or gpus, gpus // each) if on_gpu else concurrency or max(1, cores // 2)
    most = min(most, runs)
    threads = max(1, cores // most)
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdigit() and int(given) > 0:
        threads = min(threads, int(given))
    # NNI's scheduler never gives away all GPUs of a machine at once; there the runs take turns without it.
    return Allocation(most, threads, each if on_gpu and each < gpus else 0)


def gpu_count() -> int:
    """GPUs of this machine that may be used."""
    import torch

    return torch.cuda.device_count()
