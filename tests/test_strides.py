"""What is said and done about the strides of networks for small images."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasbench import registry
from nasbench.architecture import instantiate, named, resolve
from nasbench.errors import OptionError
from nasbench.networks import build_space, profile_architecture
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.progress import Display
from nasbench.spaces.operations.strides import FittedSpace, fit_strides

OURS = [
    name for name in registry.entries("space") if issubclass(registry.load("space", name), FittedSpace)
]  # of other distributions, what they say themselves


def network(name: str, size: int, strides: str) -> nn.Module:
    """The smallest network of a space without enhancers, or the first that it names, for one image size."""
    width = 0.25 if name == "cheap_resnet" else 0.1
    options: dict[str, Any] = {"width": width, "strides": strides}
    config = resolve_config({"space": name, "preset": "paper", "space_options": options})
    space = build_space(config, 10, size)
    architecture = resolve(space, "none" if "none" in named(space) else None)
    return instantiate(lambda: build_space(config, 10, size), architecture)


def areas(model: nn.Module, size: int) -> list[int]:
    """Pixels of the output of every convolution, in the order of the forward pass."""
    found: list[int] = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, x, y: found.append(y.shape[2] * y.shape[3]))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    return found


def test_all_our_spaces_fit_their_strides() -> None:
    assert {"cheap_resnet", "mbv2_metapool", "menet", "mobile", "mobilenetv3_metapool", "shufflenetv2_metapool"} <= set(
        OURS
    )


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("size", [12, 32, 50, 64])
def test_what_is_said_about_the_strides_is_true_of_the_network(name: str, size: int) -> None:
    fitted: Any = network(name, size, "fit")
    (note,) = fitted.notes() or [""]
    try:
        original = network(name, size, "original")
    except OptionError:
        assert size < 32
        return
    ours, theirs = areas(fitted, size), areas(original, size)
    factors = [a / b for a, b in zip(ours, theirs, strict=True) if a > 1]  # squeezed maps have one pixel
    if not note:
        assert set(factors) == {1}
        return
    said = re.search(r"^(\d+) px: (\d) of (\d) strides dropped, .* take ([\d.]+)(?: to ([\d.]+))? times", note)
    assert said is not None
    assert int(said[1]) == size
    assert float(said[4]) == pytest.approx(min(factors), abs=0.05)
    assert float(said[5] or said[4]) == pytest.approx(max(factors), abs=0.05)


def test_mobilenetv2_at_64_pixels() -> None:
    assert fit_strides(64, (2, 1, 2, 2, 2, 1, 2, 1)).notes() == [
        "64 px: 1 of 5 strides dropped, the last map is 4×4 instead of 2×2; convolutions over maps take 4.0 times the "
        "multiply-adds of the original strides"
    ]
    assert fit_strides(224, (2, 1, 2, 2, 2, 1, 2, 1)).notes() == []
    (kept,) = fit_strides(64, (2, 1, 2, 2, 2, 1, 2, 1), "original").notes()
    assert kept.startswith("64 px: all 5 strides kept, the last map is 2×2")


@given(st.integers(4, 300), st.lists(st.integers(1, 2), min_size=1, max_size=8))
@settings(max_examples=100)
def test_the_original_strides_are_kept_or_refused(size: int, original: list[int]) -> None:
    total = 2 ** original.count(2)
    if size < total:
        with pytest.raises(OptionError, match="last map would be under 1×1"):
            fit_strides(size, original, "original")
        return
    kept = fit_strides(size, original, "original")
    assert (kept.chosen, kept.dropped) == (tuple(original), 0)


@pytest.mark.parametrize("name", OURS)
def test_wrong_rules_and_too_small_images_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match="strides='orignal'"):
        resolve_config({"space": name, "space_options": {"strides": "orignal"}})
    config = resolve_config({"space": name, "space_options": {"strides": "original"}})
    if name == "cheap_resnet":  # made for small images, it has two strides only
        build_space(config, 10, 4)
    else:
        with pytest.raises(OptionError, match="under 1×1"):
            build_space(config, 10, 31)


def test_a_profile_says_what_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    from nasbench.show import profile_table
    from nasbench.terminal import plain_console

    config = resolve_config({"space_options": {"width": 0.1}, "image_size": 64, "architecture": "none"})
    counts = profile_architecture(config)[1]
    assert counts.notes[0].startswith("64 px: 1 of 5 strides dropped")
    plain_console().print(profile_table(counts))
    assert "64 px: 1 of 5 strides dropped" in capsys.readouterr().out


def test_a_run_says_and_keeps_what_was_done_to_data_and_strides(tmp_path: Path) -> None:
    said: list[str] = []

    class Listener(Display):
        def say(self, text: str) -> None:
            said.append(text)

    given: dict[str, Any] = {
        **{"strategy": "fixed", "strategy_options": {"choice": "none"}, "space_options": {"width": 0.05}},
        **{"image_size": 8, "train_images": 64, "batch_size": 16, "epochs": 1, "retrain_epochs": 1, "device": "cpu"},
    }
    record = run(resolve_config(given), tmp_path / "run", Listener())
    data = "10 classes, 64 of 1,438 training, 359 test images (split by us, 1 in 5, stratified)"
    assert said[0] == data
    assert said[1].startswith("8 px: 4 of 5 strides dropped")
    assert json.loads((record.path / "data.json").read_text())["summary"] == data
    assert json.loads((record.path / "status.json").read_text())["stages"]["search"]["notes"] == said[:2]
