"""Meta-Pooling on torchvision's other backbones: ShuffleNetV2 and MobileNetV3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from torch import nn
from torchvision import models
from torchvision.ops.misc import SqueezeExcitation

from nasbench.architecture import choices, instantiate, resolve
from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.profile import profile
from nasbench.spaces.mobilenetv3_metapool import STRIDES, MobileNetV3MetaPooling
from nasbench.spaces.operations.enhancers import META_POOLING
from nasbench.spaces.operations.strides import fit_strides
from nasbench.spaces.shufflenetv2_metapool import ShuffleNetV2MetaPooling, channels
from nasbench.strategies.pmpl import PMPL
from nasbench.weights import fill, read_file

Build = Callable[..., Any]
SPACES: list[tuple[Build, dict[str, Any], int]] = [
    (ShuffleNetV2MetaPooling, {}, 16),
    (MobileNetV3MetaPooling, {"model": "small"}, 11),
    (MobileNetV3MetaPooling, {"model": "large"}, 15),
]
IDS = ["shufflenetv2", "mobilenetv3-small", "mobilenetv3-large"]
TINY: dict[str, Any] = {"width": 0.1, "image_size": 8, "num_classes": 10}
TORCHVISION: list[tuple[Build, dict[str, Any], Callable[[], nn.Module]]] = [
    (ShuffleNetV2MetaPooling, {"width": 0.5}, models.shufflenet_v2_x0_5),
    (ShuffleNetV2MetaPooling, {"width": 1.0}, models.shufflenet_v2_x1_0),
    (ShuffleNetV2MetaPooling, {"width": 1.5}, models.shufflenet_v2_x1_5),
    (ShuffleNetV2MetaPooling, {"width": 2.0}, models.shufflenet_v2_x2_0),
    (MobileNetV3MetaPooling, {"model": "small"}, models.mobilenet_v3_small),
    (MobileNetV3MetaPooling, {"model": "large"}, models.mobilenet_v3_large),
    (MobileNetV3MetaPooling, {"width": 0.75}, lambda: models.mobilenet_v3_large(width_mult=0.75)),
]


def network(build: Build, choice: Any, **options: Any) -> nn.Module:
    """One architecture of a space."""
    return instantiate(lambda: build(**options), resolve(build(**options), choice))


@pytest.mark.parametrize(("build", "options", "torchvision"), TORCHVISION)
def test_without_enhancers_it_is_torchvision_s_network(
    build: Build, options: dict[str, Any], torchvision: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    ours, theirs = network(build, "none", **options).eval(), torchvision().eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for buffer in theirs.buffers():  # statistics as after a training, so that their places matter
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize(
    ("build", "options", "count", "pretrained"),
    [
        (ShuffleNetV2MetaPooling, {}, 2_278_604, models.ShuffleNet_V2_X1_0_Weights.IMAGENET1K_V1),
        (MobileNetV3MetaPooling, {"model": "small"}, 2_542_856, models.MobileNet_V3_Small_Weights.IMAGENET1K_V1),
        (MobileNetV3MetaPooling, {"model": "large"}, 5_483_032, models.MobileNet_V3_Large_Weights.IMAGENET1K_V1),
    ],
    ids=IDS,
)
def test_counts(build: Build, options: dict[str, Any], count: int, pretrained: Any) -> None:
    counted = profile(network(build, "none", **options), 224)
    assert counted.params == count == pretrained.meta["num_params"]
    assert f"{counted.madds / 1e9:.3f}" == f"{pretrained.meta['_ops']:.3f}"
    assert profile(network(build, "local", **options), 224).params == count
    assert sum(p.params for p in counted.parts) == count


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
def test_the_global_enhancer_s_parameters(build: Build, options: dict[str, Any], blocks: int) -> None:
    plain, enhanced = (network(build, c, **options) for c in ("none", "global"))
    expected = 0
    for block in (m for m in plain.modules() if hasattr(m, "enhancer")):
        c = _depthwise(block).out_channels
        m = max(8, c // 32)
        expected += c * m + 2 * m + 2 * (m * c + c)
    added = sum(p.numel() for p in enhanced.parameters()) - sum(p.numel() for p in plain.parameters())
    assert added == expected
    assert len([m for m in plain.modules() if hasattr(m, "enhancer")]) == blocks


def _depthwise(block: Any) -> Any:
    """The depthwise convolution of a block's main branch."""
    found = [
        m
        for name, m in block.named_modules()
        if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 and not name.startswith("branch1")
    ]
    (convolution,) = found
    return convolution


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
def test_the_enhancer_stands_behind_the_depthwise_convolution(
    build: Build, options: dict[str, Any], blocks: int
) -> None:
    """Order of execution in every block: depthwise, its norm, enhancer, then (SE and) the next 1×1 convolution."""
    model = network(build, "local", **options, **TINY)
    order: list[nn.Module] = []
    for module in model.modules():
        if not list(module.children()) or isinstance(module, SqueezeExcitation):
            module.register_forward_hook(lambda m, *_: order.append(m))
    model.eval()(torch.randn(1, 3, 8, 8))
    seen_se = 0
    for block in (m for m in model.modules() if hasattr(m, "enhancer")):
        before = order.index(_depthwise(block))
        enhancer = order.index(block.enhancer)
        between = order[before + 1 : enhancer]
        assert isinstance(between[0], nn.BatchNorm2d)
        assert not any(isinstance(m, (nn.Conv2d, SqueezeExcitation)) for m in between)
        following = next(m for m in order[enhancer + 1 :] if isinstance(m, nn.Conv2d))
        assert following.kernel_size == (1, 1)
        excitations = [m for m in block.modules() if isinstance(m, SqueezeExcitation)]
        seen_se += len(excitations)
        assert all(order.index(m) > enhancer for m in excitations)
    assert seen_se == {16: 0, 11: 9, 15: 8}[blocks]


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
def test_labels_and_names(build: Build, options: dict[str, Any], blocks: int) -> None:
    space = build(**options, **TINY)
    found = choices(space)
    assert list(found) == [f"block{i:02d}.enhancer" for i in range(1, blocks + 1)]
    assert all(values == list(META_POOLING) for values in found.values())
    assert list(space.architectures()) == ["none", "local", "global"]
    assert set(resolve(space, "local").values()) == {"avg3"}
    assert set(resolve(space, None).values()) == {"none"}
    assert list(build(**options, **TINY, candidates="none,global").architectures()) == ["none", "global"]


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
@pytest.mark.parametrize("size", [4, 16, 28, 64])
def test_the_last_map_is_at_least_four(build: Build, options: dict[str, Any], blocks: int, size: int) -> None:
    model = network(build, "none", **options, **TINY | {"image_size": size})
    parts = profile(model, size).parts
    last = [p for p in parts if len(p.output) == 3 and p.output[1] > 1][-1]
    assert last.output[1] == {4: 4, 16: 4, 28: 4, 64: 4}[size]


def test_the_features_of_shufflenet_are_its_layers_in_order() -> None:
    model: Any = network(ShuffleNetV2MetaPooling, "global", **TINY).eval()
    image = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(model.fc(model.features(image).mean((2, 3))), model(image))
    assert not any(name.startswith("features") for name in model.state_dict())


@given(st.integers(4, 400), st.lists(st.integers(1, 2), min_size=1, max_size=8))
@settings(max_examples=100)
def test_fitted_strides(size: int, original: list[int]) -> None:
    def last(values: list[int]) -> int:
        side = size
        for s in values:
            side = (side - 1) // s + 1  # a 3×3 convolution with padding 1
        return side

    chosen = list(fit_strides(size, original).chosen)
    twos = [i for i, s in enumerate(original) if s == 2]
    given_up = [i for i, (a, b) in enumerate(zip(chosen, original, strict=True)) if a != b]
    assert last(chosen) >= 4
    assert given_up == twos[: len(given_up)]
    if given_up:
        restored = list(chosen)
        restored[given_up[-1]] = 2
        assert last(restored) < 4


def test_the_strides_are_torchvision_s() -> None:
    for name, build in (("large", models.mobilenet_v3_large), ("small", models.mobilenet_v3_small)):
        features = build().features
        found = [features[0][0].stride[0], *(_depthwise(b).stride[0] for b in features[1:-1])]
        assert tuple(found) == STRIDES[name]
        assert fit_strides(224, STRIDES[name]).chosen == STRIDES[name]


def test_a_shortcut_that_a_lost_stride_makes_possible() -> None:
    """MobileNetV3 small begins with a stride-2 block of equal channels."""
    first = [network(MobileNetV3MetaPooling, "none", model="small", image_size=s).features[1] for s in (224, 28)]
    assert [b.use_res_connect for b in first] == [False, True]  # type: ignore[union-attr]


def test_channels_of_other_widths() -> None:
    assert channels(0.25) == [8, 28, 58, 116, 256]
    assert channels(1) == [24, 116, 232, 464, 1024]
    assert all(c % 2 == 0 and c >= 8 for w in (0.05, 0.3, 0.77, 1.9, 3.3) for c in channels(w))


@pytest.mark.parametrize("name", META_POOLING)
@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
def test_every_candidate_learns(build: Build, options: dict[str, Any], blocks: int, name: str) -> None:
    torch.manual_seed(0)
    model = network(build, name, **options, **TINY).train()
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
def test_batch_statistics_settle_within_few_epochs(build: Build, options: dict[str, Any], blocks: int) -> None:
    """At torchvision's 0.01 MobileNetV3 is at chance level after 300 steps, whatever it has learnt."""
    norms = [m for m in build(**options, **TINY).modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) > 2 * blocks
    assert {m.momentum for m in norms} == {0.1}


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES, ids=IDS)
def test_pretrained_weights_fit_by_name(build: Build, options: dict[str, Any], blocks: int, tmp_path: Path) -> None:
    torchvision = models.shufflenet_v2_x1_0 if not options else getattr(models, f"mobilenet_v3_{options['model']}")
    pretrained = torchvision().state_dict()
    torch.save(pretrained, tmp_path / "weights.pth")
    small = {**options, "num_classes": 10, "image_size": 16}
    heads = ("fc.",) if not options else ("classifier.3.",)
    own = [k for k in pretrained if not k.startswith(heads)]
    for model in (build(**small), network(build, "global", **small)):
        assert fill(model, read_file(tmp_path / "weights.pth")).used == len(own)
        state = model.state_dict()
        assert all(torch.equal(state[k], pretrained[k]) for k in own)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (MobileNetV3MetaPooling, {"model": "medium"}, "model must be 'large' or 'small', not 'medium'"),
        (MobileNetV3MetaPooling, {"dropout": 1.0}, "dropout must be"),
        *((b, {"width": 0}, "width must be ≥ 0.05") for b in (MobileNetV3MetaPooling, ShuffleNetV2MetaPooling)),
        *((b, {"image_size": 3}, "image_size") for b in (MobileNetV3MetaPooling, ShuffleNetV2MetaPooling)),
        *((b, {"candidates": "globl"}, "'global'") for b in (MobileNetV3MetaPooling, ShuffleNetV2MetaPooling)),
    ],
)
def test_wrong_options_are_named(build: Build, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build(**options)


@pytest.mark.parametrize(("build", "options", "blocks"), SPACES[:2], ids=IDS[:2])
def test_searched_by_pmpl(build: Build, options: dict[str, Any], blocks: int) -> None:
    data = {"image_size": 8, "train_images": 64, "batch_size": 16}
    evaluator = Classification(stage="search", epochs=1, device="cpu", data=data)
    strategy: Any = PMPL(eta=0.1)
    space = build(**options, **TINY)
    strategy(RawFormatModelSpace.from_model(space, evaluator), SequentialExecutionEngine())
    assert resolve(build(**options, **TINY), {str(k): v for k, v in strategy.oneshot_module.export().items()})
