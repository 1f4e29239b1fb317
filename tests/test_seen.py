"""What a network sees: Grad-CAM by its definition, layers by what they cost, and the pictures of the page."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections import OrderedDict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import chromium, visit
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import nasbench
from nasbench.cli import app
from nasbench.export.format import load_network
from nasbench.export.predict import predict
from nasbench.networks import build_space
from nasbench.presets import resolve_config
from nasbench.profile import profile
from nasbench.record import MODEL, Record
from nasbench.results.explain import explain, page
from nasbench.results.receptive_field import of_layers, theoretical
from nasbench.results.seen import MOST_WRONG, Seen, grad_cam, heat, see
from nasbench.spaces.operations.enhancers import enhancer

LABELS = [f"block{i:02d}.enhancer" for i in range(1, 18)]
NETWORK: dict[str, Any] = {"space_options": {"width": 0.1}, "retrain_epochs": 1, "device": "cpu"}
MIXED = {label: ("none", "avg3", "global")[i % 3] for i, label in enumerate(LABELS)}
CLASSES = ("cat", "dog", "eel")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


class Net(nn.Module):
    """A small classifier whose last feature map is changed in place by what follows."""

    def __init__(self, head: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 5, 3, padding=1))
        self.in_place, self.head = in_place, head

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.features(x))

    def rest(self, maps: Tensor) -> Tensor:
        return self.head(maps.relu_() if self.in_place else maps)  # type: ignore[no-any-return]


def linear_head() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


def curved_head() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(5, 7, 3), nn.Softplus(), nn.Flatten(), nn.Linear(7 * 16, 9), nn.Tanh(), nn.Linear(9, 4)
    )


def made(head: nn.Module, in_place: bool = False) -> tuple[Net, Tensor]:
    torch.manual_seed(3)
    for module in head.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(module.weight)
    return Net(head, in_place).double().eval(), torch.randn(3, 3, 12, 12, dtype=torch.float64)


# Grad-CAM


@pytest.mark.parametrize("in_place", [False, True])
def test_the_weights_are_the_mean_gradients_of_the_logit(in_place: bool) -> None:
    net, images = made(curved_head(), in_place)
    found = grad_cam(net, images, [2, 0, 3])
    for i, c in enumerate((2, 0, 3)):
        maps = net.features(images[i : i + 1]).detach().requires_grad_()
        logits = net.rest(maps.clone())
        (gradient,) = torch.autograd.grad(logits[0, c], maps)
        weights = gradient.sum((0, 2, 3)) / maps[0, 0].numel()
        evidence = sum(weights[k] * maps[0, k] for k in range(5))
        torch.testing.assert_close(found[i], evidence)


def test_the_weights_are_finite_differences_of_the_logit() -> None:
    net, images = made(curved_head())
    found, step = grad_cam(net, images, [1, 1, 2]), 1e-6
    maps = net.features(images).detach()
    expected = torch.zeros_like(found)
    for k in range(5):
        more, less = maps.clone(), maps.clone()
        more[:, k] += step
        less[:, k] -= step
        change = (net.rest(more) - net.rest(less))[range(3), [1, 1, 2]] / (2 * step)
        expected += (change / maps[0, 0].numel())[:, None, None] * maps[:, k]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_behind_global_average_pooling_it_is_the_class_activation_map_and_sums_to_the_logit() -> None:
    net, images = made(linear_head())
    linear: Any = net.head.get_submodule("2")
    logits = net(images)
    classes = logits.argmax(1)
    found = grad_cam(net, images, classes.tolist())
    maps = net.features(images)
    activation = torch.einsum("nk,nkhw->nhw", linear.weight[classes], maps)  # Zhou et al. 2016, eq. 2
    torch.testing.assert_close(found * maps[0, 0].numel(), activation)
    torch.testing.assert_close(found.sum((1, 2)) + linear.bias[classes], logits.amax(1))
    positive = activation.relu()
    torch.testing.assert_close(heat(found), positive / positive.amax((1, 2), keepdim=True))


def test_it_sums_to_the_logit_in_a_space_of_ours() -> None:
    config = resolve_config({"architecture": MIXED, "space_options": {"width": 0.1}})
    network = nasbench.networks.instantiate(lambda: build_space(config, 10, 32), MIXED).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = grad_cam(network, images, [3, 7])
    bias = network.get_submodule("classifier.1").bias
    torch.testing.assert_close(found.sum((1, 2)) + bias[[3, 7]], network(images)[range(2), [3, 7]])


def test_heat_is_nothing_where_nothing_speaks_for_the_class() -> None:
    assert heat(-torch.ones(1, 2, 2)).abs().max() == 0


def test_looking_changes_nothing() -> None:
    net, images = made(linear_head())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        grad_cam(net, images, [0, 0, 0])
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not net.features._forward_hooks


# Layers


def test_the_field_of_a_layer_by_gradients_is_that_by_dependence() -> None:
    torch.manual_seed(0)
    stages = [
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16), nn.ReLU6()),
        enhancer("avg5", 16),
        nn.Conv2d(16, 16, 3, 2, 1),
        enhancer("max3", 16),
    ]
    net = nn.Sequential(OrderedDict(features=nn.Sequential(*stages)))
    names = [f"features.{i}" for i in range(len(stages))]
    found = of_layers(net, names, 64)
    assert [found[name].side for name in names] == [3, 7, 15, 19, 27]  # (extent − 1) · pixels a step: 2, 4, 8, 4, 8
    whole = theoretical(net, 64)
    assert (found[names[-1]].rows, found[names[-1]].columns) == (whole.rows, whole.columns)
    assert all(0 < sight.effective <= sight.side for sight in found.values())
    stages[2] = enhancer("global", 16)
    net = nn.Sequential(OrderedDict(features=nn.Sequential(*stages)))
    assert [sight.side for sight in of_layers(net, names, 64).values()] == [3, 7, 64, 64, 64]


def test_enhancers_cost_what_the_network_costs_more() -> None:
    config = resolve_config({"architecture": MIXED, "space_options": {"width": 0.1}})
    costs = {}
    for name, chosen in (("mixed", MIXED), ("none", dict.fromkeys(LABELS, "none"))):
        model = nasbench.networks.instantiate(lambda: build_space(config, 10, 32), chosen)
        costs[name] = profile(model, 32, names=[f"features.{i}.enhancer" for i in range(1, 18)])
    mixed, none = costs["mixed"], costs["none"]
    assert sum(part.params for part in mixed.parts) == mixed.params - none.params > 0
    assert sum(part.madds for part in mixed.parts) == mixed.madds - none.madds > 0
    assert all((part.params, part.madds) == (0, 0) for part in none.parts)


# Pictures


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on digits of 8×8 pixels."""
    folder = tmp_path_factory.mktemp("digits")
    settings = {**NETWORK, "architecture": MIXED, "image_size": 8, "train_images": 96, "batch_size": 16}
    nasbench.run(out=folder, **settings)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on noise, which compresses badly; the photos lie beside it in `photos`."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for part, name in product(("train", "test"), CLASSES):
        (folder / "photos" / part / name).mkdir(parents=True)
        for i in range(14):
            values = rng.integers(0, 256, (300, 260, 3), dtype=np.uint8)
            values[:150] //= 4  # dark above
            exif = Image.Exif()
            if i % 2:
                exif[0x0112] = 3  # stored upside down
                values = values[::-1, ::-1]
            Image.fromarray(values).save(folder / "photos" / part / name / f"{i}.jpg", exif=exif, quality=95)
    settings = {**NETWORK, "architecture": MIXED, "image_size": 64, "batch_size": 8}
    nasbench.run(dataset="imagefolder", data_root=folder / "photos", out=folder / "runs", **settings)
    return next((folder / "runs").iterdir())


def moved(record: Path, folder: Path) -> Path:
    return Path(shutil.copytree(record, folder / record.name))


def opened(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_what_is_wrong_is_what_predict_says_and_the_surest_come_first(photos: Path) -> None:
    shots = see(Record(photos)).shots
    assert shots is not None
    root = photos.parent.parent / "photos"
    files = sorted((root / "test").rglob("*.jpg"))
    said = {p.path: dict(p.classes) for p in predict(load_network(photos), files, 3)}
    wrong = {p: c for p, c in said.items() if max(c, key=c.__getitem__) != p.parent.name}
    assert (shots.images, shots.errors) == (42, len(wrong))
    assert 1 - shots.errors / shots.images == pytest.approx(Record(photos).result().top1)
    surest = sorted(wrong.items(), key=lambda item: -max(item[1].values()))[:MOST_WRONG]
    assert [s.probability for s in shots.wrong] == pytest.approx([max(c.values()) for _, c in surest], abs=1e-6)
    assert len(shots.wrong) == min(len(wrong), MOST_WRONG) > 0
    for shot in (*shots.wrong, *shots.first):
        path = root / shot.name
        assert shot.true == path.parent.name
        assert shot.probability == pytest.approx(said[path][shot.predicted], abs=1e-6)
        assert shot.probability_of_true == pytest.approx(said[path][shot.true], abs=1e-6)
    assert [shot.name for shot in shots.first] == [f"test/{name}/0.jpg" for name in CLASSES]


def test_photos_are_shown_upright_as_the_network_is_given_them(photos: Path) -> None:
    shots = see(Record(photos)).shots
    assert shots is not None
    assert any(int(Path(s.name).stem) % 2 for s in shots.wrong)
    for shot in shots.wrong:
        pixels = np.asarray(opened(shot.picture)).astype(float)
        assert pixels.shape == np.asarray(opened(shot.heat)).shape == (192, 192, 3)
        assert pixels[:80].mean() < 0.5 * pixels[110:].mean()


def test_digits_are_scaled_up_without_smoothing(digits: Path) -> None:
    seen = see(Record(digits))
    assert seen.shots is not None
    assert seen.missing == ()
    assert [shot.true for shot in seen.shots.first] == [str(i) for i in range(10)]
    assert re.fullmatch(r"test image \d+", seen.shots.first[0].name)
    for shot in seen.shots.first:
        pixels = np.asarray(opened(shot.picture))
        assert pixels.shape == (192, 192, 3)
        assert (pixels == pixels[::24, ::24].repeat(24, 0).repeat(24, 1)).all()


def test_the_page_is_one_small_file_and_the_same_each_time(photos: Path, tmp_path: Path) -> None:
    written = [tmp_path / name for name in ("a.html", "b.html")]
    for path in written:
        assert call("explain", photos, "-o", path).exit_code == 0
    first, second = (path.read_bytes() for path in written)
    assert first == second
    assert len(first) < 3_000_000
    content = first.decode()
    sources = re.findall(r'src="([^"]*)"', content)
    assert len(sources) == 2 * (3 + min(MOST_WRONG, 42))
    assert all(source.startswith(("data:image/jpeg;base64,", "data:image/png;base64,")) for source in sources)
    assert "<script" not in content


def test_the_page_lies_in_the_record_which_stays_as_it_was(digits: Path, tmp_path: Path) -> None:
    record = moved(digits, tmp_path)
    before = {path: path.read_bytes() for path in record.rglob("*") if path.is_file()}
    shown = call("explain", record)
    assert shown.exit_code == 0
    assert {p for p in record.rglob("*") if p.is_file()} - {*before} == {record / "explained.html"}
    assert all(path.read_bytes() == content for path, content in before.items())
    assert "the whole network" in shown.stdout
    assert "taken for" in shown.stdout


def test_every_layer_has_its_costs_and_its_field(digits: Path) -> None:
    table = see(Record(digits)).layers
    assert table is not None
    rows = [dict(zip((c.key for c in table.columns), table.texts(i), strict=True)) for i in range(18)]
    assert [(row["layer"], row["candidate"]) for row in rows[:17]] == list(MIXED.items())
    assert all((row["params"] != "0") == (row["candidate"] == "global") for row in rows[:17])
    assert all(row["sees"] == "all of it" for row in rows[2:17])  # the third is the first global one
    assert rows[0]["sees"] == "5 px"  # two 3×3 convolutions
    assert rows[17]["params"] == f"{Record(digits).result().params:,}"
    assert rows[17]["params_share"] == "100.0"


def missing(record: Path) -> Seen:
    found = see(Record(record))
    assert len(found.missing) == 1
    assert found.missing[0] in page(explain(Record(record)), found).replace("&#39;", "'")
    return found


def test_without_weights_the_costs_are_still_there(digits: Path, tmp_path: Path) -> None:
    record = moved(digits, tmp_path)
    (record / MODEL).unlink()
    found = missing(record)
    assert found.layers is not None
    assert found.shots is None
    assert "has no model.safetensors" in found.missing[0]


def test_without_the_photos_the_page_still_comes(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "moved"
    shutil.copytree(photos.parent.parent, root)
    record = next((root / "runs").iterdir())
    config = record / "config.yaml"
    config.write_text(config.read_text().replace(str(photos.parent.parent / "photos"), str(root / "gone")))
    found = missing(record)
    assert found.layers is not None
    assert f"the folder {root / 'gone'} does not exist" in found.missing[0]


def test_a_record_in_a_pack_says_what_it_can(digits: Path, tmp_path: Path) -> None:
    pack = tmp_path / "all.records.xz"
    assert call("pack", digits, "-o", pack).exit_code == 0
    shown = call("explain", pack / digits.name)
    assert shown.exit_code == 0, shown.exception
    assert "the whole network" in shown.stdout
    assert "Pictures of test images are missing" in shown.stdout


@pytest.mark.skipif(chromium() is None, reason="chromium is not installed")
def test_the_pictures_in_a_browser(photos: Path, tmp_path: Path) -> None:
    written = tmp_path / "page.html"
    assert call("explain", photos, "-o", written).exit_code == 0
    for width in (360, 1200):
        seen = visit(written.as_uri(), tmp_path / f"profile{width}", width)
        assert [r for r in seen.requests if not r.startswith("data:")] == [written.as_uri()]
        assert seen.errors == []
        assert seen.overflow <= 0
        assert {image["width"] for image in seen.images} == {192}
        assert all(image["alt"] for image in seen.images)
