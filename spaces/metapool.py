"""Meta-Pooling on whatever backbone somebody names."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import timm
import torchvision
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nasbench import registry
from nasbench.errors import OptionError, unknown
from nasbench.options import Count, Width, checked
from nasbench.spaces.operations.choices import EnhancedSpace
from nasbench.spaces.operations.enhancers import Candidates
from nasbench.spaces.operations.places import Place, find_places, put_behind


class MetaPool(EnhancedSpace, ModelSpace):
    """Meta-Pooling on any backbone: every depthwise convolution chooses its enhancer, or none.

    The enhancer stands behind the convolution's normalisation and activation; in a backbone that activates no depthwise
    convolution (ShuffleNetV2, RepViT), behind the normalisation. One `LayerChoice` a place, labelled by the module
    behind which it stands, e.g. `features.1.conv.0.2.enhancer`. The backbone's modules and parameters keep their names.
    (N, 3, S, S) → (N, num_classes), S = `image_size`. Source: Dong et al., ICASSP 2023, section 2.1.
    """

    pretrained = "{backbone}"

    @checked
    def __init__(
        self,
        # `torchvision:NAME`, `timm:NAME`, or `package.module:factory`, a function of `num_classes`.
        backbone: str = "torchvision:mobilenet_v2",
        # Width multiplier, of backbones that have an option `width_mult` (torchvision's MobileNets).
        width: Width = 1.0,
        candidates: Candidates = "full",  # `full`, `ablation`, or names (see `candidate_names`)
        reduction: Count = 32,  # of spatial separable pooling
        where: str = "",  # regular expression; only places in whose path it is found
        min_map: Count = 4,  # least side in pixels of the maps that are enhanced
        grouped: bool = False,  # take every convolution of several groups, not only the depthwise ones
        num_classes: Count = 1000,  # outputs of the classifier
        image_size: Count = 224,  # side of the input in pixels; the backbone's strides stay as they are
    ) -> None:
        """Build the space. Raises OptionError: a value is wrong, or the backbone cannot be built or has no place."""
        super().__init__()
        self.choose_among(candidates, {"global": reduction})
        network = build_backbone(backbone, num_classes, width)
        try:
            places, output = find_places(network, image_size, grouped)
        except Exception as e:
            why = registry.describe_exception(e)
            size = f"{image_size}×{image_size}"
            raise OptionError(f"backbone {backbone!r} cannot compute images of {size} pixels: {why}") from e
        if not isinstance(output, Tensor) or output.shape != (1, num_classes):
            raise OptionError(f"backbone {backbone!r} is no classifier: it does not return {num_classes} logits")
        taken, self.left_out = _select(places, where, min_map)
        if not taken:
            raise OptionError(f"backbone {backbone!r} has no place for an enhancer: {_reason(self.left_out, grouped)}")
        for place in taken:
            put_behind(network.get_submodule(place.name), self.choice(place.shape[0], f"{place.name}.enhancer"))
        self.places = taken
        # The backbone's own forward pass on its own attributes, but its parts are this module's: names of weights have
        # no prefix, and whoever replaces or copies parts here does so there, because the dictionaries are the same.
        self.__dict__["_backbone"] = network
        for parts in ("_parameters", "_buffers", "_non_persistent_buffers_set", "_modules"):
            self.__dict__[parts] = network.__dict__[parts]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images `x` (N, 3, S, S)."""
        network = self.__dict__["_backbone"]
        network.training = self.training
        return network.forward(x)

    def notes(self) -> list[str]:
        """Where the enhancers stand, and which places were left out."""
        behind = "activations" if self.places[0].activated else "normalisations (nothing activates what they return)"
        sides = [min(place.shape[1:]) for place in self.places]
        found = (
            f"places for an enhancer: {len(self.places)}, behind {behind}, on maps of {max(sides)} to {min(sides)} px"
        )
        return [found, *([f"places left out: {_listed(self.left_out)}"] if self.left_out else [])]


def build_backbone(name: str, num_classes: int, width: float = 1.0) -> nn.Module:
    """Build a network by name (see `MetaPool`), with fresh weights; it gets the width as `width_mult`, unless it is 1.

    Raises OptionError: there is no such network, it cannot be built, or its code is not to be trusted.
    """
    source, colon, _ = name.partition(":")
    if not colon:
        raise OptionError(
            f"backbone must be torchvision:NAME, timm:NAME or package.module:factory, not {name!r}; did you mean "
            f"{f'torchvision:{name}' if name in _torchvision_names() else f'timm:{name}'!r}?"
        )
    factory = SOURCES[source](name.partition(":")[2]) if source in SOURCES else registry.imported("backbone", name)
    try:
        network = factory(num_classes=num_classes, **({} if width == 1 else {"width_mult": width}))
    except Exception as e:
        if "'width_mult'" in str(e):
            raise OptionError(f"backbone {name!r} has no option width_mult: choose a narrower one by name") from e
        raise OptionError(f"backbone {name!r} could not be built: {registry.describe_exception(e)}") from e
    if not isinstance(network, nn.Module):
        raise OptionError(f"backbone {name!r} returns no torch.nn.Module")
    return network


def _torchvision_names() -> list[str]:
    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(name: str) -> Callable[..., nn.Module]:
    if name not in _torchvision_names():
        raise OptionError(unknown("network of torchvision", name, _torchvision_names()))
    return lambda **options: torchvision.models.get_model(name, weights=None, **options)


def _timm(name: str) -> Callable[..., nn.Module]:
    if not timm.is_model(name):  # neither is anything that timm would fetch from elsewhere
        raise OptionError(unknown("network of timm", name, timm.list_models()))
    return lambda **options: timm.create_model(name, pretrained=False, **options)


SOURCES = {"torchvision": _torchvision, "timm": _timm}


def _select(places: list[Place], where: str, min_map: int) -> tuple[list[Place], Counter[str]]:
    """The places to be taken; reason → how many were left out for it."""
    try:
        pattern = re.compile(where)
    except re.error as e:
        raise OptionError(f"where={where!r} is no regular expression: {e}") from e
    taken, left_out = [], Counter[str]()
    for place in places:
        if place.obstacle:
            left_out[place.obstacle] += 1
        elif min(place.shape[1:]) < min_map:
            left_out[f"maps smaller than min_map={min_map}"] += 1
        elif not pattern.search(place.name):
            left_out[f"names without where={where}"] += 1
        else:
            taken.append(place)
    return taken, left_out


def _listed(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in left_out.items())


def _reason(left_out: Mapping[str, int], grouped: bool) -> str:
    if left_out:
        return f"all that were found are left out: {_listed(left_out)}"
    also = "" if grouped else "; grouped=true takes grouped convolutions too"
    return f"no depthwise convolution of it is followed by a normalisation{also}"
