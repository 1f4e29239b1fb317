"""Ways to end a program from outside that end it in order."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM and a closed terminal do what Ctrl-C does: end everything in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Who starts a program with nohup has these ignored on purpose.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
