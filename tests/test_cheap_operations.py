"""Cheap convolutions: what each computes, and that the shift is exact in every layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nasbench.spaces.operations.cheap import CHEAP, Shift, convolution, depthwise, grouped


def moved(x: Tensor) -> Tensor:
    """The shift by its definition, pixel by pixel."""
    _, channels, height, width = x.shape
    out = torch.zeros_like(x)
    for c in range(channels):
        columns, rows = (c % 3 - 1, c // 3 % 3 - 1) if c < channels // 9 * 9 else (0, 0)
        for i in range(height):
            for j in range(width):
                if 0 <= i - rows < height and 0 <= j - columns < width:
                    out[:, c, i, j] = x[:, c, i - rows, j - columns]
    return out


@given(
    n=st.integers(0, 3),
    channels=st.sampled_from([1, 8, 9, 10, 16, 18, 31]),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    layout=st.sampled_from(["contiguous", "channels_last", "transposed", "every second"]),
    training=st.booleans(),
)
@settings(max_examples=80)
def test_shift(n: int, channels: int, height: int, width: int, layout: str, training: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, channels, height, width, generator=generator)
    if layout == "channels_last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "transposed":
        x = torch.randn(n, channels, width, height, generator=generator).transpose(2, 3)
    elif layout == "every second":
        x = torch.randn(n, channels, 2 * height, 2 * width, generator=generator)[:, :, ::2, ::2]
    x.requires_grad_()
    layer = Shift().train(training)
    expected = moved(x)
    result = layer(x)
    assert torch.equal(result, expected)
    # Its gradient is the opposite shift of what comes back.
    back = torch.randn(result.shape, generator=generator)
    assert torch.equal(torch.autograd.grad(result, x, back)[0], torch.autograd.grad(expected, x, back)[0])


def test_shift_has_a_second_derivative_of_zero_and_a_right_first() -> None:
    x = torch.randn(2, 11, 3, 2, dtype=torch.float64, requires_grad=True)
    layer = Shift().double()
    assert torch.autograd.gradcheck(layer, x)
    assert torch.autograd.gradgradcheck(layer, x)


def test_nine_channels_go_nine_ways() -> None:
    x = torch.zeros(1, 9, 3, 3)
    x[:, :, 1, 1] = 1
    shifted = Shift()(x)[0]
    # Channel by channel, along the columns first: the pixel in the middle ends in reading order.
    assert [int(plane.flatten().argmax()) for plane in shifted] == list(range(9))
    assert (shifted.sum((1, 2)) == 1).all()


@pytest.mark.parametrize("channels", [4, 8])
def test_under_nine_channels_nothing_moves(channels: int) -> None:
    x = torch.randn(2, channels, 5, 5)
    assert torch.equal(Shift()(x), x)


def test_the_shift_is_one_convolution() -> None:
    x = torch.randn(2, 20, 6, 7)
    kernels = torch.zeros(20, 1, 3, 3)
    for c in range(20):
        row, column = (1 - (c // 3 % 3 - 1), 1 - (c % 3 - 1)) if c < 18 else (1, 1)
        kernels[c, 0, row, column] = 1
    torch.testing.assert_close(Shift()(x), nn.functional.conv2d(x, kernels, padding=1, groups=20), atol=0, rtol=0)


@pytest.mark.parametrize("name", CHEAP)
def test_shape_parameters_and_state(name: str) -> None:
    layer = CHEAP[name](16)
    assert layer(torch.randn(2, 16, 5, 7)).shape == (2, 16, 5, 7)
    expected = {"shift": 0, "depthwise": 9 * 16, "group4": 9 * 64, "group8": 9 * 32, "group16": 9 * 16}
    assert sum(p.numel() for p in layer.parameters()) == expected[name]
    assert list(layer.state_dict()) == ([] if name == "shift" else ["weight"])
    assert all(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize(
    ("channels", "groups", "used"), [(16, 4, 4), (16, 16, 16), (8, 16, 8), (4, 8, 4), (12, 8, 6), (20, 8, 5), (7, 4, 1)]
)
def test_groups_divide_the_channels(channels: int, groups: int, used: int) -> None:
    layer = grouped(channels, groups)
    assert layer.groups == used
    assert layer.weight.numel() == 9 * channels**2 // used


def test_a_group_sees_its_own_channels_only() -> None:
    x = torch.randn(1, 8, 4, 4, requires_grad=True)
    gradient = torch.autograd.grad(grouped(8, 4)(x)[:, 2:4].sum(), x)[0]
    assert (gradient[:, 2:4] != 0).any()
    assert (gradient[:, :2] == 0).all()
    assert (gradient[:, 4:] == 0).all()
    gradient = torch.autograd.grad(depthwise(8)(x)[:, 3].sum(), x)[0]
    assert [c for c in range(8) if gradient[:, c].any()] == [3]


def test_convolutions_keep_the_variance_behind_a_relu() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 64, 16, 16)
    for _ in range(6):
        x = convolution(64, 64, 3)(x).relu()
    assert 0.3 < x.square().mean().item() < 3
