"""Where pretrained weights come from, what is kept of them, and what the found network starts from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision import models

from nasbench.config import RESULT, RunConfig, make_config
from nasbench.errors import OptionError
from nasbench.pipeline import prepare, run
from nasbench.presets import resolve_config
from nasbench.record import MODEL
from nasbench.weights import Weights, read

TINY = {"image_size": 16, "train_images": 64, "batch_size": 32, "retrain_epochs": 1, "architecture": "global"}
SHUFFLE = {**TINY, "space": "shufflenetv2_metapool", "space_options": {"width": 0.5}, "weights": "default"}
TIMM = {**TINY, "space": "metapool", "space_options": {"backbone": "timm:tinynet_e"}, "weights": "default"}
STEM = "conv1.0.weight"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches of torchvision and of the hub; neither reaches anything beyond."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def in_torch_hub(cache: Path) -> tuple[Path, dict[str, Tensor]]:
    """Weights of ShuffleNetV2 where torchvision looks for them."""
    url = models.ShuffleNet_V2_X0_5_Weights.DEFAULT.url
    file, state = cache / "hub" / "checkpoints" / url.rpartition("/")[2], models.shufflenet_v2_x0_5().state_dict()
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    return file, state


def in_hub(cache: Path) -> tuple[Path, dict[str, Tensor]]:
    """Weights of TinyNet where timm looks for them."""
    about: Any = timm.get_pretrained_cfg("tinynet_e")
    folder, state = cache / f"models--{about.hf_hub_id.replace('/', '--')}", timm.create_model("tinynet_e").state_dict()
    for name in ("refs", "snapshots/0"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text("0")
    save_file(state, folder / "snapshots" / "0" / "model.safetensors")
    return folder / "snapshots" / "0" / "model.safetensors", state


@pytest.mark.parametrize(("settings", "fill_cache"), [(SHUFFLE, in_torch_hub), (TIMM, in_hub)])
def test_default_weights_come_from_the_library_s_cache(settings: Any, fill_cache: Any, cache: Path) -> None:
    file, state = fill_cache(cache)
    found = read(resolve_config(settings))
    assert isinstance(found, Weights)
    assert file.name in found.name
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert found.state.keys() == state.keys()
    assert all(torch.equal(found.state[name], value) for name, value in state.items())


def test_a_run_from_default_weights_keeps_what_it_took_and_normalises_as_they_were_trained(cache: Path) -> None:
    file, state = in_torch_hub(cache)
    still = {"learning_rate": 1e-12, "weight_decay": 0.0}
    record = run(resolve_config({**SHUFFLE, "evaluator_options": still}), cache / "runs")
    facts = record.status().stages["search"].model_extra or {}
    assert facts["weights"]["name"] == f"torchvision's ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1 ({file.name})"
    assert facts["weights"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert any(line.endswith("had 224 px") for line in facts["notes"])
    assert (record.data().mean, record.data().std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert torch.allclose(load_file(record.path / MODEL)[STEM], state[STEM], atol=1e-6)


def test_a_file_s_images_are_said_to_have_been_normalised_otherwise(cache: Path) -> None:
    file, _ = in_torch_hub(cache)
    found = prepare(resolve_config({**SHUFFLE, "weights": file}))
    assert any(line.startswith("images are normalised by the mean 0.3") for line in found.notes)
    ready = prepare(resolve_config(SHUFFLE))
    assert not any("normalised" in line for line in ready.notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SHUFFLE, r"^torchvision's ShuffleNet.* cannot be had \(<urlopen error.*\): give a file, --weights FILE$"),
        (TIMM, r"^timm's tinynet_e\.in1k cannot be had \(.*\): give a file, --weights FILE$"),
        ({**TINY, "space": "menet", "architecture": "none", "weights": "default"}, "no library brings weights for"),
        ({**SHUFFLE, "space_options": {"width": 0.3}}, "no library brings weights for space 'shufflenetv2_metapool'"),
    ],
)
def test_weights_that_cannot_be_had_are_one_line(settings: Any, message: str, cache: Path) -> None:
    with pytest.raises(OptionError, match=message):
        read(resolve_config(settings))


def test_a_damaged_file_of_the_cache_is_named(cache: Path) -> None:
    file, _ = in_torch_hub(cache)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(OptionError, match=rf"remove {file} to have them fetched anew"):
        read(resolve_config(SHUFFLE))


# What the found network starts from


def test_weights_are_fine_tuned_unless_scratch_is_asked_for() -> None:
    assert [resolve_config(given).retrain for given in ({}, {"weights": "a.pth"})] == ["scratch", "finetune"]
    assert resolve_config({"weights": "a.pth", "retrain": "scratch"}).retrain == "scratch"
    for given in ({"retrain": "finetune"}, {"retrain": "finetune", "preset": "finetune"}):
        with pytest.raises(OptionError, match=r"retrain=finetune starts from pretrained weights: give --weights"):
            resolve_config(given)
    with pytest.raises(OptionError, match="retrain: input should be 'scratch' or 'finetune', not 'other'"):
        resolve_config({"retrain": "other"})


@pytest.mark.parametrize("weights", [None, "a.pth"])
def test_a_record_from_before_there_was_a_choice_keeps_its_meaning(weights: str | None) -> None:
    config = resolve_config({"weights": weights})
    before = config.model_dump(mode="json")
    del before["retrain"]
    assert make_config(before).digest(*RESULT) == config.digest(*RESULT)
    assert RunConfig.model_validate(before).retrain == ("scratch" if weights is None else "finetune")


def test_from_scratch_only_the_search_has_seen_the_weights(cache: Path) -> None:
    file, state = in_torch_hub(cache)
    still = {"evaluator_options": {"learning_rate": 1e-12, "weight_decay": 0.0}, "weights": file}
    fresh = run(resolve_config({**SHUFFLE, **still, "weights": None}), cache / "fresh")
    warm = run(resolve_config({**SHUFFLE, **still, "retrain": "scratch"}), cache / "warm")
    kernels = [load_file(record.path / MODEL)[STEM] for record in (fresh, warm)]
    assert torch.equal(*kernels)
    assert not torch.allclose(kernels[0], state[STEM], atol=1e-3)
    notes = (warm.status().stages["search"].model_extra or {})["notes"]
    assert any("retrain=scratch" in line for line in notes)


def test_processes_that_share_a_run_share_its_weights(cache: Path) -> None:
    """A new gate is the identity in all of them, and they exchange its buffers."""
    file, _ = in_torch_hub(cache)
    two = {"strategy": "pmpl", "epochs": 1, "device": "cpu", "devices": 2, "strategy_options": {"warmup_epochs": 0}}
    settings = {k: v for k, v in SHUFFLE.items() if k != "architecture"} | two
    settings |= {"space_options": {"width": 0.5, "candidates": ["global", "none"]}, "weights": file}
    assert run(resolve_config(settings), cache / "runs").status().state == "finished"
