"""MENet whose every module chooses its gate and its groups."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from pydantic import AfterValidator
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from nasbench.errors import OptionError, unknown
from nasbench.options import Count, Width, checked
from nasbench.spaces.operations.choices import EnhancedSpace, MeanOfFeatures, OnFirst, enhancer_label
from nasbench.spaces.operations.enhancers import candidate_names, enhancer
from nasbench.spaces.operations.strides import FittedSpace, Rule, fit_strides

convolution = partial(Conv2dNormActivation, inplace=None)  # without bias; BatchNorm, and ReLU unless told otherwise
GATE = "me"
DEPTHS = (4, 8, 4)
GROUPS = (1, 2, 3, 4, 8)  # the counts that ShuffleNet compares
Join = Literal["branch_first", "input_first"]
Gates = Annotated[str | list[str], AfterValidator(partial(candidate_names, extra=(GATE,)))]


@dataclass(frozen=True)
class Model:
    """One of the published networks."""

    channels: int  # of the first stage's modules; the second and third have twice and four times as many
    groups: int  # of all grouped convolutions
    stem: int  # channels of the first convolution
    side: int  # channels σ of the merging-and-evolution gates

    def scaled(self, width: float) -> Model:
        """The network of another width, rounded so that the groups still divide everything."""

        def near(number: int, multiple: int) -> int:
            return multiple * max(1, round(number * width / multiple))

        return Model(
            near(self.channels, 4 * self.groups), self.groups, near(self.stem, self.groups), near(self.side, 1)
        )


MODELS = {
    "108-8x1": Model(108, 3, 12, 8),
    "128-8x1": Model(128, 4, 12, 8),
    "160-8x1": Model(160, 8, 16, 8),
    "228-12x1": Model(228, 3, 24, 12),
    "256-12x1": Model(256, 4, 24, 12),
    "352-12x1": Model(352, 8, 24, 12),
    "348-12x1": Model(348, 3, 24, 12),
    "456-24x1": Model(456, 3, 48, 24),
}


class ChannelShuffle(nn.Module):
    """Moves channel j of group i of (N, C, H, W) to j·g + i. Source: ShuffleNet, CVPR 2018, section 3.1."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Reorder the channels of `x` (N, C, H, W)."""
        return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)


class MergingEvolutionGate(nn.Module):
    """The merging and evolution operations: a narrow map of all groups' features gates the main branch.

    Merging: 1×1 convolution to σ channels, BatchNorm, ReLU; evolution: 3×3 convolution, BatchNorm, ReLU; then 1×1 back
    to C, BatchNorm, sigmoid. No convolution has a bias. (N, C, H, W), (N, C, stride·H, stride·W) → (N, C, H, W).
    Source: Qin et al., "Merging-and-Evolution Networks for Mobile Vision Applications", 2018 (arXiv 1803.09127).
    """

    def __init__(self, channels: int, side: int, stride: int) -> None:
        """Build the gate of C = `channels` and σ = `side`, with the stride of the convolution beside it."""
        super().__init__()
        self.merging = convolution(channels, side, 1)
        self.evolution = convolution(side, side, 3, stride)
        self.matching = convolution(side, channels, 1, activation_layer=nn.Sigmoid)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Gate the depthwise convolution's output by its input: `inputs` is (output, input)."""
        features, source = inputs
        return features * self.matching(self.evolution(self.merging(source)))


class MEModule(nn.Module):
    """Merging-and-evolution module with a choice of gate and groups.

    1×1 group convolution to a quarter of the output channels – BatchNorm – ReLU – channel shuffle – depthwise 3×3 –
    BatchNorm – gate – 1×1 group convolution – BatchNorm; then the sum with the input, or in the first module of a stage
    the concatenation with the (average-pooled) input behind it; ReLU. The gate is one of the enhancers, or
    `MergingEvolutionGate`, which also sees the depthwise convolution's input. (N, C_in, H, W) → (N, C_out, ⌈H/stride⌉,
    ⌈W/stride⌉). Source: Qin et al. 2018.
    """

    def __init__(
        self,
        inp: int,  # C_in
        oup: int,  # C_out; where it differs from C_in, the input is concatenated instead of added
        stride: int,  # 1 or 2
        number: int,  # of the module in the network, from 1; the first convolution of module 1 has one group only
        side: int,  # σ of the gate
        gates: Sequence[str],  # candidates, `me` or keys of `ENHANCERS`
        groups: Sequence[int],  # counts to choose from, as far as they divide all channels
        reductions: Mapping[str, int],  # see `enhancer_choice`
        join: Join = "branch_first",  # what the concatenation begins with
    ) -> None:
        """Build the module. Raises OptionError: no count divides all channels."""
        super().__init__()
        self.joined, self.input_first = inp != oup, join == "input_first"
        squeezed, expanded = oup // 4, oup - inp if self.joined else oup
        dense = number == 1
        parts = [squeezed, expanded] if dense else [inp, squeezed, expanded]
        self.groups = [g for g in groups if all(c % g == 0 for c in parts)]
        if not self.groups:
            raise OptionError(
                f"groups: none of {', '.join(map(str, groups))} divides the {', '.join(map(str, parts))} channels of "
                f"module {number}"
            )

        def compress(g: int) -> nn.Module:
            return convolution(inp, squeezed, 1, groups=1 if dense else g).append(ChannelShuffle(g))

        def gate(name: str) -> nn.Module:
            if name == GATE:
                return MergingEvolutionGate(squeezed, side, stride)
            return OnFirst(enhancer(name, squeezed, reductions.get(name)))

        self.compress = self._by_groups(number, compress)
        self.depthwise = convolution(squeezed, squeezed, 3, stride, groups=squeezed, activation_layer=None)
        self.enhancer = LayerChoice(OrderedDict((name, gate(name)) for name in gates), label=enhancer_label(number))
        self.expand = self._by_groups(number, lambda g: nn.Conv2d(squeezed, expanded, 1, groups=g, bias=False))
        self.norm = nn.BatchNorm2d(expanded)
        self.shortcut = nn.AvgPool2d(3, 2, 1) if stride == 2 else nn.Identity()

    def _by_groups(self, number: int, build: Callable[[int], nn.Module]) -> nn.Module:
        # Both convolutions carry one label and so are decided together. A single count is no choice.
        if len(self.groups) == 1:
            return build(self.groups[0])
        return LayerChoice(OrderedDict((f"g{g}", build(g)) for g in self.groups), label=groups_label(number))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module's output for `x` (N, C_in, H, W)."""
        shuffled = self.compress(x)
        features = self.enhancer((self.depthwise(shuffled), shuffled))
        features, x = self.norm(self.expand(features)), self.shortcut(x)
        both = (x, features) if self.input_first else (features, x)
        return torch.relu(torch.cat(both, 1) if self.joined else x + features)


class MENetSpace(MeanOfFeatures, EnhancedSpace, FittedSpace, ModelSpace):
    """MENet: each of the 16 modules chooses its gate (merging-and-evolution, Meta-Pooling, none) and its groups.

    Two labels a module: `block01.enhancer` … `block16.enhancer`, and `block01.groups` …, whose candidates are `g1`,
    `g3`, …; a module whose channels only one count divides has no choice of groups. (N, 3, S, S) → (N, num_classes), S
    = `image_size`. Source: Qin et al. 2018 (arXiv 1803.09127); Dong et al., ICASSP 2023, for the Meta-Pooling
    candidates.
    """

    presets: ClassVar = {"quick": {"width": 0.25}}
    extra = (GATE,)

    @checked
    def __init__(
        self,
        model: str = "108-8x1",  # the published network that gives the channels, a key of `MODELS`
        width: Width = 1.0,  # multiplier of all its channels, see `Model.scaled`
        # The gates: `full` or `ablation`, here with `me` (merging and evolution) beside the enhancers; or names, of
        # which `me` may be one.
        candidates: Gates = "full",
        # Counts to choose from in every module, as far as they divide its channels; 1, 2, 3, 4 and 8 where `None`.
        groups: list[Count] | None = None,
        num_classes: Count = 1000,  # outputs of the classifier
        image_size: int = 224,  # side in pixels; 224 keeps all strides; a stem's pooling that loses its own is left out
        reduction: Count = 32,  # of spatial separable pooling
        strides: Rule = "fit",  # `fit` drops those that a small image cannot bear, `original` keeps all (`fit_strides`)
        # Order of concatenations: of the published networks, or as it was in nasbench 0.1's first records.
        join: Join = "branch_first",
    ) -> None:
        """Build the space. Raises OptionError: a value is unknown or out of range."""
        super().__init__()
        if model not in MODELS:
            raise OptionError(unknown("model", model, MODELS))
        if groups is not None and (not groups or len(set(groups)) != len(groups)):
            raise OptionError("groups must be one or more different numbers")
        self.model = model
        self.choose_among(candidates, {"global": reduction})
        shape = MODELS[model].scaled(width)
        self.strides = fit_strides(image_size, (2, 2, 2, 2, 2), strides)
        stem, pool, *stage_strides = self.strides.chosen
        layers: list[tuple[str, nn.Module]] = [
            ("stem", convolution(3, shape.stem, 3, stem)),
            ("pool", nn.MaxPool2d(3, 2, 1) if pool == 2 else nn.Identity()),
        ]
        self.group_counts: list[list[int]] = []
        inp = shape.stem
        for stage, (depth, stride) in enumerate(zip(DEPTHS, stage_strides, strict=True)):
            oup = shape.channels * 2**stage
            for position in range(depth):
                number = len(self.group_counts) + 1
                sizes = (inp, oup, 1 if position else stride, number, shape.side)
                module = MEModule(*sizes, self.candidate_names, groups or GROUPS, self._reductions, join)
                layers.append((f"block{number:02d}", module))
                self.group_counts.append(module.groups)
                self.enhancer_labels.append(enhancer_label(number))
                inp = oup
        self.features = nn.Sequential(OrderedDict(layers))
        self.classifier = nn.Linear(inp, num_classes)

    @classmethod
    def settle(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Put the values in the place of those that depend on others."""
        return {**options, "groups": options["groups"] or list(GROUPS)}

    @classmethod
    def named_options(cls, architecture: str) -> dict[str, Any]:
        """The options that a named architecture brings along: the published networks differ in their channels."""
        return {"model": architecture} if architecture in MODELS else {}

    def architectures(self) -> dict[str, dict[str, str]]:
        """The published network `model`, and with `none`, `local` (avg3) or `global` as every gate of it."""
        own = MODELS[self.model].groups
        if not all(own in counts for counts in self.group_counts):
            return {}
        groups = {groups_label(i): f"g{own}" for i, c in enumerate(self.group_counts, 1) if len(c) > 1}
        published = dict.fromkeys(self.enhancer_labels, GATE)
        named = ({self.model: published} if GATE in self.candidate_names else {}) | super().architectures()
        return {name: gates | groups for name, gates in named.items()}


def groups_label(module: int) -> str:
    """The label of a module's group count, e.g. `block09.groups`."""
    return f"block{module:02d}.groups"
