"""What goes wrong, in words for the person in front of the terminal."""

from collections.abc import Iterable
from difflib import get_close_matches


class NasbenchError(Exception):
    """Base of every error that a user can cause and mend: one line that says what was wrong, where, and what to do."""

    exit_code = 2  # of the command


class OptionError(NasbenchError, ValueError):
    """A value that is unknown, of the wrong kind or out of range."""


class DataError(NasbenchError):
    """A data set that is missing or cannot be read."""


class ArchitectureError(NasbenchError, ValueError):
    """An architecture that does not fit its space."""


class LimitError(NasbenchError):
    """A limit of what a network may cost that cannot be kept, or was not."""


class RunFailed(NasbenchError):
    """A run that another process made, and that failed for a reason that is no mistake in its settings."""

    exit_code = 1


class ExportError(NasbenchError):
    """A network that a format cannot hold, or that computes something else in its runtime."""

    exit_code = 1


class RecordError(NasbenchError):
    """A run record that is damaged, in use, or of another configuration."""


class FullError(NasbenchError):
    """A disk or memory with too little room for a run."""

    exit_code = 1


class NonFiniteError(NasbenchError, ArithmeticError):
    """A loss, a weight or an architecture parameter that is no longer a finite number."""

    exit_code = 1


LONGEST = 200  # characters of somebody else's text that a message quotes


def quoted(text: object) -> str:
    """Somebody else's text as it can stand in a message: on one line, in quotes, and not too long."""
    shown = repr(text if not isinstance(text, str) else text[: LONGEST + 1])
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}…"


def unknown(kind: str, name: object, known: Iterable[object]) -> str:
    """Say in one line that a name of this kind (e.g. `"space"`) is unknown, with the nearest of the valid ones."""
    names = [str(k) for k in known]
    text = str(name)[:LONGEST]
    close = get_close_matches(text.lower(), names, n=1, cutoff=0.5) or [k for k in names if text and k.startswith(text)]
    hint = f" did you mean {close[0]!r}?" if close else ""
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"unknown {kind} {text!r}:{hint} (known: {listed or 'none'})"


def listed(names: Iterable[object], most: int = 10) -> str:
    """Names with commas: the first few and how many more there are, control characters escaped."""
    every = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(n)) for n in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most:,} more" if len(every) > most else "")
