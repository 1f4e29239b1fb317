import io
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from nni.nas.nn.pytorch import LayerChoice
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from nasbench import registry
from nasbench.contracts import main_logits
from nasbench.data.pictures import read_picture
from nasbench.data.preparation import FITS, normalised
from nasbench.errors import DataError, NasbenchError, listed
from nasbench.export.card import Card, card_of
from nasbench.export.write import test_data
from nasbench.networks import build_space, derived, load_model
from nasbench.profile import Part, Profile, last_map, profile
from nasbench.quiet import quiet_libraries
from nasbench.record import MODEL, Record
from nasbench.results.cells import Cell, Column, Table
from nasbench.results.formats import data_uri
from nasbench.results.receptive_field import of_layers

MOST_WRONG, MOST_CLASSES = 24, 12  # images that are shown: of the wrong ones, and one of each class
SIDE = 192  # about that of a picture on the page, in pixels
OPACITY = 0.7  # of the heat where it is largest


@dataclass(frozen=True)
class Shot:
    """A test image, and what the network takes it for."""

    name: str  # of its file, or its number
    true: str  # class
    predicted: str  # class
    probability: float  # of the predicted class, 0–1
    probability_of_true: float
    picture: str  # what the network is given, as a data URI
    heat: str  # the same under its Grad-CAM for the predicted class


@dataclass(frozen=True)
class Shots:
    """Test images, all counted and some shown."""

    images: int  # how many there are
    errors: int  # of these
    confusion: str  # the most frequent one, in words; empty without errors
    first: tuple[Shot, ...]  # the first one of each class, at most `MOST_CLASSES`
    wrong: tuple[Shot, ...]  # at most `MOST_WRONG`, the most confident first


@dataclass(frozen=True)
class Seen:
    """What the network of a record sees."""

    layers: Table | None  # what each layer sees and costs
    shots: Shots | None  # `None` where weights or data are missing
    missing: tuple[str, ...]  # what could not be had and why, a line each


def see(record: Record, trust: bool = False) -> Seen:
    """Look through the eyes of a record's network, as far as its parts and data are there; RecordError: damaged."""
    missing, layers, shots = [], None, None
    with registry.trusting(trust), quiet_libraries():
        try:
            layers = _layers(record, trust)
        except NasbenchError as e:
            missing.append(f"What each layer sees and costs is missing: {e}.")
        try:
            shots = _shots(record, trust)
        except NasbenchError as e:
            missing.append(f"Pictures of test images are missing: {e}.")
    return Seen(layers, shots, tuple(missing))


def _layers(record: Record, trust: bool) -> Table:
    config, data, chosen = record.config(), record.data(), record.architecture()
    trained = record.file(MODEL) is not None
    model = load_model(record.path, trust) if trained else derived(config, chosen, data)
    space = build_space(config, len(data.class_names), data.image_size)
    paths = {m.label: path for path, m in space.named_modules() if isinstance(m, LayerChoice) and m.label in chosen}
    cost = profile(model, data.image_size, names=paths.values())
    parts = {part.name: part for part in cost.parts}
    sights = of_layers(model, paths.values(), data.image_size)
    rows = []
    for label, candidate in chosen.items():
        row = {"layer": Cell(label), "candidate": Cell(str(candidate))}
        if label in paths:
            part, sight = parts[paths[label]], sights.get(paths[label])
            row |= _costs(part, cost)
            row["map"] = Cell("×".join(map(str, part.output[1:])) or None)
            if sight is not None:
                row["sees"] = Cell("all of it" if sight.side == data.image_size else f"{sight.side} px")
                row["mostly"] = Cell(f"{sight.effective:.0f} px" if trained else None)
        rows.append(row)
    rows.append({"layer": Cell("the whole network"), **_costs(cost, cost)})
    notes = (
        f"Sees: side of the part of the {data.image_size}×{data.image_size} image that can reach the middle of the "
        "layer's map, its candidate included. Mostly: side of a square as large as the area whose influence is over "
        "4.55 % of the largest (Luo et al. 2016).",
        "Parameters and multiply-adds: what the candidate adds, for one image. Pooling adds and compares, but has no "
        "parameters and multiplies nothing.",
    )
    caption = "What each layer sees, and what its candidate costs."
    return Table("seen", caption, COLUMNS, tuple(rows), notes, (len(chosen),))


def _costs(part: Part | Profile, whole: Profile) -> dict[str, Cell]:
    shares = {"params_share": part.params / max(1, whole.params), "madds_share": part.madds / max(1, whole.madds)}
    return {name: Cell(value) for name, value in {"params": part.params, "madds": part.madds, **shares}.items()}


COLUMNS = (
    Column("layer", "layer"),
    Column("candidate", "candidate"),
    Column("map", "map", "number"),
    Column("sees", "sees", "number"),
    Column("mostly", "mostly", "number"),
    Column("params", "parameters", "count"),
    Column("params_share", "of all (%)", "percent", 1),
    Column("madds", "multiply-adds (M)", "millions", 3),
    Column("madds_share", "of all (%)", "percent", 1),
)


class _Tested(NamedTuple):
    """A test image that may be shown."""

    place: int  # in the set
    pixels: Tensor  # (S, S, C)
    true: int
    predicted: int
    probabilities: Tensor  # (classes,)


def _shots(record: Record, trust: bool) -> Shots:
    model, card = load_model(record.path, trust).requires_grad_(False), card_of(record)
    data = test_data(record)
    classes = len(card.class_names)
    shown = set(range(0, classes, math.ceil(classes / MOST_CLASSES)))
    first: dict[int, _Tested] = {}
    wrong: list[_Tested] = []
    confusions, images = Counter[tuple[int, int]](), 0
    for pixels, labels in data.test_dataloader():
        if pixels.dtype != torch.uint8 or pixels.ndim != 4:
            raise DataError(f"{record.config().dataset}: its test images are no uint8 (N, H, W, C)")
        with torch.no_grad():
            probabilities = main_logits(model(normalised(pixels, card.mean, card.std))).softmax(1)
        for place, (p, label, row) in enumerate(zip(pixels, labels.tolist(), probabilities, strict=True), images):
            image = _Tested(place, p, label, int(row.argmax()), row)
            if label in shown:
                first.setdefault(label, image)
            if image.predicted != label:
                confusions[label, image.predicted] += 1
                wrong.append(image)
        wrong = sorted(wrong, key=lambda image: (-float(image.probabilities.max()), image.place))[:MOST_WRONG]
        images += len(pixels)
    files = registry.declared(data, "test_files", ())
    (often, times), *_ = confusions.most_common(1) or [((0, 0), 0)]
    true, predicted = (card.class_names[i] for i in often)
    return Shots(
        images,
        confusions.total(),
        f"most often “{true}” taken for “{predicted}” ({times} times)" if times else "",
        tuple(_shot(model, card, first[label], files, data.data_root) for label in sorted(first)),
        tuple(_shot(model, card, image, files, data.data_root) for image in wrong),
    )


def _shot(model: nn.Module, card: Card, image: _Tested, files: Any, root: Any) -> Shot:
    evidence = grad_cam(model, normalised(image.pixels[None], card.mean, card.std), [image.predicted])
    pixels = image.pixels.expand(-1, -1, 3).numpy()
    if files:  # the same part of the photo, at a size at which people recognise it
        pixels = FITS[card.fit].make(read_picture(files[image.place]), SIDE)
    scale = max(1, SIDE // len(pixels))
    pixels = pixels.repeat(scale, 0).repeat(scale, 1)
    return Shot(
        listed([os.path.relpath(files[image.place], root)]) if files else f"test image {image.place}",
        card.class_names[image.true],
        card.class_names[image.predicted],
        float(image.probabilities[image.predicted]),
        float(image.probabilities[image.true]),
        _embedded(pixels, "JPEG" if scale == 1 else "PNG"),
        _embedded(_heated(pixels, heat(evidence)[0]), "JPEG"),
    )


def grad_cam(network: nn.Module, images: Tensor, classes: Sequence[int]) -> Tensor:
    """What speaks for a class of each image on the last feature map A (N, K, h, w): Σ_k α_k A_k, (N, h, w).

    α_k is ∂ logit / ∂ A_k averaged over the places (eq. 1); what is negative speaks for other classes. Behind global
    average pooling and a linear layer it is the class activation map of Zhou et al. (CVPR 2016) over h·w, and sums to
    the logit less the bias. The network, in evaluation mode, takes `images` (N, C, S, S) and is not changed.
    OptionError: it has no such map, see `nasbench.profile.last_map`.

    Source: Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", 2017.
    """
    with torch.no_grad():
        name, _ = last_map(network, images[:1])
    seen: list[Tensor] = []

    def branch(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()  # what follows may work in place

    with torch.enable_grad(), network.get_submodule(name).register_forward_hook(branch):
        logits = main_logits(network(images)).gather(1, torch.as_tensor(classes)[:, None])
        (gradient,) = torch.autograd.grad(logits.sum(), seen[-1])
    return torch.einsum("nk,nkhw->nhw", gradient.mean((2, 3)), seen[-1].detach())


def heat(evidence: Tensor) -> Tensor:
    """Grad-CAM's eq. 2, ReLU(evidence), the largest of each image scaled to 1; 0 where nothing speaks for the class."""
    positive = evidence.relu()
    return positive / positive.amax((1, 2), keepdim=True).clamp_min(torch.finfo(positive.dtype).tiny)


def _heated(pixels: NDArray[Any], warmth: Tensor) -> NDArray[Any]:
    """Pixels (S, S, 3) under a heat map (h, w) in 0–1: nothing where it is 0."""
    import matplotlib

    large = nn.functional.interpolate(warmth[None, None], pixels.shape[:2], mode="bilinear")[0, 0].numpy()
    colours, opacity = 255 * matplotlib.colormaps["plasma"](large)[..., :3], OPACITY * large[..., None]
    return ((1 - opacity) * pixels + opacity * colours).round().astype("uint8")


def _embedded(pixels: NDArray[Any], form: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=82)
    return data_uri(buffer.getvalue(), form.lower())
