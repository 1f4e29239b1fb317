"""What a file format does, and which one a file has. The formats are the modules that `nasbench.export` lists."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import Dim

from nasbench import registry
from nasbench.contracts import main_logits
from nasbench.data.preparation import normalised
from nasbench.errors import NasbenchError, OptionError, unknown
from nasbench.export import FORMATS
from nasbench.export.card import INPUT, Card, card_of
from nasbench.networks import load_model
from nasbench.quiet import quiet_libraries, silence
from nasbench.record import Record, is_record

DYNAMIC = {INPUT: {0: Dim("batch", min=1)}}  # the shapes that exporters are to leave open


class Deployed(nn.Module):
    """A trained network behind its normalisation: uint8 images (N, S, S, 3) → logits (N, classes)."""

    def __init__(self, network: nn.Module, card: Card) -> None:
        """Wrap a network (N, 3, S, S) → logits, or a tuple of these and more."""
        super().__init__()
        self.network, self.mean, self.std = network, card.mean, card.std
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of `images`."""
        return main_logits(self.network(normalised(images, self.mean, self.std)))


@dataclass(frozen=True)
class Runnable:
    """A network in the runtime of its format."""

    card: Card  # what the file says of it
    logits: Callable[[Tensor], Tensor]  # of uint8 images (N, S, S, 3), as (N, classes) on the CPU
    runs: bool = True  # whether this machine can compute them


class Format(Protocol):
    """What a format's module has. It imports the packages of the format in its functions only."""

    SUFFIX: str  # of its files' names
    # That it imports beside what nasbench needs anyway; what installs them is `INSTALL`, else the extra of its name.
    PACKAGES: tuple[str, ...]
    RUNS_CODE: bool  # whether reading a stranger's file may run a stranger's code

    def write(self, network: Deployed, example: Tensor, card: Card, path: Path) -> None:
        """Write a network that has been called before; `example` are two images."""

    def read(self, path: Path) -> Runnable:
        """Load a file in the format's own runtime."""


@runtime_checkable
class Quantising(Format, Protocol):
    """What a format's module has besides where it can hold networks in int8."""

    def quantise(self, network: Deployed, images: Tensor, card: Card, path: Path) -> None:
        """Write a network in int8, its ranges taken from uint8 images (N, S, S, 3)."""

    def describe(self, card: Card, path: Path) -> None:
        """Write another card into a file."""


def load_format(name: str) -> Format:
    """A format by its name. Raises OptionError: there is no such format, or what it needs is not installed."""
    if name not in FORMATS:
        raise OptionError(unknown("format", name, FORMATS))
    found = format_of(name)
    missing = [package for package in found.PACKAGES if find_spec(package) is None]
    if missing:
        install = registry.declared(found, "INSTALL", f'pip install "nasbench[{name}]"')
        raise OptionError(f"format {name} needs {', '.join(missing)}: {install}")
    return found


def load_network(path: Path, trust: bool = False) -> Runnable:
    """The network of a record or of an exported file, which says by its name what it is.

    `trust` allows what may run its maker's code. Raises NasbenchError: it is neither, damaged, or not trusted.
    """
    with registry.trusting(trust):
        if is_record(path):
            card = card_of(Record(path))
            return Runnable(card, Deployed(load_model(path, trust), card))
        name = next((name for name in FORMATS if path.name.endswith(format_of(name).SUFFIX)), None)
        if not path.exists() or (path.is_dir() and name is None):
            raise OptionError(f"{path} is neither a record nor an exported file")
        if name is None:
            known = ", ".join(format_of(name).SUFFIX for name in FORMATS)
            raise OptionError(f"{path} is neither a record nor an exported file, whose name would end in {known}")
        if format_of(name).RUNS_CODE and not trust:
            raise OptionError(f"reading {path} runs the program in it: allow it by --trust")
        found = read(name, path)
    if not found.runs:
        raise OptionError(f"{path} runs on macOS only: export the network to another format, too")
    return found


def read(name: str, path: Path) -> Runnable:
    """Load a file, and try it on one black image, without chatter. Raises OptionError: it is damaged, or a stranger."""
    try:
        # Weights made in inference mode could not be used outside of it.
        with quiet_libraries(), silence(), torch.no_grad():
            found = load_format(name).read(path)
            size, classes = found.card.image_size, len(found.card.class_names)
            if not found.runs:
                return found
            shape = tuple(found.logits(torch.zeros(1, size, size, 3, dtype=torch.uint8)).shape)
    except NasbenchError:
        raise
    except Exception as e:
        raise OptionError(f"{path} cannot be read as {name}: {' '.join(str(e).split())[:200]}") from e
    if shape != (1, classes):
        raise OptionError(f"{path} says that it has {classes} classes, and computes {shape} of an image")
    return found


def format_of(name: str) -> Format:
    """A format by its name, whether or not what it needs is installed."""
    return cast(Format, import_module(f"nasbench.export.{name}"))
