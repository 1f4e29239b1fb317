"""Run a compiled function on several threads: on torch's own OpenMP team where there is one.

Torch's workers spin for about a millisecond after an operation, and any second team competes with them: on 2 cores a
backward pass took 3.8 ms on two Python threads and 2.2 ms on torch's team, which `GOMP_parallel` of GNU's and LLVM's
OpenMP lends. Elsewhere Python threads do it. Both are safe to call from several Python threads at once. A forked child
runs on one thread: no OpenMP team survives a fork.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import torch

Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_OWNER = os.getpid()  # of torch's threads, which no fork takes along


def count() -> int:
    """Number of threads to use: torch's, or one in a forked child."""
    return torch.get_num_threads() if os.getpid() == _OWNER else 1


@cache
def _team() -> Callable[..., None] | None:
    """`GOMP_parallel` of the OpenMP library that torch has loaded, if there is one."""
    bundled = sorted(str(path) for path in (Path(torch.__file__).parent / "lib").glob("lib*omp*"))
    for name in (*bundled, "libgomp.so.1", "libiomp5.so", "libomp.so"):
        try:
            function: Any = ctypes.CDLL(name, mode=os.RTLD_NOLOAD).GOMP_parallel
        except (OSError, AttributeError):
            continue
        function.argtypes = (Body, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        function.restype = None
        return function
    return None


def run(body: Any, argument: int, workers: int) -> None:
    """Call `body(argument)` at the same time on every one of `workers` threads, and wait for all.

    The body runs without the GIL and shares out its work by itself: it is right with fewer threads than asked for, too.
    """
    if workers == 1:
        body(argument)
    elif (team := _team()) is not None:
        team(body, argument, workers, 0)
    else:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(body, [argument] * workers))
