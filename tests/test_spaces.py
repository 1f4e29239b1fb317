"""The Meta-Pooling space: its counts, its candidates, its architectures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models import mobilenet_v2

from nasbench.architecture import instantiate, resolve, validate
from nasbench.errors import ArchitectureError, OptionError
from nasbench.presets import read_architecture
from nasbench.profile import profile
from nasbench.spaces.mbv2_metapool import STRIDES, MobileNetV2MetaPooling
from nasbench.spaces.operations.enhancers import META_POOLING, SpatialSeparablePooling, candidate_names, enhancer
from nasbench.spaces.operations.strides import fit_strides


def network(choice: str, **options: object) -> nn.Module:
    """One architecture of the space."""

    def build() -> MobileNetV2MetaPooling:
        return MobileNetV2MetaPooling(**options)  # type: ignore[arg-type]

    return instantiate(build, resolve(build(), choice))


# (width, architecture) → parameters and multiply-adds in millions, as counted for the paper's tables.
COUNTS = {
    (1.0, "none"): ("3.505", None),
    (0.75, "none"): ("2.636", None),
    (0.5, "none"): ("1.969", None),
    (1.0, "global"): ("3.951", "306.8"),
    (1.0, "paper"): ("3.911", "305.4"),
    (0.75, "paper"): ("2.862", None),
    (0.5, "paper"): ("2.077", None),
}


@pytest.mark.parametrize(("width", "choice"), COUNTS)
def test_counts(width: float, choice: str) -> None:
    counted = profile(network(choice, width=width), 224)
    params, madds = COUNTS[width, choice]
    assert f"{counted.params / 1e6:.3f}" == params
    assert madds is None or f"{counted.madds / 1e6:.1f}" == madds
    assert sum(p.params for p in counted.parts) == counted.params
    assert sum(p.madds for p in counted.parts) == counted.madds


def test_local_pooling_costs_nothing() -> None:
    assert profile(network("local"), 224).params == profile(network("none"), 224).params


def test_without_enhancers_it_is_torchvision_s_network() -> None:
    ours, theirs = network("none").eval(), mobilenet_v2().eval()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))


def test_labels_and_candidates() -> None:
    mutables = MobileNetV2MetaPooling(width=0.1).simplify()
    assert list(mutables) == [f"block{i:02d}.enhancer" for i in range(1, 18)]
    assert all(m.values == list(META_POOLING) for m in mutables.values())
    assert candidate_names("ablation") == ("none", "avg3", "global")
    assert candidate_names("none, se,global") == ("none", "se", "global")


@pytest.mark.parametrize("position", ["expanded", "output"])
def test_position(position: str) -> None:
    net = network("global", width=0.25, position=position, image_size=16, num_classes=10)
    block = net.features[2]  # type: ignore[index]
    channels = block.enhancer.rows.out_channels
    assert channels == (block.conv[-2].in_channels if position == "expanded" else block.out_channels)
    assert net(torch.randn(2, 3, 16, 16)).shape == (2, 10)


@given(st.integers(4, 400))
@settings(max_examples=60)
def test_strides_keep_the_last_map_at_four_or_more(size: int) -> None:
    chosen = list(fit_strides(size, STRIDES).chosen)

    def last(values: list[int]) -> int:
        side = size
        for s in values:
            side = (side - 1) // s + 1  # a 3×3 convolution with padding 1
        return side

    assert last(chosen) >= 4
    # The earliest ones give way, and no more of them than it takes.
    original = list(STRIDES)
    given_up = [i for i, (a, b) in enumerate(zip(chosen, original, strict=True)) if a != b]
    twos = [i for i, s in enumerate(original) if s == 2]
    assert given_up == twos[: len(given_up)]
    if given_up:
        restored = list(chosen)
        restored[given_up[-1]] = 2
        assert last(restored) < 4


def test_strides_at_the_usual_sizes() -> None:
    assert fit_strides(224, STRIDES).chosen == STRIDES == (2, 1, 2, 2, 2, 1, 2, 1)
    assert fit_strides(64, STRIDES).chosen == (1, 1, 2, 2, 2, 1, 2, 1)
    assert fit_strides(32, STRIDES).chosen == fit_strides(28, STRIDES).chosen == (1, 1, 1, 2, 2, 1, 2, 1)
    assert fit_strides(16, STRIDES).chosen == (1, 1, 1, 1, 2, 1, 2, 1)


def test_the_last_map_is_what_the_rule_says() -> None:
    counted = profile(network("none", width=0.25, image_size=28), 28)
    assert next(p for p in counted.parts if p.name == "features.17").output[1:] == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be ≥ 0.05"),
        ({"width": float("nan")}, "width must be"),
        ({"candidates": "none,globl"}, "unknown candidate 'globl': did you mean 'global'"),
        ({"candidates": "none,none"}, "different names"),
        ({"candidates": []}, "different names"),
        ({"position": "middle"}, "position must be"),
        ({"image_size": 3}, "image_size must be a whole number ≥ 4"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"downsampling": "strid"}, "did you mean 'stride'"),
        ({"downsampling": "dpp", "depthwise": "sk"}, "brings its own stride"),
        ({"candidates": "none,liftdown"}, "use it for down-sampling"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("?", r"\?")):
        MobileNetV2MetaPooling(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "choice", "params"),
    [
        ({"candidates": "none,se"}, "se", "3.888"),
        ({"candidates": "none,se", "width": 0.75}, "se", "2.855"),
        ({"candidates": "none,se", "width": 0.5}, "se", "2.067"),
        ({"candidates": "none,cbam"}, "cbam", "3.890"),
        ({"candidates": "none,cbam", "width": 0.75}, "cbam", "2.857"),
        ({"candidates": "none,cbam", "width": 0.5}, "cbam", "2.069"),
        ({"candidates": "none,se", "position": "output"}, "se", "3.563"),
        ({"candidates": "none,cbam", "position": "output"}, "cbam", "3.565"),
        ({"depthwise": "sk"}, "none", "5.278"),
        ({"candidates": "none,coord"}, "coord", "3.952"),
    ],
    ids=str,
)
def test_counts_of_the_attention_rows(options: dict[str, object], choice: str, params: str) -> None:
    counted = profile(network(choice, **options), 224)
    assert f"{counted.params / 1e6:.3f}" == params
    if "depthwise" in options:
        assert f"{counted.madds / 1e6:.1f}" == "323.2"


@pytest.mark.parametrize("name", ["skip", "max", "average", "blur", "dpp", "gated", "gaussian", "liftdown"])
def test_pooling_in_place_of_the_stride(name: str) -> None:
    plain, pooled = (network("none", width=0.25, downsampling=d) for d in ("stride", name))
    shapes = [[p.output for p in profile(n, 224).parts] for n in (plain, pooled)]
    assert shapes[0] == shapes[1]
    replaced = [b for b in pooled.features if getattr(b, "downsampling", None)]  # type: ignore[union-attr]
    assert len(replaced) == 4
    assert all(b.conv[-3][0].stride == (1, 1) for b in replaced)
    if name == "skip":
        # Every second output of a stride-1 convolution is the stride-2 convolution.
        pooled.load_state_dict(plain.state_dict())
        image = torch.randn(1, 3, 224, 224)
        with torch.no_grad():
            torch.testing.assert_close(plain.eval()(image), pooled.eval()(image))


# Candidates


def test_spatial_separable_pooling_by_its_definition() -> None:
    torch.manual_seed(0)
    layer = SpatialSeparablePooling(40).double()
    for p in layer.parameters():
        nn.init.normal_(p)
    x = torch.randn(2, 40, 5, 7, dtype=torch.float64)
    layer.eval()
    scale = layer.norm.weight / (layer.norm.running_var + layer.norm.eps).sqrt()

    def squeeze(vector: torch.Tensor) -> torch.Tensor:
        z = layer.squeeze.weight[:, :, 0, 0] @ vector
        z = (z - layer.norm.running_mean) * scale + layer.norm.bias
        return z * (z + 3).clamp(0, 6) / 6

    expected = torch.empty_like(x)
    for n in range(2):
        for h in range(5):
            for w in range(7):
                row = squeeze(x[n, :, h, :].mean(1))
                column = squeeze(x[n, :, :, w].mean(1))
                gate_h = torch.sigmoid(layer.rows.weight[:, :, 0, 0] @ row + layer.rows.bias)
                gate_w = torch.sigmoid(layer.columns.weight[:, :, 0, 0] @ column + layer.columns.bias)
                expected[n, :, h, w] = x[n, :, h, w] * gate_h * gate_w
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("channels", [8, 255, 256, 960])
def test_spatial_separable_pooling_has_the_stated_width(channels: int) -> None:
    m = max(8, channels // 32)
    parameters = channels * m + 2 * m + 2 * (m * channels + channels)
    assert sum(p.numel() for p in SpatialSeparablePooling(channels).parameters()) == parameters


@given(st.sampled_from(list(META_POOLING)), st.integers(1, 9), st.integers(1, 9), st.integers(1, 20))
@settings(max_examples=60)
def test_candidates_keep_the_shape(name: str, height: int, width: int, channels: int) -> None:
    x = torch.randn(2, channels, height, width)
    assert enhancer(name, channels)(x).shape == x.shape


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_local_pooling_by_its_definition(kernel: int) -> None:
    x = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    half = kernel // 2
    average, maximum = torch.zeros_like(x), torch.full_like(x, -torch.inf)
    for dy in range(-half, half + 1):
        for dx in range(-half, half + 1):
            for h in range(6):
                for w in range(5):
                    if 0 <= h + dy < 6 and 0 <= w + dx < 5:
                        average[..., h, w] += x[..., h + dy, w + dx] / kernel**2
                        maximum[..., h, w] = maximum[..., h, w].maximum(x[..., h + dy, w + dx])
    torch.testing.assert_close(enhancer(f"avg{kernel}", 2)(x), average)
    torch.testing.assert_close(enhancer(f"max{kernel}", 2)(x), maximum)


# Architectures


def space() -> MobileNetV2MetaPooling:
    return MobileNetV2MetaPooling(width=0.05, image_size=8, num_classes=10)


def test_named_architectures_depend_on_the_candidates() -> None:
    assert set(space().architectures()) == {"none", "local", "global", "paper"}
    assert set(MobileNetV2MetaPooling(width=0.05, candidates="none,max3").architectures()) == {"none"}


def test_paper_is_global_in_blocks_9_to_17() -> None:
    chosen = resolve(space(), "paper")
    assert [label for label, c in chosen.items() if c == "global"] == [f"block{i:02d}.enhancer" for i in range(9, 18)]


def test_an_architecture_goes_through_json(tmp_path: Path) -> None:
    chosen = resolve(space(), "local") | {"block04.enhancer": "max7"}
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(chosen))
    assert resolve(space(), read_architecture(str(path))) == chosen
    assert resolve(space(), read_architecture(str(tmp_path))) == chosen  # a record's folder
    assert resolve(space(), read_architecture(json.dumps(chosen))) == chosen


def test_a_network_has_the_chosen_modules_and_fresh_weights() -> None:
    chosen = resolve(space(), "max5")
    one, two = (instantiate(space, chosen) for _ in range(2))
    assert one.features[1].enhancer.name == "max5"  # type: ignore[index, union-attr]
    assert not torch.equal(one.classifier[1].weight, two.classifier[1].weight)  # type: ignore[index, union-attr]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block99.enhancer": "none"}, "unknown label 'block99.enhancer': did you mean 'block09.enhancer'"),
        ({"block09.enhancer": "glob"}, "unknown candidate of block09.enhancer 'glob': did you mean 'global'"),
        ({"block09.enhancer": None}, "block09.enhancer"),
    ],
)
def test_an_architecture_that_does_not_fit_is_named(change: dict[str, object], message: str) -> None:
    chosen = resolve(space(), "none") | change
    with pytest.raises(ArchitectureError, match="does not fit the space") as error:
        validate(space(), chosen)
    assert message in str(error.value)


def test_missing_labels_and_strange_words_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError, match="17 label"):
        validate(space(), {})
    with pytest.raises(ArchitectureError, match="did you mean 'global'"):
        resolve(space(), "gobal")
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(OptionError, match="is not JSON"):
        read_architecture(str(broken))
