"""Pretrained weights: where they come from, and what of them fits a network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nasbench import registry
from nasbench.config import RunConfig
from nasbench.errors import OptionError, unknown
from nasbench.files import sha256
from nasbench.quiet import quiet_libraries
from nasbench.spaces.operations.fused import GatedEnhancer

DEFAULT = Path("default")  # in the place of a file: the weights that the backbone's library brings
MOST_LEFT_OUT = 3  # tensors that are named one by one
TOLERANCE = 0.01  # in which normalisations are the same


@dataclass(frozen=True)
class Weights:
    """Pretrained weights."""

    name: str  # the file's, or what the library calls them
    sha256: str  # of the file
    state: Mapping[str, Tensor]  # name → tensor


@dataclass(frozen=True)
class Published:
    """Weights that a library brings for one of its networks."""

    name: str  # library, network and weights
    # Of the pixels in 0–1, one a channel, by which the images of their training were normalised.
    mean: tuple[float, ...]
    std: tuple[float, ...]  # likewise
    image_size: int  # side of these images in pixels
    fetch: Callable[[], Path]  # their file, from the library's cache or, where it is not there, from its source
    load: Callable[[Path], Mapping[str, Tensor]]  # reads that file


@dataclass(frozen=True)
class Fit:
    """What became of weights."""

    tensors: int  # that there were
    used: int  # of these
    left_out: tuple[str, ...]  # what was not used, and why
    convolutions: float  # share of the numbers in the network's convolutions that were filled, 0–1

    def __str__(self) -> str:
        """One line for a reader."""
        more = len(self.left_out) - MOST_LEFT_OUT
        named = ", ".join(self.left_out[:MOST_LEFT_OUT]) + (f" and {more} more" if more > 0 else "")
        return f"{self.used} of {self.tensors} tensors" + (f"; left out: {named}" if named else "")


def published(config: RunConfig) -> Published | None:
    """The weights that a library brings for a space's backbone, if any. Raises OptionError: either is unknown."""
    backbone = registry.declared(registry.load("space", config.space), "pretrained_backbone", lambda options: "")
    source, _, name = backbone(config.space_options).partition(":")
    return LIBRARIES[source](name) if source in LIBRARIES else None


def read(config: RunConfig) -> Weights | None:
    """The weights that a run starts from, if any. Raises OptionError: they cannot be read or had."""
    if config.weights is None:
        return None
    if config.weights != DEFAULT:
        return read_file(config.weights)
    found = published(config)
    if found is None:
        raise OptionError(
            f"no library brings weights for space {config.space!r} with these options: give a file, --weights FILE"
        )
    with quiet_libraries():
        try:
            file = found.fetch()
        except Exception as e:
            why = " ".join(str(e).split())[:300]
            raise OptionError(f"{found.name} cannot be had ({why}): give a file, --weights FILE") from e
        try:
            return Weights(f"{found.name} ({file.name})", sha256(file), found.load(file))
        except Exception as e:
            why = " ".join(str(e).split())[:300]
            raise OptionError(f"{found.name} cannot be read: remove {file} to have them fetched anew ({why})") from e


def read_file(path: Path) -> Weights:
    """The weights in a file, `.safetensors` or a torch file of a state dict (loaded without running code)."""
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
        digest = sha256(path)
    except Exception as e:
        raise OptionError(f"weights {path} cannot be read: {' '.join(str(e).split())[:200]}") from e
    state = state.get("state_dict", state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise OptionError(f"weights {path} hold no state dict")
    return Weights(str(path), digest, state)


def fill(model: nn.Module, weights: Weights, partial: bool = False) -> Fit:
    """Copy every tensor whose name and shape fit into a network or space.

    Raises OptionError: one is not finite, or too little fits (half of the convolutions' numbers, unless `partial`).
    """
    state = weights.state
    begin_as_identity(model, state)
    own = model.state_dict()
    fitting = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    for name, value in fitting.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise OptionError(f"weights {weights.name}: {name} is not finite")
    left_out = [f"{k} ({_mismatch(v, own.get(k))})" for k, v in state.items() if k not in fitting]
    kernels = {
        f"{name}.weight": module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    share = sum(count for name, count in kernels.items() if name in fitting) / max(1, sum(kernels.values()))
    fit = Fit(len(state), len(fitting), tuple(left_out), share)
    if not fitting or (share < 0.5 and not partial):
        raise OptionError(
            f"weights {weights.name} fit too little: {100 * share:.0f} % of the convolutions, {fit}; give weights of "
            "this network and width, or --weights-partial to take what fits"
        )
    model.load_state_dict(fitting, strict=False)
    for name, module in model.named_modules():  # what is new shall not disturb what was learnt
        if isinstance(module, GatedEnhancer) and not any(key.startswith(f"{name}.") for key in fitting):
            module.start_as_identity()
    model.is_pretrained = True  # type: ignore[assignment]  # a supernet of it starts as this network
    return fit


def cautions(config: RunConfig, data: Any) -> Iterator[str]:
    """Where a run or its data, ready to be used, are not what pretrained weights are for, one line each."""
    if config.retrain == "scratch":
        yield "only the search starts from these weights, the network that it finds from scratch (retrain=scratch)"
    known, seen = published(config), data.description()
    if known is None:
        return
    for what, used, meant in (("mean", seen["mean"], known.mean), ("deviation", seen["std"], known.std)):
        if any(abs(a - b) > TOLERANCE for a, b in zip(used * (len(meant) // len(used)), meant, strict=True)):
            yield f"images are normalised by the {what} {_listed(used)}, those of {known.name} were by {_listed(meant)}"
    if seen["image_size"] != known.image_size:
        yield f"images have {seen['image_size']} px, those of {known.name} had {known.image_size} px"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def begin_as_identity(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give the gates that a state has trained from the identity the form that they had then."""
    for name, module in model.named_modules():
        if isinstance(module, GatedEnhancer) and f"{name}.gain" in state:
            module.start_as_identity()


def _mismatch(value: Tensor, own: Tensor | None) -> str:
    if own is None:
        return "not in the network"
    return f"{'×'.join(map(str, own.shape))} ≠ {'×'.join(map(str, value.shape))}"


def _torchvision(name: str) -> Published | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise OptionError(unknown("network of torchvision", name, models.list_models(module=models)))
    weights = models.get_model_weights(name)["DEFAULT"]
    seen = weights.transforms()

    def fetch() -> Path:
        file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights.url).name)
        if not file.is_file():
            weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        return file

    return Published(
        *(f"torchvision's {weights}", tuple(seen.mean), tuple(seen.std), seen.crop_size[0], fetch),
        lambda file: torch.load(file, weights_only=True),
    )


def _timm(name: str) -> Published | None:
    import timm

    about = timm.get_pretrained_cfg(name)
    if about is None or not about.hf_hub_id:
        return None

    def load(file: Path) -> Mapping[str, Tensor]:
        overlay = {"file": str(file), "source": None}
        state: Mapping[str, Tensor] = timm.create_model(name, True, pretrained_cfg_overlay=overlay).state_dict()
        return state

    return Published(
        *(f"timm's {about.architecture}.{about.tag}", about.mean, about.std, about.input_size[-1]),
        *(lambda: _of_hub(about.hf_hub_id), load),
    )


def _of_hub(repository: str) -> Path:
    """A file of weights in the cache of the Hugging Face hub, else fetched from there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for is_cached in (True, False):
        for file in ("model.safetensors", "pytorch_model.bin"):  # as timm takes them
            try:
                return Path(hf_hub_download(repository, file, local_files_only=is_cached, token=False))
            except EntryNotFoundError as e:
                if isinstance(e, LocalEntryNotFoundError) and not is_cached:
                    raise  # it cannot be reached: nor can other files
    raise FileNotFoundError(f"{repository} has no weights that timm takes")


LIBRARIES = {"torchvision": _torchvision, "timm": _timm}
