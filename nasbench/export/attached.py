"""A card at the end of a file that has no place for one: a ZIP archive, one text an entry, which runtimes skip.

TensorFlow Lite has its associated files like this; `unzip -p FILE class_names` prints an entry.
"""

import zipfile
from pathlib import Path

from nasbench.export.card import Card


def describe(card: Card, path: Path) -> None:
    """Put a card at the end of a file of a single image's network, in the place of the one that is there."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            start = min(entry.header_offset for entry in archive.infolist())
        with path.open("r+b") as file:
            file.truncate(start)
    with zipfile.ZipFile(path, "a") as archive:
        for name, text in card.one_at_a_time().texts().items():
            archive.writestr(name, text)


def described(path: Path) -> Card:
    """The card of a file. Raises OptionError: an entry is missing or damaged."""
    with zipfile.ZipFile(path) as archive:
        return Card.read({name: archive.read(name).decode() for name in archive.namelist()}, path)
