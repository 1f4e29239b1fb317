"""Where the chatter of the libraries goes."""

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from nasbench.nni_bridge import log
from nasbench.terminal import one_line

LOGGERS = ("pytorch_lightning", "lightning", "nni", "nasbench", "huggingface_hub", "timm", "py.warnings")


class _Shown(logging.Handler):
    """Shows a run's log beside its progress."""

    def __init__(self, say: Callable[[str], object]) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        self._say(one_line(self.format(record)))


class _Log(logging.FileHandler):
    """A log that ends where the disk is full: the run says so in its own words."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave the line out."""

    def close(self) -> None:
        """Leave out what is left."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def quiet_libraries(file: Path | None = None, say: Callable[[str], object] | None = None) -> Iterator[None]:
    """Keep the libraries' chatter off the terminal; write it to `file`, warnings included, and `say` every line."""
    log.silence()
    handler = _Log(file, encoding="utf-8") if file else logging.NullHandler()
    handlers: list[logging.Handler] = [handler, *([_Shown(say)] if say else [])]
    for one in handlers:
        one.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    loggers = [logging.getLogger(n) for n in LOGGERS]
    before = [(logger, logger.propagate, list(logger.handlers)) for logger in loggers]
    for logger in loggers:
        logger.propagate = False
        logger.handlers = list(handlers)
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            yield
    finally:
        logging.captureWarnings(False)
        for logger, propagate, own in before:
            logger.propagate, logger.handlers = propagate, own
        handler.close()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep everything off the terminal, what code that is not Python prints, too."""
    with contextlib.ExitStack() as stack:
        nothing = stack.enter_context(Path(os.devnull).open("w"))
        stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(contextlib.redirect_stderr(nothing))
        for stream in (1, 2):
            before = os.dup(stream)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, stream)
            os.dup2(nothing.fileno(), stream)
        yield
