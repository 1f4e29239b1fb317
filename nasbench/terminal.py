"""What reaches the terminal, and nothing else does: no control character of a stranger's file, no JSON that is none."""

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table

LONGEST_MESSAGE = 2000  # characters of an error
WIDTH = 120  # columns where nobody is watching: tables are not to be wrapped at 80

# Whole sequences first: those of ECMA-48 that set colours or the title, then every control character but tab and
# newline, marks that change the direction of writing, and halves of characters that no terminal can take.
_SEQUENCES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\n\x07\x1b]*(?:\x07|\x1b\\)?")
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(text: str) -> str:
    """Text without terminal escapes and control characters; lines and tabs stay."""
    return _UNPRINTABLE.sub("", _SEQUENCES.sub("", text))


def one_line(text: str) -> str:
    """The same on one line of at most `LONGEST_MESSAGE` characters."""
    line = re.sub(r"[\n\t]+", " ", clean(text))
    return line if len(line) <= LONGEST_MESSAGE else line[: LONGEST_MESSAGE - 1] + "…"


def say(text: str) -> None:
    """Print a line on stderr, where everything goes that is not a result."""
    print(clean(text), file=sys.stderr, flush=True)


def write(text: str) -> None:
    """Print a result on stdout."""
    print(clean(text), flush=True)


def print_json(content: Any) -> None:
    """Print a value as one line of JSON, where what `clean` takes away is an escape; ValueError: it is not finite."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    print(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


class PlainConsole(Console):
    """Prints what strangers wrote: neither their escapes nor what rich would take for markup has an effect."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See `Console.render`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(clean(segment.text), segment.style)


def plain_console(stderr: bool = False, fit: RenderableType | None = None, **options: Any) -> Console:
    """A console for results, on stderr where stdout is for JSON; wide enough for `fit`, which would lose digits."""
    options = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False, **options}
    console = PlainConsole(**options)
    if not console.is_terminal:
        console = PlainConsole(**{"width": WIDTH, **options})
    if fit is not None:
        unlimited = console.options.update(width=10_000)
        console.width = max(console.width, Measurement.get(console, unlimited, fit).maximum)
    return console


def plain_table(*columns: str, title: str | None = None, right: Sequence[str] = ()) -> Table:
    """A table without lines; columns named in `right` hold numbers."""
    table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=name in right)
    return table
