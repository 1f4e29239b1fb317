"""Attention modules: the papers' equations written out, and the printed parameter counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from nasbench.errors import OptionError
from nasbench.spaces.operations.attention import ATTENTION, CBAM, SE, SK, CoordAttention

Factory = Callable[[int], nn.Module]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on shared cores: handing them to a second thread costs a hundred times the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def blocks(network: nn.Module) -> list[nn.Sequential]:
    found = [m.conv for m in network.modules() if type(m).__name__ == "InvertedResidual"]
    assert len(found) == 17
    return found


def expanded(width: float, factory: Factory) -> nn.Module:
    """MobileNetV2 with a module after each depthwise conv–BN–ReLU6, before the projection."""
    network = mobilenet_v2(width_mult=width)
    for conv in blocks(network):
        conv.insert(len(conv) - 2, factory(conv[-2].in_channels))
    return network


def output(width: float, factory: Factory) -> nn.Module:
    """MobileNetV2 with a module after each projection's BatchNorm, before the residual sum."""
    network = mobilenet_v2(width_mult=width)
    for conv in blocks(network):
        conv.append(factory(conv[-1].num_features))
    return network


def kernels(width: float) -> nn.Module:
    """MobileNetV2 with SK in place of each depthwise conv–BN–ReLU6."""
    network = mobilenet_v2(width_mult=width)
    for conv in blocks(network):
        depthwise = conv[-3][0]
        assert depthwise.groups == depthwise.in_channels
        conv[-3] = SK(depthwise.in_channels, stride=depthwise.stride[0])
    return network


@pytest.mark.parametrize(
    ("build", "width", "millions"),
    [
        *((lambda w: expanded(w, ATTENTION["se"]), w, m) for w, m in ((1.0, 3.888), (0.75, 2.855), (0.5, 2.067))),
        *((lambda w: expanded(w, ATTENTION["cbam"]), w, m) for w, m in ((1.0, 3.890), (0.75, 2.857), (0.5, 2.069))),
        *((lambda w: expanded(w, ATTENTION["coord"]), w, m) for w, m in ((1.0, 3.952), (0.75, 2.892), (0.5, 2.096))),
        (lambda w: output(w, partial(SE, reduction=8)), 1.0, 3.563),
        (lambda w: output(w, partial(CBAM, reduction=8)), 1.0, 3.565),
        (kernels, 1.0, 5.278),
    ],
)
def test_networks_have_the_published_sizes(build: Callable[[float], nn.Module], width: float, millions: float) -> None:
    with torch.device("meta"):
        assert round(count(build(width)) / 1e6, 3) == millions


def test_a_network_with_each_module_runs() -> None:
    x = torch.randn(2, 3, 32, 32)
    for network in (
        *(expanded(0.25, factory) for factory in ATTENTION.values()),
        *(output(0.25, partial(module, reduction=8)) for module in (SE, CBAM)),
        kernels(0.25),
    ):
        assert network(x).shape == (2, 1000)


@given(channels=st.integers(1, 400), reduction=st.integers(1, 40))
@settings(max_examples=40)
def test_parameter_formulas(channels: int, reduction: int) -> None:
    c, m, m8 = channels, max(1, channels // reduction), max(8, channels // reduction)
    with torch.device("meta"):
        assert count(SE(c, reduction)) == 2 * c * m + m + c
        assert count(CBAM(c, reduction)) == 2 * c * m + m + c + 2 * 49 + 2
        assert count(SK(c, reduction)) == 2 * (9 * c + 2 * c) + c * m8 + 2 * m8 + 2 * c * m8
        assert count(CoordAttention(c, reduction)) == (c * m8 + m8) + 2 * m8 + 2 * (c * m8 + c)


def test_default_reductions() -> None:
    for name, reduction in (("se", 24), ("cbam", 24), ("sk", 8), ("coord", 32)):
        default = ATTENTION[name](960)
        explicit = {"se": SE, "cbam": CBAM, "sk": SK, "coord": CoordAttention}[name](960, reduction=reduction)
        assert count(default) == count(explicit)


def randomise(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a random value, in float64."""
    generator = torch.Generator().manual_seed(1)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                assert child.running_mean is not None
                assert child.running_var is not None
                child.running_mean.copy_(torch.randn(child.num_features, generator=generator) * 0.3)
                child.running_var.copy_(torch.rand(child.num_features, generator=generator) + 0.5)
    return module


def norm(x: Tensor, bn: nn.Module) -> Tensor:
    """Batch normalisation in evaluation, over the second axis."""
    assert isinstance(bn, nn.BatchNorm2d)
    assert bn.running_mean is not None
    assert bn.running_var is not None
    shape = (1, -1, *[1] * (x.dim() - 2))
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    return (x - bn.running_mean.view(shape)) * scale.view(shape) + bn.bias.view(shape)


def dense(z: Tensor, conv: nn.Module) -> Tensor:
    """A 1×1 convolution as a product over the second axis."""
    assert isinstance(conv, nn.Conv2d)
    y = torch.einsum("oc,nc...->no...", conv.weight.flatten(1), z)
    return y if conv.bias is None else y + conv.bias.view(1, -1, *[1] * (z.dim() - 2))


def correlate(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """A zero-padded k×k correlation of each channel of x (N, C, H, W) with weight (C, k, k), tap by tap."""
    reach = weight.shape[-1] // 2 * dilation
    padded = F.pad(x, (reach, reach, reach, reach))
    y = torch.zeros_like(x)
    for i in range(weight.shape[-2]):
        for j in range(weight.shape[-1]):
            top, left = i * dilation, j * dilation
            y += weight[:, i, j].view(1, -1, 1, 1) * padded[..., top : top + x.shape[2], left : left + x.shape[3]]
    return y


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0)).double()


def test_se_by_its_equations(x: Tensor) -> None:
    se = randomise(SE(5, reduction=2)).eval()
    gate = dense(dense(x.mean((2, 3)), se.fc1).clamp(min=0), se.fc2).sigmoid()
    torch.testing.assert_close(se(x), x * gate[:, :, None, None])


def test_cbam_by_its_equations(x: Tensor) -> None:
    cbam = randomise(CBAM(5, reduction=2)).eval()
    fc1, fc2 = cbam.channel.fc1, cbam.channel.fc2
    pooled = (x.flatten(2).mean(2), x.flatten(2).max(2).values)
    gate = sum(dense(dense(z, fc1).clamp(min=0), fc2) for z in pooled).sigmoid()
    y = x * gate[:, :, None, None]
    maps = torch.stack([y.mean(1), y.max(1).values], 1)
    conv, bn = cbam.spatial.conv.conv, cbam.spatial.conv.bn
    attention = norm(correlate(maps, conv.weight[0], 1).sum(1, keepdim=True), bn).sigmoid()
    torch.testing.assert_close(cbam(x), y * attention)


def test_sk_by_its_equations(x: Tensor) -> None:
    sk = randomise(SK(5)).eval()
    x = 10 * x  # beyond the 6 of ReLU6
    branches = [
        norm(correlate(x, path.conv.weight[:, 0], dilation), path.bn).clamp(0, 6)
        for dilation, path in zip((1, 2), sk.paths, strict=True)
    ]
    assert max(branch.max().item() for branch in branches) == 6
    z = norm(dense(sum(branches).mean((2, 3)), sk.attn.fc_reduce), sk.attn.bn).clamp(min=0)
    scores = dense(z, sk.attn.fc_select).view(2, 2, 5).exp()
    weights = scores / scores.sum(1, keepdim=True)
    expected = sum(weights[:, k, :, None, None] * branch for k, branch in enumerate(branches))
    torch.testing.assert_close(sk(x), expected)


def test_sk_replaces_strided_convolutions() -> None:
    for size in ((7, 6), (2, 3), (8, 8)):
        x = torch.randn(2, 3, *size)
        assert SK(3, stride=2)(x).shape == nn.Conv2d(3, 3, 3, stride=2, padding=1)(x).shape


def test_coordinate_attention_by_its_equations(x: Tensor) -> None:
    coord = randomise(CoordAttention(5)).eval()

    def encode(z: Tensor) -> Tensor:
        f = norm(dense(z, coord.conv1), coord.bn1)
        return f * (f + 3).clamp(0, 6) / 6

    rows = dense(encode(x.mean(3)), coord.conv_h).sigmoid()
    columns = dense(encode(x.mean(2)), coord.conv_w).sigmoid()
    torch.testing.assert_close(coord(x), x * rows[..., None] * columns[:, :, None])


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("training", [False, True])
def test_gradients(name: str, training: bool) -> None:
    module = randomise(ATTENTION[name](3)).train(training)
    names = [n for n, _ in module.named_parameters()]
    parameters = [p.detach().clone().requires_grad_() for p in module.parameters()]

    def run(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    x = torch.randn(3, 3, 2, 3, generator=torch.Generator().manual_seed(2)).double().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, *parameters))


@given(
    name=st.sampled_from(sorted(ATTENTION)),
    channels=st.integers(1, 30),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    training=st.booleans(),
)
@settings(max_examples=60)
def test_shapes(name: str, channels: int, height: int, width: int, training: bool) -> None:
    x = torch.randn(2, channels, height, width)
    before = x.clone()
    y = ATTENTION[name](channels).train(training)(x)
    assert y.shape == x.shape
    assert y.isfinite().all()
    assert torch.equal(x, before), "the other candidates of a layer read the same input"


@pytest.mark.parametrize("name", ATTENTION)
def test_memory_format_and_bfloat16(name: str) -> None:
    module = randomise(copy.deepcopy(ATTENTION[name](9))).float().eval()
    x = torch.randn(2, 9, 7, 6, generator=torch.Generator().manual_seed(0))
    expected = module(x)
    torch.testing.assert_close(module(x.contiguous(memory_format=torch.channels_last)), expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(module(x).float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("module", [SE, CBAM, SK, CoordAttention])
def test_impossible_options_are_refused(module: Callable[..., nn.Module]) -> None:
    with pytest.raises(OptionError, match="reduction must be ≥ 1"):
        module(8, reduction=0)
    with pytest.raises(OptionError, match="channels must be ≥ 1"):
        module(0)


def test_sk_refuses_stride_zero() -> None:
    with pytest.raises(OptionError, match="stride must be ≥ 1"):
        SK(8, stride=0)
