"""Pretrained weights: what was learnt stands at the start, of the derived network and of the supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nasbench.architecture import instantiate
from nasbench.data.folders import ImageFolder
from nasbench.networks import load_model
from nasbench.pipeline import prepare, run
from nasbench.presets import resolve_config
from nasbench.record import MODEL
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.spaces.operations.enhancers import SpatialSeparablePooling
from nasbench.strategies.mixed import MixedLayer
from nasbench.strategies.pmpl import PMPL
from nasbench.weights import fill, read_file

LABELS = [f"block{i:02d}.enhancer" for i in range(1, 18)]
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def space(**options: Any) -> MobileNetV2MetaPooling:
    return MobileNetV2MetaPooling(width=0.1, num_classes=10, image_size=16, **options)


def network(architecture: dict[str, str], **options: Any) -> nn.Module:
    return instantiate(lambda: space(**options), architecture)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensor]:
    """Weights of a plain network with batch statistics of its own, and its logits."""
    torch.manual_seed(0)
    plain = network(dict.fromkeys(LABELS, "none")).train()
    for _ in range(30):
        plain(torch.randn(16, 3, 16, 16) + 0.3)
    path = tmp_path_factory.mktemp("weights") / "plain.safetensors"
    save_file(plain.state_dict(), path)
    with torch.no_grad():
        return path, plain.eval()(IMAGES)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


@settings(max_examples=15, deadline=None)
@given(st.sets(st.sampled_from(LABELS), min_size=1))
def test_a_network_with_any_global_enhancers_computes_what_was_learnt(
    pretrained: tuple[Path, Tensor], chosen: set[str]
) -> None:
    path, learnt = pretrained
    model = network({label: "global" if label in chosen else "none" for label in LABELS})
    assert (logits(model) - learnt).abs().max() > 1e-2
    fill(model, read_file(path))
    assert torch.allclose(logits(model), learnt, atol=1e-4)


@pytest.mark.parametrize("candidates", ["full", "ablation", "none,max3", "global,avg3", "avg3,max5"])
def test_the_supernet_starts_as_the_pretrained_network(candidates: str, pretrained: tuple[Path, Tensor]) -> None:
    path, learnt = pretrained
    cold, warm = space(candidates=candidates), space(candidates=candidates)
    fill(warm, read_file(path))
    assert logits(PMPL().mutate_model(cold)).sub(learnt).abs().max() > 1e-2
    supernet = logits(PMPL().mutate_model(warm))
    if {"none", "global"} & set(candidates.split(",")) or candidates in ("full", "ablation"):
        assert torch.allclose(supernet, learnt, atol=1e-4)
    else:  # where nothing is the identity, the mixture cannot be
        assert supernet.sub(learnt).abs().max() > 1e-2


def test_the_weights_of_the_mixture_follow_pi_and_sum_to_one(pretrained: tuple[Path, Tensor]) -> None:
    warm = space()
    fill(warm, read_file(pretrained[0]))
    supernet = PMPL().mutate_model(warm)
    layer = next(m for m in supernet.modules() if isinstance(m, MixedLayer))
    alpha: Any = layer._arch_alpha
    first = layer.weights().detach()
    assert torch.allclose(first, torch.tensor([0.5, 0, 0, 0, 0, 0, 0, 0.5]), atol=1e-6)
    pi = alpha.detach().softmax(0)
    direction = torch.randn(8)
    of_weights, of_pi = (torch.autograd.grad(w, alpha, direction)[0] for w in (layer.weights(), alpha.softmax(0)))
    assert torch.allclose(of_weights, of_pi, atol=1e-7)
    with torch.no_grad():
        alpha[3] += 1.0
    assert torch.allclose(layer.weights() - first, alpha.detach().softmax(0) - pi, atol=1e-6)
    for gone in ("none", "avg5", "global"):
        with torch.no_grad():
            alpha[list(layer.names).index(gone)] = -1e4
        layer.excluded.add(gone)
        weights = layer.weights()
        assert weights.sum().item() == pytest.approx(1, abs=1e-5)
        assert weights[list(layer.names).index(gone)] == 0


def test_gates_learn_although_they_start_as_ones(pretrained: tuple[Path, Tensor]) -> None:
    warm = space(candidates="ablation")
    fill(warm, read_file(pretrained[0]))
    supernet = PMPL().mutate_model(warm)
    supernet.train()(IMAGES).square().sum().backward()
    gates = [m for m in supernet.modules() if isinstance(m, SpatialSeparablePooling)]
    assert len(gates) == 17
    assert all(m.rows.weight.grad is not None and m.rows.weight.grad.abs().max() > 0 for m in gates)


def test_gates_that_were_learnt_are_kept(pretrained: tuple[Path, Tensor], tmp_path: Path) -> None:
    everywhere = dict.fromkeys(LABELS, "global")
    for warm in (False, True):
        trained = network(everywhere)
        if warm:
            fill(trained, read_file(pretrained[0]))
        with torch.no_grad():
            for parameter in trained.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        save_file(trained.state_dict(), tmp_path / "trained.safetensors")
        again = network(everywhere)
        fit = fill(again, read_file(tmp_path / "trained.safetensors"))
        assert not fit.left_out
        assert torch.equal(logits(again), logits(trained))


def test_a_run_from_weights_has_the_pretrained_accuracy_at_first_and_can_be_read_again(
    pretrained: tuple[Path, Tensor], tmp_path: Path
) -> None:
    small = {"space_options": {"width": 0.1, "candidates": "ablation"}, "image_size": 16, "train_images": 96}
    config = resolve_config(
        {**small, "architecture": "global", "weights": pretrained[0], "retrain_epochs": 1, "batch_size": 32}
    )
    record = run(config, tmp_path)
    assert any(name.endswith("enhancer.gain") for name in load_file(record.path / MODEL))
    assert load_model(record.path)(IMAGES).isfinite().all()
    search = prepare(
        resolve_config({**small, "strategy": "pmpl", "epochs": 2, "weights": pretrained[0], "batch_size": 32})
    )
    strategy: Any = search.strategy
    supernet = strategy._mutated_model_space.model_space
    assert torch.allclose(logits(supernet), pretrained[1], atol=1e-4)


@pytest.mark.parametrize("candidates", ["ablation", "full"])
def test_on_photos_the_warm_supernet_is_as_accurate_as_the_pretrained_network(
    candidates: str, real_data: Path, tmp_path: Path
) -> None:
    """ImageNet's weights with a head for TrashNet's classes, on the photos that the search holds back for α."""
    file = tmp_path / "weights.safetensors"
    options = {"width": 1.0, "candidates": candidates}
    photos = {"dataset": "imagefolder", "data_root": real_data / "trashnet", "image_size": 112, "train_images": 300}
    given = {
        **photos,
        "space_options": options,
        "preset": "finetune",
        "strategy": "pmpl",
        "weights": file,
        "workers": 0,
    }
    plain: Any = instantiate(
        lambda: MobileNetV2MetaPooling(num_classes=6, image_size=112), dict.fromkeys(LABELS, "none")
    )
    fill(plain, read_file(real_data / "mobilenet_v2_imagenet.safetensors"))
    data = ImageFolder(data_root=real_data / "trashnet", image_size=112, train_images=300, workers=0)
    data.setup()
    train, held_out = data.splits()
    with torch.no_grad():  # a head by least squares: known to the supernet as to the network
        x, y = seen(data, train, plain.features.eval())
        head = torch.linalg.lstsq(x.T @ x + 10 * torch.eye(x.shape[1]), x.T @ nn.functional.one_hot(y).float()).solution
        plain.classifier[1].weight.copy_(head.T)
        plain.classifier[1].bias.zero_()
    save_file(plain.state_dict(), file)
    strategy: Any = prepare(resolve_config(given)).strategy
    supernet = strategy._mutated_model_space.model_space
    with torch.no_grad():
        learnt, begun = (accuracy(network.eval(), data, held_out) for network in (plain, supernet))
    assert learnt == begun
    assert learnt > 0.5  # by chance about a quarter


def seen(data: ImageFolder, indices: Any, features: nn.Module) -> tuple[Tensor, Tensor]:
    """Means of the last maps (N, 1280) of some training photos, and their classes."""
    batches = [(features(data.normalise(x)).mean((2, 3)), y) for x, y in data.training_loader(indices, False)]
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def accuracy(network: nn.Module, data: ImageFolder, indices: Any) -> float:
    """Share of some training photos whose class has the largest logit."""
    right = [network(data.normalise(x)).argmax(1) == y for x, y in data.training_loader(indices, False)]
    return torch.cat(right).float().mean().item()
