"""Meta-Pooling on any backbone: where the enhancers stand, and that nothing else about the backbone changes."""

from __future__ import annotations

import copy
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.models.repvit import RepVggDw
from torch import Tensor, nn

from nasbench import registry
from nasbench.architecture import choices, fresh_copy, instantiate, resolve
from nasbench.errors import OptionError
from nasbench.profile import profile
from nasbench.spaces.metapool import MetaPool, build_backbone
from nasbench.spaces.operations.places import find_places
from nasbench.strategies.pmpl import PMPL
from nasbench.weights import fill, read_file

SIZE = 64
TINY: dict[str, Any] = {"candidates": "ablation", "min_map": 2, "num_classes": 10, "image_size": SIZE}
# One of each kind of block: batch normalisation and activation in one module; a sum of branches before the activation;
# branches and no activation; an activation that is part of a sequence.
FAST = ("timm:mobilenetv3_small_050", "timm:mobileone_s0", "timm:repvit_m0_9", "torchvision:shufflenet_v2_x0_5")
FAMILIES = {
    "MobileNetV1": "mobilenetv1_100 mobilenetv1_100h mobilenetv1_125",
    "MobileNetV2": "mobilenetv2_035 mobilenetv2_050 mobilenetv2_075 mobilenetv2_100 mobilenetv2_110d mobilenetv2_120d "
    "mobilenetv2_140",
    "MobileNetV3": "mobilenetv3_small_075 mobilenetv3_small_100 mobilenetv3_large_075 mobilenetv3_large_100 "
    "mobilenetv3_rw tf_mobilenetv3_small_minimal_100 tf_mobilenetv3_large_minimal_100",
    "MobileNetV4": "mobilenetv4_conv_small_035 mobilenetv4_conv_small_050 mobilenetv4_conv_small "
    "mobilenetv4_conv_medium mobilenetv4_conv_blur_medium mobilenetv4_conv_aa_large mobilenetv4_conv_large",
    "EfficientNet": "efficientnet_b0 efficientnet_lite0 efficientnet_lite1 efficientnet_lite2 tf_efficientnet_lite0 "
    "tf_efficientnet_lite1",
    "MNASNet": "mnasnet_050 mnasnet_075 mnasnet_100 mnasnet_140 mnasnet_small semnasnet_050 semnasnet_075 "
    "semnasnet_100 spnasnet_100",
    "FBNet": "fbnetc_100 fbnetv3_b fbnetv3_d",
    "HardCoRe-NAS": "hardcorenas_a hardcorenas_c hardcorenas_f",
    "GhostNet": "ghostnet_050 ghostnet_100 ghostnet_130 ghostnetv2_100 ghostnetv3_050 ghostnetv3_100",
    "RepGhostNet": "repghostnet_050 repghostnet_100",
    "RepViT": "repvit_m0_9 repvit_m1 repvit_m1_0 repvit_m1_1",
    "MobileOne": "mobileone_s0 mobileone_s1 mobileone_s2",
    "LCNet": "lcnet_035 lcnet_050 lcnet_075 lcnet_100 lcnet_150 lcnetv2_small lcnetv2_base",
    "TinyNet": "tinynet_a tinynet_b tinynet_c tinynet_d tinynet_e",
    "MixNet": "mixnet_s tf_mixnet_s",
    "ReXNet": "rexnet_100 rexnetr_100",
    "StarNet": "starnet_s050 starnet_s100 starnet_s1",
    "MobileViT": "mobilevit_xxs mobilevit_xs mobilevitv2_050",
    "EdgeTPU": "mobilenet_edgetpu_100 mobilenet_edgetpu_v2_xs efficientnet_es",
    "EfficientViT": "efficientvit_b0 efficientvit_b1",
}
TIMM = [f"timm:{name}" for names in FAMILIES.values() for name in names.split()]
TORCHVISION = [
    *("torchvision:mobilenet_v2", "torchvision:mobilenet_v3_small", "torchvision:mobilenet_v3_large"),
    *("torchvision:mnasnet0_5", "torchvision:efficientnet_b0"),
    *("torchvision:shufflenet_v2_x1_0", "torchvision:shufflenet_v2_x1_5", "torchvision:shufflenet_v2_x2_0"),
]
# Families without a place, and why.
REFUSED = {
    "timm:convnext_atto": "no depthwise convolution of it is followed by a normalisation",  # LayerNorm over channels
    "timm:edgenext_xx_small": "no depthwise convolution of it is followed by a normalisation",
    "timm:efficientvit_m0": "all that were found are left out: 2 (modules that are called several times)",
    "timm:resnet18": "no depthwise convolution of it is followed by a normalisation",
    "torchvision:squeezenet1_0": "no depthwise convolution of it is followed by a normalisation",
}


class Functional(nn.Module):
    """A stranger's network: activated by a function, or by one module for all layers, or by modules within modules."""

    def __init__(self, num_classes: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.depthwise = nn.ModuleList(nn.Conv2d(8, 8, 3, 1, 1, groups=8) for _ in range(2))
        self.norms = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.relu = nn.ReLU(inplace=True)
        self.swish = nn.ModuleList(HardSwish() for _ in range(2))
        self.excite = nn.ModuleList(Excite() for _ in range(2))
        self.head = nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for depthwise, norm, swish, excite in zip(self.depthwise, self.norms, self.swish, self.excite, strict=True):
            y = norm(depthwise(x))
            if self.kind == "function":
                x = x + F.relu_(y)
            elif self.kind == "shared":
                x = x + self.relu(y)
            else:
                x = x + (swish(y) if self.kind == "nested" else excite(y))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class HardSwish(nn.Module):
    """x · relu6(x + 3) / 6, with a module inside, as it is often written."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(x)
        return y


class Excite(nn.Module):
    """Squeezes and excites without a parameter: not linear, and no activation either."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x.mean((2, 3), keepdim=True).sigmoid()


def network(choice: Any, **options: Any) -> Any:
    """One architecture of the space."""
    return instantiate(lambda: MetaPool(**options), resolve(MetaPool(**options), choice))


def mixed(space: MetaPool) -> dict[str, str]:
    """An architecture with all candidates in turns."""
    return dict(zip(choices(space), cycle(["global", "avg3", "none"]), strict=False))


def keeps_the_contract(backbone: str) -> None:
    """What every backbone must bear."""
    torch.manual_seed(0)
    options = {**TINY, "backbone": backbone}
    images = torch.randn(2, 3, SIZE, SIZE)
    plain = build_backbone(backbone, 10).eval()
    for name, buffer in plain.named_buffers():  # statistics as after a training, so that their places matter
        if name in plain.state_dict() and buffer.is_floating_point():
            buffer.add_(torch.rand_like(buffer))
    ours = network("none", **options).eval()
    assert list(ours.state_dict()) == list(plain.state_dict())
    ours.load_state_dict(plain.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images), plain(images))

    space = MetaPool(**options)
    assert not space.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    architecture = mixed(space)
    model, again = network(architecture, **options), network(architecture, **options)
    model(images).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    enhancers = [model.get_submodule(label) for label in architecture]
    assert all(p.grad is not None for enhancer in enhancers for p in enhancer.parameters())
    again.load_state_dict(model.state_dict())
    frozen = space.freeze(architecture)
    frozen.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = model.eval()(images)
        assert not torch.equal(expected, plain(images))
        assert torch.equal(again.eval()(images), expected)
        assert torch.equal(frozen.eval()(images), expected)

    strategy = PMPL()
    supernet = strategy.mutate_model(space)
    supernet.train()(images).square().sum().backward()
    assert strategy.alphas.keys() == architecture.keys()
    assert all(a.grad is not None and a.grad.isfinite().all() for a in strategy.alphas.values())


@pytest.mark.parametrize("backbone", FAST)
def test_a_backbone_keeps_the_contract(backbone: str) -> None:
    keeps_the_contract(backbone)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [name for name in (*TIMM, *TORCHVISION) if name not in FAST])
def test_every_mobile_backbone_keeps_the_contract(backbone: str) -> None:
    keeps_the_contract(backbone)


def test_at_least_fifty_of_timm_are_tried() -> None:
    assert len(set(TIMM)) == len(TIMM) >= 50


@pytest.mark.parametrize(("backbone", "message"), REFUSED.items())
def test_a_backbone_without_a_place_is_refused_by_name(backbone: str, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        MetaPool(backbone, **TINY)
    assert str(refused.value).startswith(f"backbone '{backbone}' has no place for an enhancer: {message}")
    assert "\n" not in str(refused.value)


# Where they stand


@pytest.mark.parametrize(
    ("backbone", "count", "first", "last"),
    [
        ("torchvision:mobilenet_v2", 17, "features.1.conv.0.2", "features.17.conv.1.2"),
        ("timm:mobilenetv3_small_050", 11, "blocks.0.0.bn1.act", "blocks.4.2.bn2.act"),
        ("timm:mobileone_s0", 21, "stages.0.0.act", "stages.3.0.act"),
        ("torchvision:shufflenet_v2_x0_5", 19, "stage2.0.branch1.1", "stage4.3.branch2.4"),
    ],
)
def test_the_places_of_known_backbones(backbone: str, count: int, first: str, last: str) -> None:
    labels = list(choices(MetaPool(backbone, **TINY)))
    assert (len(labels), labels[0], labels[-1]) == (count, f"{first}.enhancer", f"{last}.enhancer")


def test_branches_are_one_convolution() -> None:
    """Every token mixer of RepViT normalises twice, once within a branch; the sum counts."""
    space = MetaPool("timm:repvit_m0_9", **TINY)
    mixers = [f"{name}.bn" for name, module in space.named_modules() if isinstance(module, RepVggDw)]
    assert [place.name for place in space.places if "token_mixer" in place.name] == mixers


@pytest.mark.parametrize("backbone", FAST)
def test_what_is_enhanced_is_what_the_backbone_s_own_module_returns(backbone: str) -> None:
    model = network("local", **TINY, backbone=backbone).eval()
    seen: list[tuple[Tensor, Tensor]] = []
    for place in model.places:
        owner = model.get_submodule(place.name)
        owner.enhancer.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
        owner.register_forward_hook(lambda module, inputs, output: seen.append((output, output)))
    with torch.no_grad():
        model(torch.randn(1, 3, SIZE, SIZE))
    assert len(seen) == 2 * len(model.places)
    for (features, enhanced), (returned, _) in zip(seen[::2], seen[1::2], strict=True):
        assert returned is enhanced
        assert torch.equal(enhanced, F.avg_pool2d(features, 3, 1, 1))
    for place in model.places:
        assert place.activated == all(x.min() >= -3 / 8 for (x, _) in seen[::2])  # the least of ReLU and h-swish


@pytest.mark.parametrize(
    ("kind", "names", "obstacle"),
    [
        ("function", ["norms.0", "norms.1"], "activations that are functions, not modules"),
        ("shared", ["relu", "relu"], "modules that are called several times"),
        ("nested", ["swish.0", "swish.1"], ""),
        ("excited", ["norms.0", "norms.1"], ""),
    ],
)
def test_activations_are_told_by_what_they_compute(kind: str, names: list[str], obstacle: str) -> None:
    model = Functional(10, kind)
    places, output = find_places(model, 16)
    assert [place.name for place in places] == names
    assert {place.obstacle for place in places} == {obstacle}
    assert {place.shape for place in places} == {(8, 8, 8)}
    assert output.shape == (1, 10)
    assert model.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_finding_places_leaves_random_numbers_and_statistics_alone() -> None:
    model = build_backbone("timm:mobilenetv3_small_050", 10)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    find_places(model, SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# Options


def test_options_narrow_and_widen() -> None:
    every = MetaPool(**TINY)
    assert len(every.places) == 17
    assert not any("left out" in note for note in every.notes())
    large = MetaPool(**TINY | {"min_map": 4})
    assert [min(p.shape[1:]) >= 4 for p in every.places].count(True) == len(large.places) == 13
    assert large.notes()[1] == "places left out: 4 (maps smaller than min_map=4)"
    some = MetaPool(**TINY, where=r"^features\.1[0-3]\.")
    assert [p.name.split(".")[1] for p in some.places] == ["10", "11", "12", "13"]
    with pytest.raises(OptionError, match="no depthwise convolution"):
        MetaPool("torchvision:regnet_x_400mf", **TINY)
    assert MetaPool("torchvision:regnet_x_400mf", **TINY, grouped=True).places
    narrow, wide = (sum(p.numel() for p in MetaPool(width=w, **TINY).parameters()) for w in (0.25, 1))
    assert narrow < wide / 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "timm:mobilnetv3_small_100"}, "did you mean 'mobilenetv3_small_100'"),
        ({"backbone": "timm:hf-hub:somebody/something"}, "unknown network of timm"),
        ({"backbone": "torchvision:mobilenet_v4"}, "did you mean 'mobilenet_v"),
        ({"backbone": "mobilenetv3_small_100"}, "did you mean 'timm:mobilenetv3_small_100'"),
        ({"backbone": "mobilenet_v2"}, "did you mean 'torchvision:mobilenet_v2'"),
        ({"backbone": "nowhere:network"}, "there is no module 'nowhere'"),
        ({"backbone": "torch.nn:Identity"}, "is no classifier: it does not return 10 logits"),
        ({"backbone": "torch.nn:Lineer"}, "unknown class or function in torch.nn 'Lineer'"),
        ({"backbone": "builtins:dict"}, "returns no torch.nn.Module"),
        ({"backbone": "timm:mobilenetv1_100", "width": 0.5}, "has no option width_mult"),
        ({"backbone": "timm:levit_128s", "image_size": 40}, "cannot compute images of 40×40 pixels"),
        ({"where": "features.("}, "where='features.\\(' is no regular expression"),
        ({"where": "nothing"}, r"all that were found are left out: 17 \(names without where=nothing\)"),
        ({"image_size": 32, "min_map": 64}, r"left out: 17 \(maps smaller than min_map=64\)"),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message) as refused:
        MetaPool(**TINY | options)
    assert "\n" not in str(refused.value)


def test_a_stranger_s_backbone_is_imported_where_it_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stranger_backbone.py").write_text(
        "from torchvision.models import mobilenet_v3_small\n"
        "open('trace', 'w').close()\n"
        "def small(num_classes): return mobilenet_v3_small(num_classes=num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_backbone", raising=False)
    with registry.trusting(False), pytest.raises(OptionError, match=r"backbone 'stranger_.*not registered.*--trust"):
        MetaPool("stranger_backbone:small", **TINY)
    assert not (tmp_path / "trace").exists()
    assert len(MetaPool("stranger_backbone:small", **TINY).places) == 11


# As a network


def test_pretrained_weights_fit_by_name(tmp_path: Path) -> None:
    pretrained = build_backbone("timm:mobilenetv3_small_050", 20).state_dict()
    torch.save(pretrained, tmp_path / "weights.pth")
    options = {**TINY, "backbone": "timm:mobilenetv3_small_050"}
    for model in (MetaPool(**options), network("global", **options)):
        fit = fill(model, read_file(tmp_path / "weights.pth"))
        assert (fit.used, fit.convolutions > 0.5) == (len(pretrained) - 2, True)
        assert all(name.startswith("classifier.") for name in fit.left_out)


def test_copies_are_independent_and_follow_the_mode() -> None:
    """The backbone's own forward pass reads the parts, the dtype and the mode of the copy that it belongs to."""
    model = network("global", **TINY, backbone="timm:mobilenetv3_small_050")
    model._backbone.drop_rate = 0.5  # timm drops by the mode of the network itself, not of a layer
    other = copy.deepcopy(model)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.equal(model.eval()(images), model(images))
        assert not torch.equal(model.train()(images), model(images))
        assert model.eval()(images).any()
        assert not other.eval()(images).any()
        assert model.double()(images.double()).dtype == torch.float64
    assert fresh_copy(model).state_dict().keys() == model.state_dict().keys()


def test_it_is_counted_and_exported() -> None:
    model = network("global", **TINY, backbone="timm:mobilenetv3_small_050").eval()
    counted = profile(model, SIZE)
    assert counted.params == sum(p.numel() for p in model.parameters()) == sum(p.params for p in counted.parts)
    assert counted.madds == sum(p.madds for p in counted.parts)
    images = torch.randn(1, 3, SIZE, SIZE)
    with torch.no_grad():
        for exported in (torch.jit.trace(model, images), torch.export.export(model, (images,)).module()):
            torch.testing.assert_close(exported(images), model(images))
