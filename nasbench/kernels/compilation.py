"""Compile the CPU's kernels at first use (several seconds), and keep them in a folder named after their source.

That is in `NUMBA_CACHE_DIR`, else in the user's cache; where neither can be written, each process compiles its own.
"""

import hashlib
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import types

# Where numba's annotations end: neither is declared.
carray: Any = vars(numba)["carray"]
_settings: Any = numba.config

compiled = numba.njit(nogil=True, error_model="numpy")  # decorator of everything that a body calls

_lock = threading.Lock()


def cache_folder() -> Path | None:
    """Folder for the compiled kernels, named after their source; None if none can be written."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    name = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    if _settings.CACHE_DIR:
        base = Path(_settings.CACHE_DIR)
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = base / "nasbench" / "kernels" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder if os.access(folder, os.W_OK) else None


def body(function: Callable[[Any], None]) -> Any:
    """Compile a function of one address, or take it from the cache; returns a `threads.Body`.

    It calls `compiled` functions only, and stays compiled as long as the process lives.
    """
    with _lock:
        return _compiled(function).ctypes


@cache
def _compiled(function: Callable[[Any], None]) -> Any:
    folder, kept = cache_folder(), _settings.CACHE_DIR
    _settings.CACHE_DIR = str(folder or "")  # numba knows only one for all, which it reads while decorating
    try:
        decorate = numba.cfunc(types.void(types.voidptr), cache=folder is not None, error_model="numpy")
        return decorate(function)
    finally:
        _settings.CACHE_DIR = kept
