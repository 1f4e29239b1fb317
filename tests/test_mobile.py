"""Mobile networks whose blocks choose their cost: the published ones, the choices, and the memory of the supernet."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import timm
import torch
from pytorchcv.models import fbnet, proxylessnas
from torch import nn
from torch.nn import functional as F
from torchvision import models

from nasbench.architecture import choices, instantiate, named, resolve
from nasbench.config import make_config
from nasbench.errors import OptionError
from nasbench.limits.budget import AGREE, budget_of
from nasbench.limits.memory import Living
from nasbench.presets import complete
from nasbench.profile import profile
from nasbench.spaces.mobile import GRID, SKELETONS, SKIP, Mobile
from nasbench.spaces.operations.fused import Recomputed
from nasbench.strategies import mixed
from nasbench.strategies.darts import DARTS
from tests.test_commands import call

SPACE = "nasbench.spaces.mobile:Mobile"
TINY: dict[str, Any] = {"width": 0.25, "image_size": 16, "num_classes": 10}


def network(choice: Any = None, **options: Any) -> nn.Module:
    """One architecture of the space, by default the published one."""
    return instantiate(lambda: Mobile(**options), resolve(Mobile(**options), choice))


# Multiply-adds and parameters in millions at 224 px, as counted; those that papers or the authors' repositories print
# are these, rounded, but for what the comments at `SKELETONS` say.
COUNTS = {
    "mobilenet_v2": ("300.8", "3.505"),  # 300 and 3.4 in the paper, 300.8 and 3.505 in torchvision
    "proxyless_mobile": ("320.4", "4.081"),
    "proxyless_cpu": ("439.2", "4.362"),
    "proxyless_gpu": ("465.3", "7.120"),
    "mnasnet_a1": ("311.6", "3.887"),
    "fbnet_c": ("385.0", "5.572"),
    "mobilenet_v3_large": ("216.6", "5.483"),
    "mobilenet_v3_small": ("56.5", "2.543"),
}


@pytest.mark.parametrize("name", SKELETONS)
def test_the_published_networks_cost_what_was_published(name: str) -> None:
    counted = profile(network(skeleton=name), 224)
    assert (f"{counted.madds / 1e6:.1f}", f"{counted.params / 1e6:.3f}") == COUNTS[name]


def without_expansion_one(model: Any) -> Any:
    """The FBNet-C of timm with the blocks of the authors' repository."""
    for block in (block for stage in model.blocks for block in stage):
        if block.conv_pw.in_channels == block.conv_pw.out_channels:
            block.conv_pw = block.bn1 = nn.Identity()
    return model


def test_fbnet_of_the_authors_costs_what_their_repository_prints() -> None:
    """378.2 M with the additions of the pooling, which nobody else counts."""
    counted = profile(without_expansion_one(timm.create_model("fbnetc_100")), 224)
    assert f"{(counted.madds + 49 * 1984) / 1e6:.1f}" == "378.2"


REFERENCES: list[tuple[str, dict[str, Any], Callable[[], nn.Module]]] = [
    ("mobilenet_v2", {}, models.mobilenet_v2),
    ("mobilenet_v2", {"width": 0.5}, lambda: models.mobilenet_v2(width_mult=0.5)),
    ("mobilenet_v2", {"width": 1.4}, lambda: models.mobilenet_v2(width_mult=1.4)),
    ("proxyless_mobile", {}, proxylessnas.proxylessnas_mobile),
    ("proxyless_cpu", {}, proxylessnas.proxylessnas_cpu),
    ("proxyless_gpu", {}, proxylessnas.proxylessnas_gpu),
    ("mnasnet_a1", {}, lambda: timm.create_model("semnasnet_100")),
    ("mnasnet_a1", {"width": 0.75}, lambda: timm.create_model("semnasnet_075")),
    ("fbnet_c", {}, lambda: timm.create_model("fbnetc_100")),
    ("fbnet_c", {}, lambda: fbnet.get_fbnet("c")),
    ("mobilenet_v3_large", {}, models.mobilenet_v3_large),
    ("mobilenet_v3_large", {"width": 0.75}, lambda: timm.create_model("mobilenetv3_large_075", bn_eps=1e-3)),
    ("mobilenet_v3_small", {}, models.mobilenet_v3_small),
]


@pytest.mark.parametrize(("name", "options", "build"), REFERENCES)
def test_the_published_networks_are_others_with_the_same_weights(
    name: str, options: dict[str, Any], build: Callable[[], nn.Module]
) -> None:
    torch.manual_seed(0)
    ours, theirs = network(skeleton=name, **options).double().eval(), build().double().eval()
    for buffer in theirs.buffers():  # statistics as after a training, so that their places matter
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    state, known = ours.state_dict(), theirs.state_dict()
    for (key, value), other in zip(state.items(), known.values(), strict=True):
        assert value.shape == other.shape or value.shape == other.flatten(1).shape, key  # timm's head is a convolution
    ours.load_state_dict(
        {key: value.reshape(state[key].shape) for key, value in zip(state, known.values(), strict=True)}
    )
    image = torch.randn(2, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        expected = theirs(image)
        assert (ours(image) - expected).abs().max() <= 1e-12 * expected.abs().max()


# The choices


def test_labels_and_candidates() -> None:
    found = choices(Mobile())
    assert list(found) == [f"block{i:02d}.conv" for i in range(2, 18)]
    assert all(values in ([*GRID], [*GRID, SKIP]) for values in found.values())
    kept = [label for label, values in found.items() if SKIP in values]
    assert [int(label[5:7]) for label in kept] == [3, 5, 6, 8, 9, 10, 12, 13, 15, 16]
    assert choices(Mobile(skeleton="mobilenet_v3_small"))["block02.conv"] == [*GRID, "e4_5k3"]
    # What loses its stride and has as many channels as come in can be skipped, and adds its input.
    assert SKIP in choices(Mobile(**TINY))["block02.conv"]
    assert network({label: values[-1] for label, values in choices(Mobile(**TINY)).items()}, **TINY)


@pytest.mark.parametrize("skeleton", SKELETONS)
def test_every_choice_of_every_block_changes_the_cost(skeleton: str) -> None:
    limits = {"madds": "9G", "params": "9G"}
    options = {"skeleton": skeleton, "width": 0.25}
    madds, params = budget_of(
        complete(make_config({"space": SPACE, "space_options": options, "limits": limits})), 10, 16
    ).costs
    assert list(madds.places) == list(choices(Mobile(skeleton=skeleton, image_size=16, width=0.25)))
    for label, own in madds.places.items():
        costs = [(cost.value, params.places[label][name].value) for name, cost in own.items()]
        assert len(set(costs)) == len(costs), label
        assert own.get(SKIP, next(iter(own.values()))).value == min(cost.value for cost in own.values())
        if SKIP in own:
            assert own[SKIP].value == params.places[label][SKIP].value == 0


@pytest.mark.parametrize("enhancers", ["none", "ablation"])
def test_costs_of_choices_add_up(enhancers: str) -> None:
    """Exactly; where a block is skipped the network costs less by the enhancer that stood behind it."""
    options = {"width": 0.5, "enhancers": enhancers}
    config = complete(make_config({"space": SPACE, "space_options": options, "limits": {"params": "9G"}}))
    found, lot, times = budget_of(config, 10, 32), Random(1), 0
    for _ in range(3):
        drawn = {label: lot.choice(list(own)) for label, own in found.costs[0].places.items()}
        skipped = [label for label, name in drawn.items() if name == SKIP]
        gone = [f"{label[:7]}.enhancer" for label in skipped]
        spared = sum(found.costs[0].places[k][drawn[k]].value for k in gone) if enhancers != "none" else 0
        facts = found.measured(drawn)["params"]
        times += len(skipped)
        assert facts.measured == facts.predicted - spared >= facts.predicted * (1 - AGREE)
    assert times


@pytest.mark.parametrize("skeleton", SKELETONS)
@pytest.mark.parametrize("enhancers", ["none", "ablation"])
def test_a_random_architecture_is_frozen_as_it_is_built(skeleton: str, enhancers: str) -> None:
    options = {**TINY, "skeleton": skeleton, "enhancers": enhancers}
    space = Mobile(**options)
    architecture = resolve(space, "random:1")
    skipped = next(label for label, values in choices(space).items() if SKIP in values)
    architecture |= {skipped: SKIP, **({f"{skipped[:7]}.enhancer": "global"} if enhancers != "none" else {})}
    built, again = network(architecture, **options), network(architecture, **options)
    frozen: nn.Module = space.freeze(architecture)
    assert list(frozen.state_dict()) == list(built.state_dict()) == list(again.state_dict())
    images = torch.randn(2, 3, 16, 16)
    for other in (frozen, again):
        other.load_state_dict(built.state_dict())
        with torch.no_grad():
            assert torch.equal(other.eval()(images), built.eval()(images))
    assert built.train()(images).shape == (2, 10)
    built(images).square().sum().backward()
    assert all(p.grad is not None for p in built.parameters())  # nothing stays behind of what is skipped


def test_enhancers_are_a_choice_only_where_there_are_several() -> None:
    assert not [label for label in choices(Mobile(**TINY)) if label.endswith("enhancer")]
    assert list(named(Mobile(**TINY))) == ["mobilenet_v2"]
    space = Mobile(**TINY, enhancers="ablation")
    own = [values for label, values in choices(space).items() if label.endswith("enhancer")]
    assert own == [["none", "avg3", "global"]] * 17
    assert list(named(space)) == ["mobilenet_v2", "local", "global"]
    plain, enhanced = (
        sum(p.numel() for p in network(n, **TINY, enhancers="ablation").parameters()) for n in (None, "global")
    )
    assert plain == sum(p.numel() for p in network(**TINY).parameters()) < enhanced


def test_the_enhancer_stands_behind_the_branch_and_before_the_sum() -> None:
    block: Any = network("local", **TINY, enhancers="ablation").eval().features[3]  # type: ignore[index]
    x = torch.randn(2, block.branch[-1][0].out_channels, 8, 8)
    with torch.no_grad():
        assert torch.equal(block(x), x + F.avg_pool2d(block.branch(x), 3, 1, 1))


@pytest.mark.parametrize("size", [8, 16, 32, 64])
@pytest.mark.parametrize("skeleton", SKELETONS)
def test_the_last_map_is_at_least_four(skeleton: str, size: int) -> None:
    parts = profile(network(skeleton=skeleton, width=0.25, image_size=size), size).parts
    assert next(part for part in parts if part.name == "features.head").output[1:] == (4, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skeleton": "proxyless_gpuu"}, "unknown skeleton 'proxyless_gpuu': did you mean 'proxyless_gpu'"),
        ({"enhancers": "none,globl"}, "did you mean 'global'"),
        ({"width": 0}, "width must be ≥ 0.05"),
        ({"image_size": 31, "strides": "original"}, "under 1×1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Mobile(**options)


def test_a_published_network_brings_its_skeleton_along(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("profile", "--space", SPACE, "--architecture", "proxyless_gpu", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["madds"], told["params"]) == (465_260_160, 7_119_848)
    assert told["architecture"]["block03.conv"] == SKIP


# The supernet


def passed(monkeypatch: pytest.MonkeyPatch, recomputed: type) -> tuple[Sequence[torch.Tensor], int]:
    """Gradients and buffers after two steps of a supernet, and the bytes that live at most in one."""
    monkeypatch.setattr(mixed, "Recomputed", recomputed)
    torch.manual_seed(0)
    model = DARTS().mutate_model(Mobile(**TINY, skeleton="mobilenet_v3_small")).train()
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8)
    for _ in range(2):
        model.zero_grad()
        with Living(0) as living:
            F.cross_entropy(model(images), labels).backward()
    return [p.grad for p in model.parameters()] + [b.clone() for b in model.buffers()], living.peak


def test_a_supernet_that_computes_twice_is_the_same_to_the_bit_and_takes_less_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (kept, peak), (again, less) = (passed(monkeypatch, of) for of in (type("Nothing", (), {}), Recomputed))
    assert len(kept) > 1000
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))
    assert less < peak / 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["pmpl", "darts"])
def test_a_search_takes_less_than_two_gigabytes(strategy: str, tmp_path: Path) -> None:
    options = {"train_images": 128, "epochs": 1, "retrain_epochs": 1, "device": "cpu", "preset": "quick"}
    given = {"space": SPACE, "strategy": strategy, "dataset": "digits", "image_size": 32, **options}
    code = "import json, sys, nasbench; run = nasbench.run(out=sys.argv[2], **json.loads(sys.argv[1]))\n"
    # Not getrusage: to it the process that has started this one counts, too, whose memory both shared at first.
    code += "print(run.record.result().peak_memory_bytes)"
    told = json.dumps({**given, "strategy_options": {"warmup_epochs": 0}})
    done = subprocess.run([sys.executable, "-c", code, told, str(tmp_path)], capture_output=True, text=True, check=True)
    assert 2e8 < int(done.stdout.splitlines()[-1]) < 2e9
