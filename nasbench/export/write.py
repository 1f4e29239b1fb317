"""From a record to a file that was tried in its own runtime."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from nasbench import registry
from nasbench.data.base import ImageData
from nasbench.errors import DataError, ExportError, NasbenchError, OptionError, unknown
from nasbench.export import FORMATS
from nasbench.export.card import Card, card_of
from nasbench.export.format import Deployed, Format, Quantising, format_of, load_format
from nasbench.export.fresh import Fresh
from nasbench.networks import load_model
from nasbench.quiet import quiet_libraries, silence
from nasbench.record import Record

TOLERANCE = 1e-4  # of logits, times the largest one where that is over 1
RANDOM_IMAGES = 64  # in the place of test images
CALIBRATION = 128  # training images that ranges are taken from
QUANTISED = ("int8",)
MANIFEST = "Manifest.json"  # in a file that is a folder

Batches = Iterable[tuple[Tensor, Tensor | None]]


@dataclass
class Comparison:
    """What was seen of a network in two runtimes, batch by batch."""

    images: int = 0  # compared so far
    correct: int | None = 0  # of these, by PyTorch; `None` where there are no labels
    found_correct: int = 0  # likewise, by the other runtime
    others: int = 0  # given another class by the other runtime
    difference: float = 0.0  # largest, of logits
    scale: float = 1.0  # largest of PyTorch's logits, by amount, at least 1

    def add(self, expected: Tensor, found: Tensor, labels: Tensor | None) -> None:
        """Count a batch: logits (N, classes) of PyTorch and of the other runtime, and labels (N,)."""
        self.images += len(expected)
        chosen = expected.argmax(1)
        self.others += int((found.argmax(1) != chosen).sum())
        # A tensor's maximum keeps a NaN, and `agrees` refuses it.
        self.difference = float(torch.stack([(found - expected).abs().max(), torch.tensor(self.difference)]).max())
        self.scale = max(self.scale, float(expected.abs().max()))
        self.found_correct += 0 if labels is None else int((found.argmax(1) == labels).sum())
        self.correct = None if labels is None or self.correct is None else self.correct + int((chosen == labels).sum())

    @property
    def agrees(self) -> bool:
        """Whether every class is the same, and every logit but for rounding."""
        return self.others == 0 and self.difference <= TOLERANCE * self.scale


@dataclass(frozen=True)
class Report:
    """What came of an export."""

    card: Card  # what the file says
    comparison: Comparison | None  # with PyTorch; `None` where this machine cannot run the file
    note: str  # why no test images were compared, or empty


def export(
    record: Record, name: str, output: Path, force: bool = False, trust: bool = False, quantise: str = ""
) -> Report:
    """Write the network of a finished record to a file, and try it there.

    `quantise="int8"` gives whole numbers, which compute about the same and whose accuracy is measured; `force` writes
    over a file that exists; `trust` as in `load_model`. Raises ExportError: the format cannot hold the network, or the
    file computes something else; nothing is written. Raises NasbenchError: record, format or file name are not what is
    needed.
    """
    chosen = load_format(name)
    if not output.name.endswith(chosen.SUFFIX):
        raise OptionError(f"the name of a file of format {name} ends in {chosen.SUFFIX}, and that of {output} does not")
    ours = output.is_file() or (output / MANIFEST).is_file()
    if output.exists() and not (force and ours):
        raise OptionError(f"{output} exists: choose another name" + (", or --force" if ours else ""))
    if quantise not in ("", *QUANTISED):
        raise OptionError(unknown("numbers", quantise, QUANTISED))
    if quantise and not isinstance(chosen, Quantising):
        able = ", ".join(form for form in FORMATS if isinstance(format_of(form), Quantising))
        raise OptionError(f"format {name} is written with floating-point numbers only, {quantise} is for {able}")
    with registry.trusting(trust):
        card = card_of(record)
        network = Deployed(load_model(record.path, trust), card)
        with quiet_libraries():
            batches, note = _batches(record, card)
            if note and quantise:
                raise OptionError(f"{quantise} takes training images: {note}")
            images = _calibration(record) if quantise else None
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder, Fresh() as fresh:
                file = Path(folder) / output.name
                _write(network, chosen, name, card, file, images)
                card, runs = fresh.read(name, file, trust)
                comparison = Comparison() if runs else None
                if comparison:
                    with torch.inference_mode():
                        for test, labels in batches:
                            comparison.add(network(test), fresh.logits(test), labels)
                if comparison and not (math.isfinite(comparison.difference) if quantise else comparison.agrees):
                    raise ExportError(
                        f"{record.path} was not written as {name}, where it computes something else: "
                        f"{comparison.others} of {comparison.images} images get another class, and logits differ by "
                        f"{comparison.difference:.1e} (up to {TOLERANCE * comparison.scale:.1e} is rounding)"
                    )
                if quantise and comparison:
                    top1 = comparison.found_correct / comparison.images
                    card = card.model_copy(update={"quantised": quantise, "quantised_top1": top1})
                    cast(Quantising, chosen).describe(card, file)
                if output.is_dir():
                    output.rename(Path(folder) / "before")
                file.replace(output)
        except OSError as e:
            raise NasbenchError(f"{output} cannot be written: {e.strerror or e}") from e
    return Report(card, comparison, note)


def _write(network: Deployed, form: Format, name: str, card: Card, path: Path, calibration: Tensor | None) -> None:
    example = torch.randint(0, 256, (2, card.image_size, card.image_size, 3), dtype=torch.uint8)
    try:
        with quiet_libraries(), silence(), torch.no_grad():
            network(example)  # what layers compute once and keep must not be the shadow tensors of an exporter
            if calibration is None:
                form.write(network, example, card, path)
            else:
                cast(Quantising, form).quantise(network, calibration, card, path)
    except OSError:
        raise
    except Exception as e:
        reason = " ".join(registry.describe_exception(e).split())[:300]
        raise ExportError(f"the network cannot be written as {name}: {reason}") from e


def _dataset(record: Record, **options: Any) -> ImageData:
    config = record.config()
    data = registry.build_dataset(config.dataset, {**config.data_options(), "download": False, **options})
    data.setup()
    return data


def _calibration(record: Record) -> Tensor:
    """Training images, uint8 (N, S, S, 3), as they are: not augmented, the same ones each time."""
    data = _dataset(record, batch_size=CALIBRATION)
    some = np.random.default_rng(0).permutation(data.splits()[0])[:CALIBRATION]
    images: Tensor = next(iter(data.training_loader(some, False)))[0]
    return images.expand(-1, -1, -1, 3).contiguous()


def _batches(record: Record, card: Card) -> tuple[Batches, str]:
    """The test images of a run, uint8 (N, S, S, 3), with labels; random ones, and why, where the data are not there."""
    try:
        data = test_data(record)
        return ((images.expand(-1, -1, -1, 3), labels) for images, labels in data.test_dataloader()), ""
    except DataError as e:
        generator = torch.Generator().manual_seed(0)
        size = (RANDOM_IMAGES, card.image_size, card.image_size, 3)
        images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        return [(images, None)], f"the run's test images are not there ({e})"


def test_data(record: Record) -> ImageData:
    """The data set of a run, read. Raises DataError: it is not there, or another one now; OptionError: not trusted."""
    data, facts = _dataset(record), record.data()
    if (data.class_names, data.image_size) != (facts.class_names, facts.image_size):
        raise DataError(f"{data.name}: its classes are others now")
    return data
