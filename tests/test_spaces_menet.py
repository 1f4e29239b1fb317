"""The MENet space: the published counts, the module's parts, its choices."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import nni.nas.strategy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from pytorchcv.models import menet
from torch import nn

from nasbench.architecture import choices, instantiate, resolve
from nasbench.cli import main
from nasbench.errors import ArchitectureError, OptionError
from nasbench.evaluators.classification import Classification
from nasbench.gained import with_gained
from nasbench.networks import label_of, load_model, profile_architecture
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.profile import profile
from nasbench.spaces.menet import MODELS, ChannelShuffle, MEModule, MENetSpace, MergingEvolutionGate
from nasbench.spaces.operations.choices import OnFirst
from nasbench.spaces.operations.enhancers import META_POOLING, candidate_names
from nasbench.strategies.darts import DARTS
from nasbench.strategies.mixed import MixedLayer
from nasbench.strategies.pmpl import PMPL

TINY: dict[str, Any] = {"width": 0.1, "image_size": 8, "num_classes": 10}

# Parameters, and multiply-adds in millions at 224×224 with 1000 classes.
COUNTS = {
    "108-8x1": (654_516, "38.29"),
    "128-8x1": (750_796, "40.92"),
    "160-8x1": (850_120, "39.27"),
    "228-12x1": (1_806_568, "144.09"),
    "256-12x1": (1_888_240, "140.84"),
    "352-12x1": (2_272_872, "144.28"),
    "348-12x1": (3_368_128, "299.62"),
    "456-24x1": (5_304_784, "551.05"),
}


def network(choice: Any, **options: Any) -> nn.Module:
    """One architecture of the space."""

    def build() -> MENetSpace:
        return MENetSpace(**options)

    return instantiate(build, resolve(build(), choice))


@pytest.mark.parametrize("name", COUNTS)
def test_the_published_networks(name: str) -> None:
    assert list(COUNTS) == list(MODELS)
    config = resolve_config({"space": "menet", "preset": "paper", "architecture": name})
    architecture, counted = profile_architecture(config)
    assert (counted.params, f"{counted.madds / 1e6:.2f}") == COUNTS[name]
    assert set(architecture.values()) == {"me", f"g{MODELS[name].groups}"}


# Names of pytorchcv's parts → ours.
PARTS = {
    "init_block.conv": "stem.0",
    "init_block.bn": "stem.1",
    "compress_conv1": "compress.0",
    "compress_bn1": "compress.1",
    "dw_conv2": "depthwise.0",
    "dw_bn2": "depthwise.1",
    "expand_conv3": "expand",
    "expand_bn3": "norm",
    "s_merge_conv": "enhancer.merging.0",
    "s_merge_bn": "enhancer.merging.1",
    "s_conv_bn": "enhancer.evolution.1",
    "s_conv": "enhancer.evolution.0",
    "s_evolve_conv": "enhancer.matching.0",
    "s_evolve_bn": "enhancer.matching.1",
    "output": "classifier",
}


@pytest.mark.parametrize("name", ["108-8x1", "160-8x1", "256-12x1"])
def test_with_equal_weights_the_networks_equal_an_independent_implementation(name: str) -> None:
    torch.manual_seed(0)
    theirs: Any = getattr(menet, f"menet{name.replace('-', '_')}_g{MODELS[name].groups}")().eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
    ours = network(name, model=name).eval()

    def own(key: str) -> str:
        def block(found: re.Match[str]) -> str:
            return f"block{sum((4, 8, 4)[: int(found[1]) - 1]) + int(found[2]):02d}"

        part, _, last = re.sub(r"stage(\d)\.unit(\d)", block, key).rpartition(".")
        start = next(their for their in PARTS if part.endswith(their))
        return f"{part.removesuffix(start)}{PARTS[start]}.{last}"

    ours.load_state_dict({own(key): value for key, value in theirs.state_dict().items()})
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = theirs(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


def test_records_from_before_the_order_was_published_keep_theirs() -> None:
    config = resolve_config({"space": "menet", "space_options": {"width": 0.1}})
    assert config.space_options["join"] == "branch_first"
    old = {k: v for k, v in config.space_options.items() if k != "join"}
    assert with_gained(config.model_copy(update={"space_options": old})).space_options["join"] == "input_first"
    torch.manual_seed(0)
    new, before = (network("none", **TINY, groups=[1], join=j).eval() for j in ("branch_first", "input_first"))
    before.load_state_dict(new.state_dict())
    images = torch.randn(2, 3, 8, 8)
    assert not torch.allclose(new(images), before(images))


def test_profile_takes_a_network_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["nasbench", "profile", "--space", "menet", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, capsys.readouterr()

    code, printed = command("--architecture", "228-12x1", "--json")
    told = json.loads(printed.out)
    assert not code
    assert (told["params"], told["madds"] // 10**4) == (1_806_568, 14409)
    code, printed = command("--architecture", "228-12x1", "-p", "model=456-24x1")
    assert code == 2
    assert "unknown architecture '228-12x1'" in printed.err


def test_a_run_of_a_network_by_its_name(tmp_path: Path) -> None:
    settings = {"space": "menet", "space_options": {"width": 0.1}, "image_size": 8, "train_images": 64}
    chosen = {"strategy": "fixed", "strategy_options": {"choice": "128-8x1"}, "epochs": 1, "retrain_epochs": 1}
    config = resolve_config({**settings, **chosen, "batch_size": 16, "device": "cpu"})
    record = run(config, tmp_path)
    assert (record.config().space_options["model"], record.config().space_options["width"]) == ("128-8x1", 0.1)
    assert set(record.architecture().values()) == {"me", "g4"}
    assert sum(p.numel() for p in load_model(record.path).parameters()) == record.result().params
    assert run(config, record.path).path == record.path  # the same run, and finished


# Parts


@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans())
@settings(max_examples=50)
def test_channel_shuffle_by_its_definition(groups: int, size: int, height: int, width: int, last: bool) -> None:
    x = torch.randn(2, groups * size, height, width)
    x = x.contiguous(memory_format=torch.channels_last) if last else x
    expected = torch.empty_like(x)
    for group in range(groups):
        for member in range(size):
            expected[:, member * groups + group] = x[:, group * size + member]
    assert torch.equal(ChannelShuffle(groups)(x), expected)


def test_the_gate_by_its_definition() -> None:
    torch.manual_seed(0)
    gate = MergingEvolutionGate(6, 3, 2).double().eval()
    for p in gate.parameters():
        nn.init.normal_(p)
    source = torch.randn(1, 6, 5, 4, dtype=torch.float64)
    features = torch.randn(1, 6, 3, 2, dtype=torch.float64)

    def norm(layer: Any, value: Any) -> Any:
        return value / (1 + layer.eps) ** 0.5 * layer.weight + layer.bias

    merged = torch.zeros(3, 7, 6, dtype=torch.float64)  # with a border of zeros
    for h in range(5):
        for w in range(4):
            squeezed = gate.merging[0].weight[:, :, 0, 0] @ source[0, :, h, w]
            merged[:, h + 1, w + 1] = norm(gate.merging[1], squeezed).clamp(min=0)
    expected = torch.empty_like(features)
    for h in range(3):
        for w in range(2):
            window = merged[:, 2 * h : 2 * h + 3, 2 * w : 2 * w + 3]
            evolved = (gate.evolution[0].weight * window).sum((1, 2, 3))
            evolved = norm(gate.evolution[1], evolved).clamp(min=0)
            matched = norm(gate.matching[1], gate.matching[0].weight[:, :, 0, 0] @ evolved)
            expected[0, :, h, w] = features[0, :, h, w] / (1 + (-matched).exp())
    torch.testing.assert_close(gate((features, source)), expected)
    assert not any(m.bias is not None for m in gate.modules() if isinstance(m, nn.Conv2d))


def test_the_gate_s_gradient() -> None:
    torch.manual_seed(0)
    gate = MergingEvolutionGate(4, 2, 1).double().eval()
    inputs = [torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda x, s: gate((x, s)), inputs)


def plain(inp: int, oup: int, stride: int, number: int, groups: int, gate: str = "none") -> MEModule:
    """A module without a choice."""
    modules: list[MEModule] = []

    class Space(MENetSpace):
        def __init__(self) -> None:
            super().__init__(**TINY)
            modules.append(MEModule(inp, oup, stride, number, 2, [gate], [groups], {}))

    instantiate(Space, dict(resolve(MENetSpace(**TINY), "none")) | {f"block{number:02d}.enhancer": gate})
    return modules[0].eval()


@pytest.mark.parametrize(("inp", "stride"), [(8, 1), (3, 2), (3, 1)])
def test_the_module_s_join(inp: int, stride: int) -> None:
    """With a main branch that gives nothing, what remains is the input: added, or pooled and concatenated behind it."""
    module = plain(inp, 8, stride, 1, 1)
    nn.init.zeros_(module.norm.weight)
    x = torch.randn(2, inp, 6, 6)
    kept = nn.functional.avg_pool2d(x, 3, 2, 1) if stride == 2 else x
    expected = torch.cat([torch.zeros(2, 8 - inp, *kept.shape[2:]), kept], 1) if inp != 8 else kept
    torch.testing.assert_close(module(x), expected.relu())


def test_groups_connect_what_they_should() -> None:
    """Without the shuffle a group stays among itself; with it every output sees all groups two convolutions on."""
    module = plain(12, 12, 1, 2, 3).double()
    for p in module.parameters():
        nn.init.uniform_(p, 0.1, 1)  # nothing cancels, and no ReLU cuts

    def seen(first: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Which of 12 channels reach each output channel."""
        jacobian = torch.autograd.functional.jacobian(lambda v: first(v).sum((0, 2, 3)), x)
        return jacobian.abs().sum((1, 3, 4)) > 0

    x = torch.rand(1, 12, 1, 1, dtype=torch.float64)
    compressed = seen(module.compress, x)  # three channels, one a group, shuffled
    assert compressed.shape == (3, 12)
    for channel in range(3):
        assert compressed[channel].nonzero().flatten().tolist() == list(range(4 * channel, 4 * channel + 4))
    assert module.expand.groups == 3
    wide = plain(24, 24, 1, 2, 3).double()
    for p in wide.parameters():
        nn.init.uniform_(p, 0.1, 1)
    x = torch.rand(1, 24, 1, 1, dtype=torch.float64)
    out = seen(lambda v: wide.expand(wide.compress(v)), x)  # type: ignore[arg-type]
    assert out.sum(1).tolist() == [16] * 24  # two channels a group, from two of the three groups before


@pytest.mark.parametrize("gate", ["me", *META_POOLING])
@pytest.mark.parametrize("stride", [1, 2])
def test_every_gate_learns_in_every_module(gate: str, stride: int) -> None:
    torch.manual_seed(0)
    module = plain(8, 16, stride, 2, 2, gate).train()
    x = torch.randn(4, 8, 6, 6, requires_grad=True)
    out = module(x)
    assert out.shape == (4, 16, 6 // stride, 6 // stride)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


# The space


def test_labels_and_candidates() -> None:
    found = choices(MENetSpace(**TINY | {"width": 1.0}))
    assert list(found) == [f"block{i:02d}.{kind}" for i in range(1, 17) for kind in ("groups", "enhancer")]
    assert candidate_names("full", extra=("me",)) == ("none", "me", *list(META_POOLING)[1:])
    assert all(v == ["none", "me", *list(META_POOLING)[1:]] for k, v in found.items() if k.endswith("enhancer"))
    # 27, 54 and 108 channels of the squeezed maps, and all that they are joined to
    assert found["block02.groups"] == ["g1", "g3"]
    assert found["block05.groups"] == ["g1", "g2", "g3"]
    assert found["block13.groups"] == ["g1", "g2", "g3", "g4"]
    assert not any(k.endswith("groups") for k in choices(MENetSpace(**TINY, groups=[3])))


def test_both_convolutions_follow_one_choice_of_groups() -> None:
    space = MENetSpace(**TINY | {"width": 1.0})
    chosen = resolve(space, "108-8x1") | {"block06.groups": "g2"}
    block = network(chosen, **TINY | {"width": 1.0}).features.block06  # type: ignore[union-attr]
    assert (block.compress[0].groups, block.compress[3].groups, block.expand.groups) == (2, 2, 2)
    first = network(chosen, **TINY | {"width": 1.0}).features.block01  # type: ignore[union-attr]
    assert (first.compress[0].groups, first.compress[3].groups, first.expand.groups) == (1, 3, 3)


@pytest.mark.parametrize("choice", ["108-8x1", "none", None])
def test_results_call_a_network_by_its_name(choice: str | None) -> None:
    space = MENetSpace(**TINY)
    architecture = resolve(space, choice if choice in space.architectures() else None)
    options = {"choice": choice} if choice else {}
    config = resolve_config({"space": "menet", "strategy": "fixed", "strategy_options": options, "preset": "paper"})
    assert label_of(config, architecture) == f"{choice or '108-8x1'} in menet"


def test_results_call_a_network_that_has_no_name_by_its_digits() -> None:
    architecture = {**resolve(MENetSpace(**TINY), "none"), "block03.enhancer": "max3"}
    config = resolve_config({"space": "menet", "architecture": architecture, "preset": "paper"})
    assert re.fullmatch("given [0-9a-f]{4} in menet", label_of(config, architecture))


def test_named_architectures() -> None:
    space = MENetSpace(**TINY)
    assert list(space.architectures()) == ["108-8x1", "none", "local", "global"]
    assert resolve(space, None) == resolve(space, "108-8x1")
    assert list(MENetSpace(**TINY, candidates="none,avg3").architectures()) == ["none", "local"]
    assert MENetSpace(**TINY, groups=[1]).architectures() == {}
    with pytest.raises(ArchitectureError, match="names no architecture to take by default"):
        resolve(MENetSpace(**TINY, groups=[1]), None)


@pytest.mark.parametrize(
    ("size", "maps"), [(224, (56, 28, 14, 7)), (64, (32, 16, 8, 4)), (28, (28, 14, 7, 4)), (16, (16, 16, 8, 4))]
)
def test_maps_at_several_sizes(size: int, maps: tuple[int, ...]) -> None:
    parts = profile(network("108-8x1", **TINY | {"image_size": size}), size).parts
    last = [
        next(p for p in parts if p.name == f"features.{name}") for name in ("pool", "block01", "block12", "block16")
    ]
    assert tuple(part.output[1] for part in last) == maps


@given(st.sampled_from(list(MODELS)), st.floats(0.05, 2))
@settings(max_examples=30)
def test_any_width_keeps_the_groups(name: str, width: float) -> None:
    scaled, full = MODELS[name].scaled(width), MODELS[name]
    assert scaled.channels % (4 * full.groups) == scaled.stem % full.groups == 0
    assert 0 < scaled.stem < scaled.channels
    assert abs(scaled.channels - full.channels * width) <= max(2 * full.groups, 4 * full.groups - full.channels * width)
    assert MODELS[name].scaled(1.0) == full


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "108-8x2"}, "did you mean '108-8x1'"),
        ({"width": 0}, "width must be ≥ 0.05"),
        ({"candidates": "none,mee"}, "unknown candidate 'mee': did you mean 'me'"),
        ({"groups": [5]}, "none of 5 divides the 27, 96 channels of module 1"),
        ({"groups": []}, "one or more different numbers"),
        ({"groups": [3, 3]}, "one or more different numbers"),
        ({"groups": [0]}, "groups must be ≥ 1"),
        ({"image_size": 3}, "image_size must be a whole number ≥ 4"),
    ],
    ids=str,
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        MENetSpace(**options)


# The supernet


def supernet(strategy: Any, epochs: int = 1, **options: Any) -> Any:
    """Search for an epoch on a few digits; returns the one-shot module."""
    data = {"image_size": 8, "train_images": 64, "batch_size": 16}
    evaluator = Classification(stage="search", epochs=epochs, device="cpu", data=data)
    model = RawFormatModelSpace.from_model(MENetSpace(**TINY, **options), evaluator)
    strategy(model, SequentialExecutionEngine())
    return strategy.oneshot_module


@pytest.mark.parametrize(
    "strategy", [PMPL(eta=0.1), DARTS(order=2), nni.nas.strategy.DARTS()], ids=["pmpl", "darts2", "nni-darts"]
)
def test_searched(strategy: Any) -> None:
    module = supernet(strategy, candidates="none,me,avg3,max3,global", model="128-8x1")
    found = module.export()
    space = MENetSpace(**TINY, candidates="none,me,avg3,max3,global", model="128-8x1")
    assert resolve(space, {str(k): v for k, v in found.items()})


def test_the_fused_mixture_is_the_sum_of_its_candidates() -> None:
    torch.manual_seed(0)
    module = supernet(PMPL(eta=1e-4))  # which fixes no layer
    layer = next(m for m in module.supernet_modules() if isinstance(m, MixedLayer) and "me" in m.names)
    assert layer.fixed is None
    assert len(layer._pooling) == 7
    assert isinstance(layer["avg3"], OnFirst)
    layer._arch_alpha.data.normal_()
    channels = layer["me"].matching[1].num_features
    inputs = tuple(torch.randn(2, channels, 5, 5, requires_grad=True) for _ in range(2))
    pi = layer._arch_alpha.softmax(0)
    expected = sum(p * layer[name](inputs) for p, name in zip(pi, layer.names, strict=True))
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-4, atol=1e-5)
    wanted = [*inputs, layer._arch_alpha]
    ours, theirs = (torch.autograd.grad(y.square().sum(), wanted) for y in (layer(inputs), expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_fixing_the_groups_fixes_both_convolutions() -> None:
    module = supernet(PMPL(), model="128-8x1")
    label = next(k for k in module.alphas if k.endswith("groups"))
    module.fix(label, "g4")
    layers = [m for m in module.supernet_modules() if isinstance(m, MixedLayer) and m.label == label]
    assert [m.fixed for m in layers] == ["g4", "g4"]
    assert not any(p.requires_grad for m in layers for p in m["g1"].parameters())
    assert all(p.requires_grad for m in layers for p in m["g4"].parameters())
