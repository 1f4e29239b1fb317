"""The space of cheap convolutions: its counts, its blocks, its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nasbench.architecture import choices, fresh_copy, instantiate, resolve
from nasbench.errors import ArchitectureError, OptionError
from nasbench.networks import profile_architecture
from nasbench.presets import read_architecture, resolve_config
from nasbench.profile import latency, profile
from nasbench.spaces.cheap_resnet import CANDIDATES, CheapBlock, CheapResNet, StandardBlock
from nasbench.spaces.operations.cheap import depthwise

SMALL = {"depth": 8, "width": 0.25, "image_size": 8}


def network(choice: str, **options: Any) -> nn.Module:
    return instantiate(lambda: CheapResNet(**options), resolve(CheapResNet(**options), choice))


# Parameters, and multiply-adds in millions, of ResNet-56 with ten classes at 32×32, as arXiv 1909.13063's blocks have
# them; counted independently of this code.
COUNTS = {
    "standard": (855_770, "125.7"),
    "shift": (102_106, "15.39"),
    "depthwise": (119_818, "20.47"),
    "group4": (311_194, "50.77"),
    "group8": (206_650, "33.08"),
    "group16": (154_378, "24.23"),
}


@pytest.mark.parametrize("choice", COUNTS)
def test_counts_of_resnet_56(choice: str) -> None:
    counted = profile(network(choice), 32)
    params, madds = COUNTS[choice]
    assert counted.params == params
    assert f"{counted.madds / 1e6:.{len(madds.partition('.')[2])}f}" == madds
    assert sum(p.params for p in counted.parts) == counted.params
    assert sum(p.madds for p in counted.parts) == counted.madds


def test_labels_candidates_and_names() -> None:
    space = CheapResNet()
    found = choices(space)
    assert list(found) == [f"block{i:02d}.conv" for i in range(1, 28)]
    assert all(tuple(values) == CANDIDATES for values in found.values())
    assert list(space.architectures()) == list(CANDIDATES)
    assert resolve(space, None) == dict.fromkeys(found, "standard")
    assert len(choices(CheapResNet(depth=20))) == 9


def test_a_cheap_block_is_what_the_paper_says() -> None:
    block = CheapBlock(6, 10, 2, depthwise)
    for norm in (block.bn1, block.bn2, block.shortcut[1]):  # type: ignore[index]
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
        nn.init.uniform_(norm.running_mean)
    x = torch.randn(3, 6, 8, 8)
    block.eval()

    def norm(layer: Any, x: torch.Tensor) -> torch.Tensor:
        shape = (1, -1, 1, 1)
        scale = (layer.running_var + layer.eps).rsqrt() * layer.weight
        return (x - layer.running_mean.view(shape)) * scale.view(shape) + layer.bias.view(shape)

    y = F.conv2d(x, block.cheap1.weight, padding=1, groups=6)  # type: ignore[arg-type]
    y = norm(block.bn1, F.conv2d(y, block.conv1.weight)).relu()
    y = F.conv2d(y, block.cheap2.weight, padding=1, groups=10)  # type: ignore[arg-type]
    y = norm(block.bn2, F.conv2d(y, block.conv2.weight, stride=2)).relu()
    convolution, batch_norm = block.shortcut  # type: ignore[misc]
    expected = y + norm(batch_norm, F.conv2d(x, convolution.weight, stride=2))
    torch.testing.assert_close(block(x), expected)
    assert (expected < 0).any()  # nothing cuts the sum


def test_a_standard_block_ends_in_a_relu_and_keeps_its_input_on_the_shortcut() -> None:
    block = StandardBlock(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(block(x), x.relu())
    cheap = CheapBlock(4, 4, 1, depthwise).eval()
    nn.init.zeros_(cheap.bn2.weight)
    torch.testing.assert_close(cheap(x), x)


@pytest.mark.parametrize(("size", "last"), [(32, 8), (28, 7), (16, 4), (13, 4), (12, 6), (8, 4), (4, 4)])
def test_the_last_map_is_at_least_four_wide(size: int, last: int) -> None:
    net = network("depthwise", depth=8, width=0.25, image_size=size)
    assert net.features(torch.randn(1, 3, size, size)).shape == (1, 16, last, last)  # type: ignore[operator]


@pytest.mark.parametrize("choice", CANDIDATES)
def test_every_candidate_trains_at_every_width(choice: str) -> None:
    for width in (0.25, 0.4, 1.0):
        net = network(choice, depth=8, width=width, num_classes=7, image_size=8)
        net(torch.randn(2, 3, 8, 8)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 21}, "depth must be 6n + 2 (8, 14, 20, …), e.g. 20 or 26, not 21"),
        ({"depth": 2}, "depth must be ≥ 8"),
        ({"width": 0.2}, "width must be ≥ 0.25"),
        ({"num_classes": 0}, "num_classes must be ≥ 1"),
        ({"image_size": 3}, "image_size must be a whole number ≥ 4"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as error:
        CheapResNet(**options)
    assert message in str(error.value)


def test_another_network_of_the_same_space() -> None:
    net = network("shift", **SMALL)
    copy = fresh_copy(net)
    assert isinstance(copy, CheapResNet)
    assert copy is not net
    assert copy.state_dict().keys() == net.state_dict().keys()
    assert all(a.shape == b.shape for a, b in zip(net.parameters(), copy.parameters(), strict=True))
    assert not torch.equal(net.classifier.weight, copy.classifier.weight)  # type: ignore[union-attr, arg-type]
    standard = fresh_copy(net, net.architectures()["standard"])  # type: ignore[operator]
    assert isinstance(standard.features.block01, StandardBlock)  # type: ignore[union-attr]
    assert standard.classifier.in_features == 16  # type: ignore[union-attr]
    with pytest.raises(ArchitectureError, match="a further CheapResNet cannot be built"):
        fresh_copy(CheapResNet(**SMALL))
    with pytest.raises(ArchitectureError, match="a further Linear cannot be built"):
        fresh_copy(nn.Linear(2, 2))


# The profile


def test_a_profile_without_a_data_set_is_of_the_space_s_own_images() -> None:
    given = {"space": "cheap_resnet", "preset": "paper"}
    chosen, counts = profile_architecture(resolve_config({**given, "architecture": "shift"}), timed=True)
    time = counts.latency
    assert time is not None
    assert (counts.params, set(chosen.values())) == (102_106, {"shift"})
    assert counts.parts[-1].output == (10,)
    assert (time.batch, time.threads) == (1, torch.get_num_threads())
    _, counts = profile_architecture(resolve_config(given | {"image_size": 16}))
    assert counts.latency is None
    assert (counts.params, counts.parts[0].output) == (855_770, (16, 16, 16))
    _, counts = profile_architecture(resolve_config({"preset": "paper"}))
    assert counts.parts[-1].output == (1000,)


def test_latency() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert x.shape == (2, 1, 6, 6)
            self.calls += 1
            return x

    module = Counting()
    measured = latency(module, 6, channels=1, batch=2, seconds=0.0, runs=7)
    assert (measured.runs, module.calls) == (7, 10)
    assert module.training
    low, high = measured.spread_seconds
    assert 0 < low <= measured.median_seconds <= high
    assert latency(module, 6, channels=1, batch=2, seconds=0.01, runs=1).runs > 7


def test_the_command_prints_counts_and_latency(capsys: pytest.CaptureFixture[str]) -> None:
    from nasbench.cli import app

    arguments = ["profile", "--space", "cheap_resnet", "-p", "depth=8", "--architecture", "group8"]
    app([*arguments, "--json"], standalone_mode=False)
    told = json.loads(capsys.readouterr().out)
    assert set(told["latency"]) == {"batch", "threads", "runs", "median_seconds", "spread_seconds"}
    assert len(told["latency"]["spread_seconds"]) == 2
    app(arguments, standalone_mode=False)
    assert "batch 1, " in capsys.readouterr().out.splitlines()[-1]


def test_a_named_architecture_is_found_in_a_file(tmp_path: Path) -> None:
    space = CheapResNet(**SMALL)  # type: ignore[arg-type]
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(space.architectures()["group4"]))
    assert set(resolve(space, read_architecture(str(path))).values()) == {"group4"}
