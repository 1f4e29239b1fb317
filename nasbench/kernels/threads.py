"""Run a compiled function on several threads: on torch's own OpenMP team where there is one.

Torch's workers spin for about a millisecond after an operation, and any second team competes with them: on 2 cores a
backward pass took 3.8 ms on two Python threads and 2.2 ms on torch's team, which `GOMP_parallel` of GNU's and LLVM's
OpenMP lends. Elsewhere Python threads do it. Both are safe to call from several Python threads at once. A forked child
runs on one thread: no OpenMP team survives a fork.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

Body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_is_forked = False


def _after_fork() -> None:
    global _is_forked
    _is_forked = True


os.register_at_fork(after_in_child=_after_fork)


def count() -> int:
    """Number of threads to use: torch's, or one in a forked child."""
    return 1 if _is_forked else torch.get_num_threads()


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
    """Call `body(argument)` at the same time on every one of `workers` threads, this one included, and wait for all.

    The body runs without the GIL and shares out its work by itself: it is right with fewer threads than asked for, too.
    """
    team = _team() if workers > 1 else None
    if team is not None:
        team(body, argument, workers, 0)
        return
    helpers = [threading.Thread(target=body, args=(argument,)) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    body(argument)
    for helper in helpers:
        helper.join()
