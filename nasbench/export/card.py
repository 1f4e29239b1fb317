"""What an exported file says of its network: all that is needed to use it, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

import nasbench
from nasbench import registry
from nasbench.architecture import Architecture
from nasbench.config import RunConfig
from nasbench.data.preparation import FITS
from nasbench.errors import OptionError, RecordError, unknown
from nasbench.facts import Count, DataFacts, Fraction
from nasbench.networks import derived
from nasbench.quiet import quiet_libraries
from nasbench.record import Record

INPUT, OUTPUT = "images", "logits"  # what exported networks call them


class Card(BaseModel):
    """The entries of a file's metadata, by name."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    about: str  # what was trained, how it was found, and on which data
    usage: str  # what goes in and what comes out
    class_names: list[str] = Field(min_length=1)
    image_size: int = Field(ge=1, le=4096)  # side of the images that go in
    fit: str  # how pictures of other sizes become such images, see `nasbench.data.preparation.FITS`
    # Of each channel in 0–1, or one for all where the network was trained on grey pictures; used inside.
    mean: list[float] = Field(min_length=1, max_length=3)
    std: list[float] = Field(min_length=1, max_length=3)
    top1: Fraction  # of the record, on the test images
    top5: Fraction | None
    quantised: str = ""  # to which whole numbers, where it was
    quantised_top1: Fraction | None = None  # of the quantised network in this file, on the test images
    params: Count
    madds: Count
    space: str
    space_options: dict[str, Any]
    architecture: Architecture
    version: str  # of nasbench

    def texts(self) -> dict[str, str]:
        """Every entry as text: what is none already, as JSON."""
        content = self.model_dump(mode="json")
        return {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in content.items()}

    @classmethod
    def read(cls, texts: Mapping[str, str], what: object) -> Card:
        """Read what `texts` wrote, among other entries. Raises OptionError: an entry is missing or damaged."""
        try:
            fields = {k: f.annotation for k, f in cls.model_fields.items() if k in texts}
            card = cls.model_validate(
                {k: texts[k] if kind is str else json.loads(texts[k]) for k, kind in fields.items()}
            )
        except (ValueError, RecursionError) as e:
            raise OptionError(f"{what} does not say what its network is: write it by `nasbench export`") from e
        if card.fit not in FITS:
            raise OptionError(f"{what}: {unknown('preparation of pictures', card.fit, FITS)}")
        return card

    def image(self, picture: Image.Image) -> Tensor:
        """What goes in for a picture in RGB: (image_size, image_size, 3) uint8."""
        grey = len(self.mean) == 1
        pixels = FITS[self.fit].make(picture.convert("L") if grey else picture, self.image_size)
        return torch.from_numpy(pixels).expand(-1, -1, 3)

    def one_at_a_time(self) -> Card:
        """The card of a file that takes a single image."""
        return self.model_copy(update={"usage": self.usage.replace("(N, ", "(1, ")})

    def network(self) -> nn.Module:
        """The network with fresh weights. Raises NasbenchError: its space is not trusted, or has no such network."""
        settings = {"space": self.space, "space_options": self.space_options, "architecture": self.architecture}
        facts = DataFacts(class_names=self.class_names, image_size=self.image_size)
        with quiet_libraries():
            return derived(RunConfig(strategy=None, **settings), self.architecture, facts)


def card_of(record: Record) -> Card:
    """What a file of a finished record's network is to say.

    Raises RecordError: the record is damaged, or not finished. Raises OptionError: its data set is not to be trusted.
    """
    config, data, result = record.config(), record.data(), record.result()
    fit = registry.declared(registry.load("dataset", config.dataset), "fit", "stretch")
    if fit not in FITS:
        raise OptionError(f"data set {config.dataset!r}: {unknown('fit', fit, FITS)}")
    size = data.image_size
    try:
        return Card(
            about=f"{result.label}: space {config.space}, {config.method}, data set {config.dataset}",
            usage=(
                f"{INPUT}: uint8 (N, {size}, {size}, 3), RGB, {FITS[fit].words}; {OUTPUT}: (N, "
                f"{len(data.class_names)}) in the order of class_names, whose softmax is the probabilities"
            ),
            fit=fit,
            architecture=record.architecture(),
            version=nasbench.__version__,
            **data.model_dump(include={"class_names", "image_size", "mean", "std"}),
            **result.model_dump(include={"top1", "top5", "params", "madds"}),
            **config.model_dump(include={"space", "space_options"}),
        )
    except ValidationError as e:
        first = e.errors()[0]
        raise RecordError(f"{record.path} is damaged: {first['loc'][0]}: {first['msg'].lower()}") from e
