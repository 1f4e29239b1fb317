"""From a record to a file that was tried in its own runtime."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from nasbench import registry
from nasbench.errors import DataError, ExportError, NasbenchError, OptionError
from nasbench.export.card import Card, card_of
from nasbench.export.format import Deployed, load_format, read
from nasbench.networks import load_model
from nasbench.quiet import quiet_libraries
from nasbench.record import Record

TOLERANCE = 1e-4  # of logits, times the largest one where that is over 1
RANDOM_IMAGES = 64  # in the place of test images

Batches = Iterable[tuple[Tensor, Tensor | None]]


@dataclass
class Comparison:
    """What was seen of a network in two runtimes, batch by batch.

    Attributes:
        images: compared so far.
        correct: of these, by PyTorch; `None` where there are no labels.
        others: given another class by the other runtime.
        difference: largest, of logits.
        scale: largest of PyTorch's logits, by amount, at least 1.
    """

    images: int = 0
    correct: int | None = 0
    others: int = 0
    difference: float = 0.0
    scale: float = 1.0

    def add(self, expected: Tensor, found: Tensor, labels: Tensor | None) -> None:
        """Count a batch: logits (N, classes) of PyTorch and of the other runtime, and labels (N,)."""
        self.images += len(expected)
        chosen = expected.argmax(1)
        self.others += int((found.argmax(1) != chosen).sum())
        # A tensor's maximum keeps a NaN, and `agrees` refuses it.
        self.difference = float(torch.stack([(found - expected).abs().max(), torch.tensor(self.difference)]).max())
        self.scale = max(self.scale, float(expected.abs().max()))
        self.correct = None if labels is None or self.correct is None else self.correct + int((chosen == labels).sum())

    @property
    def agrees(self) -> bool:
        """Whether every class is the same, and every logit but for rounding."""
        return self.others == 0 and self.difference <= TOLERANCE * self.scale


@dataclass(frozen=True)
class Report:
    """What came of an export.

    Attributes:
        card: what the file says.
        comparison: with PyTorch.
        note: why no test images were compared, or empty.
    """

    card: Card
    comparison: Comparison
    note: str


def export(record: Record, name: str, output: Path, force: bool = False, trust: bool = False) -> Report:
    """Write the network of a record to a file, and try it there.

    Args:
        record: finished, with its weights.
        name: of the format.
        output: file; its name ends as the format's do.
        force: write over a file that exists.
        trust: see `load_model`.

    Raises:
        ExportError: the format cannot hold the network, or the file computes something else; nothing is written.
        NasbenchError: the record, the format or the file's name are not what is needed.
    """
    chosen = load_format(name)
    if not output.name.endswith(chosen.SUFFIX):
        raise OptionError(f"the name of a file of format {name} ends in {chosen.SUFFIX}, and that of {output} does not")
    if output.exists() and not (force and output.is_file()):
        raise OptionError(f"{output} exists: choose another name" + (", or --force" if output.is_file() else ""))
    with registry.trusting(trust):
        card = card_of(record)
        network = Deployed(load_model(record.path, trust), card)
        with quiet_libraries():
            batches, note = test_batches(record, card)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
                file = Path(folder) / output.name
                _write(network, name, card, file)
                comparison = Comparison()
                with torch.inference_mode():
                    tried = read(name, file)
                    for images, labels in batches:
                        comparison.add(network(images), tried.logits(images), labels)
                if not comparison.agrees:
                    raise ExportError(
                        f"{record.path} was not written as {name}, where it computes something else: "
                        f"{comparison.others} of {comparison.images} images get another class, and logits differ by "
                        f"{comparison.difference:.1e} (up to {TOLERANCE * comparison.scale:.1e} is rounding)"
                    )
                file.replace(output)
        except OSError as e:
            raise NasbenchError(f"{output} cannot be written: {e.strerror or e}") from e
    return Report(card, comparison, note)


def _write(network: Deployed, name: str, card: Card, path: Path) -> None:
    example = torch.randint(0, 256, (2, card.image_size, card.image_size, 3), dtype=torch.uint8)
    printed = io.StringIO()
    try:
        with (
            quiet_libraries(),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            torch.no_grad(),
        ):
            network(example)  # what layers compute once and keep must not be the shadow tensors of an exporter
            load_format(name).write(network, example, card, path)
    except OSError:
        raise
    except Exception as e:
        reason = " ".join(registry.describe_exception(e).split())[:300]
        raise ExportError(f"the network cannot be written as {name}: {reason}") from e


def test_batches(record: Record, card: Card) -> tuple[Batches, str]:
    """The test images of a run, uint8 (N, S, S, 3), with labels; random ones where the data are not there any more.

    Returns:
        The batches, and why they are random, or nothing.

    Raises:
        OptionError: the data set is not registered and not trusted.
    """
    try:
        data = test_data(record)
        return ((images.expand(-1, -1, -1, 3), labels) for images, labels in data.test_dataloader()), ""
    except DataError as e:
        return _random(card), f"the run's test images are not there ({e})"


def test_data(record: Record) -> Any:
    """The data set of a run, read.

    Raises:
        DataError: it is not there any more, or another one now.
        OptionError: it is not registered and not trusted.
    """
    config, facts = record.config(), record.data()
    data = registry.build_dataset(config.dataset, {**config.data_options(), "download": False})
    data.setup()
    if (data.class_names, data.image_size) != (facts.class_names, facts.image_size):
        raise DataError(f"{config.dataset}: its classes are others now")
    return data


def _random(card: Card) -> Iterator[tuple[Tensor, None]]:
    generator = torch.Generator().manual_seed(0)
    size = (RANDOM_IMAGES, card.image_size, card.image_size, 3)
    yield torch.randint(0, 256, size, dtype=torch.uint8, generator=generator), None
