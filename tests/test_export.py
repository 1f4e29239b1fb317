"""Networks in files of other runtimes compute what PyTorch does, and tell what they see in pictures."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import nasbench
from nasbench.data.arrays import Digits
from nasbench.errors import ExportError, OptionError
from nasbench.export.format import format_of, load_network
from nasbench.export.predict import logits, pictures
from nasbench.export.write import Comparison, export
from nasbench.networks import load_model
from nasbench.pipeline import build_evaluator
from nasbench.record import Record
from tests.test_commands import call

ROOT = Path(__file__).parent.parent
LABELS = [f"block{i:02d}.enhancer" for i in range(1, 18)]
EVERY = ("none", "avg3", "max3", "avg5", "max5", "avg7", "max7", "global")
SPACES: dict[str, dict[str, Any]] = {
    "mbv2_metapool": {
        "architecture": {label: EVERY[i % len(EVERY)] for i, label in enumerate(LABELS)},
        "space_options": {"width": 0.1},
        "image_size": 8,
    },
    "menet": {"architecture": "228-12x1", "image_size": 32},
    "cheap_resnet": {"architecture": "shift", "space_options": {"depth": 8}, "image_size": 8},
    "metapool": {"architecture": "global", "space_options": {"backbone": "timm:lcnet_050"}, "image_size": 32},
}
TINY: dict[str, Any] = {"train_images": 96, "batch_size": 16, "retrain_epochs": 1, "device": "cpu"}
FAST = {("cheap_resnet", form) for form in ("onnx", "executorch", "litert")}
# What a program does that has never heard of nasbench: logits of images.npy, one alone and the others together.
ALONE = {
    "onnx": "import onnxruntime; session = onnxruntime.InferenceSession(path)\n"
    "run = lambda x: session.run(None, {'images': x})[0]",
    "torchscript": "import torch; loaded = torch.jit.load(path)\n"
    "run = lambda x: loaded(torch.tensor(x)).detach().numpy()",
    "pt2": "import torch; loaded = torch.export.load(path).module()\n"
    "run = lambda x: loaded(torch.tensor(x)).detach().numpy()",
    "executorch": "import torch; import executorch.kernels.quantized; from executorch.runtime import Runtime\n"
    "method = Runtime.get().load_program(path).load_method('forward')\n"
    "run = lambda x: np.stack([method.execute([torch.tensor(i[None])])[0][0].tolist() for i in x])",
    "litert": "from ai_edge_litert.interpreter import Interpreter; net = Interpreter(path); net.allocate_tensors()\n"
    "def one(i):\n    net.set_tensor(net.get_input_details()[0]['index'], i[None]); net.invoke()\n"
    "    return net.get_tensor(net.get_output_details()[0]['index'])[0]\nrun = lambda x: np.stack([one(i) for i in x])",
    "safetensors": "import torch; from pathlib import Path; from nasbench.export.format import load_network\n"
    "run = lambda x: load_network(Path(path)).logits(torch.tensor(x)).detach().numpy()",
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A finished run of a space on digits, trained once."""
    made: dict[str, Path] = {}

    def run(space: str) -> Path:
        if space not in made:
            nasbench.run(space=space, out=tmp_path_factory.mktemp(space), **TINY, **SPACES[space])
            made[space] = next(tmp_path_factory.getbasetemp().glob(f"{space}*/*/config.yaml")).parent
        return made[space]

    return run


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on pictures of many sizes and kinds; they lie beside it in `photos`."""
    folder, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for part, name in product(("train", "test"), ("cat", "dog", "eel")):
        (folder / "photos" / part / name).mkdir(parents=True)
        for i in range(10 if part == "train" else 4):
            size = rng.integers(10, 60, 2).tolist()
            pixels = rng.integers(0, 256, (*size, 4 if i == 2 else 3), dtype=np.uint8)
            image = Image.fromarray(pixels[..., 0] if i == 3 else pixels)
            image.save(folder / "photos" / part / name / (f"{i}.png" if i in (2, 3) else f"{i}.jpg"))
    settings = {**SPACES["mbv2_metapool"], "image_size": 16, "batch_size": 8, "retrain_epochs": 1, "device": "cpu"}
    nasbench.run(dataset="imagefolder", data_root=folder / "photos", out=folder / "runs", **settings)
    return next((folder / "runs").iterdir())


def file_of(form: str, folder: Path) -> Path:
    """The name of a file of a format; skips the test where that is not installed."""
    found = format_of(form)
    if any(find_spec(package) is None for package in found.PACKAGES):
        pytest.skip(f"not installed: {', '.join(found.PACKAGES)}")
    return folder / f"net{found.SUFFIX}"


def digits(record: Path) -> Tensor:
    """The test images of a run on digits, grey as they are."""
    data = Digits(image_size=Record(record).data().image_size)
    data.setup()
    return torch.cat([images for images, _ in data.test_dataloader()])


def expected(record: Path, images: Tensor) -> Tensor:
    """Logits of a run's network, by the way of its evaluation."""
    facts = Record(record).data()
    data = Digits(image_size=facts.image_size)
    data.mean, data.std = tuple(facts.mean), tuple(facts.std)
    with torch.no_grad():
        logits: Tensor = load_model(record)(data.normalise(images))
    return logits


# Files


@pytest.mark.parametrize(
    ("space", "form"),
    [pytest.param(*case, marks=() if case in FAST else pytest.mark.slow) for case in product(SPACES, ALONE)],
)
def test_a_file_computes_in_a_fresh_process_what_the_network_does(
    space: str, form: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    file, record = file_of(form, tmp_path), run_of(space)
    command = [sys.executable, "-m", "nasbench", "export", str(record), "--format", form, "-o", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = done.stderr.splitlines()
    assert (done.stdout, len(said)) == ("", 2), done  # none of what exporters print
    assert said[0].startswith(f"as PyTorch on all 359 test images (top-1 {100 * Record(record).result().top1:.2f} %): ")
    images = digits(record)
    np.save(tmp_path / "images.npy", images.expand(-1, -1, -1, 3).numpy())
    code = (
        f"import sys; import numpy as np; path = '{file.name}'\n{ALONE[form]}\nx = np.load('images.npy')\n"
        "np.save('logits.npy', np.concatenate([run(x[:1]), run(x[1:])]))\nprint('nasbench' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(form == "safetensors")
    found, wanted = np.load(tmp_path / "logits.npy"), expected(record, images).numpy()
    assert (found.argmax(1) == wanted.argmax(1)).all()
    assert np.abs(found - wanted).max() <= 1e-4 * max(1, np.abs(wanted).max())
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert file.stat().st_mode == (tmp_path / "images.npy").stat().st_mode
    if form != "torchscript":  # PyTorch has no way to leave its sources' names out of these
        assert str(ROOT).encode() not in file.read_bytes()


def test_formats_import_their_packages_when_they_are_used() -> None:
    code = (
        "import sys, importlib\nfrom nasbench.export import FORMATS\nimport nasbench.commands.export\n"
        "for name in FORMATS: importlib.import_module(f'nasbench.export.{name}')\n"
        "used = {p for name in FORMATS for p in importlib.import_module(f'nasbench.export.{name}').PACKAGES}\n"
        "print(len(used) > 10, used & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True set()"


@pytest.mark.parametrize(
    ("name", "form", "message"),
    [
        ("net.onnx", "onyx", "unknown format 'onyx': did you mean 'onnx'?"),
        ("net.onnx", "pt2", "the name of a file of format pt2 ends in .pt2, and that of "),
        ("kept.safetensors", "safetensors", "kept.safetensors exists: choose another name, or --force"),
        ("folder.safetensors", "safetensors", "folder.safetensors exists: choose another name\n"),
    ],
)
def test_a_wrong_name_is_refused_and_a_file_is_kept(
    name: str, form: str, message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept.safetensors").write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    assert call("export", photos, "--format", form, "-o", tmp_path / name) == 2
    assert message in capsys.readouterr().err
    assert (tmp_path / "kept.safetensors").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.safetensors", "kept.safetensors"]


def test_force_writes_over_a_file(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_text("old")
    export(Record(photos), "safetensors", file, force=True)
    assert load_file(file).keys() == load_model(photos).state_dict().keys()


def test_a_file_that_computes_something_else_is_not_kept(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(network: Any, example: Tensor, card: Any, path: Path) -> None:
        state = {k: 1.01 * v if v.is_floating_point() else v for k, v in network.network.state_dict().items()}
        save_file(state, path, metadata=card.texts())

    monkeypatch.setattr("nasbench.export.safetensors.write", wrong)
    assert call("export", photos, "--format", "safetensors", "-o", tmp_path / "net.safetensors") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(r"computes something else: \d+ of 12 images get another class, and logits differ by", said)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_a_format_cannot_hold_is_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Any, images: Tensor) -> Tensor:
        return self.network(images.float().permute(0, 3, 1, 2) + float(images.sum().item() > 0))

    monkeypatch.setattr("nasbench.export.format.Deployed.forward", forward)
    with pytest.raises(ExportError, match=r"^the network cannot be written as pt2: ") as error:
        export(Record(photos), "pt2", tmp_path / "net.pt2")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("found", "agrees"),
    [
        ([[1.0, 2.0], [5.0, -3.0]], True),
        ([[1.0, 2.0], [5.0004, -3.0]], True),  # 1e-4 of the largest logit
        ([[1.0, 2.0], [5.0006, -3.0]], False),
        ([[1.0, 2.0], [float("nan"), -3.0]], False),
    ],
)
def test_rounding_is_told_from_an_error(found: list[list[float]], agrees: bool) -> None:
    comparison = Comparison()
    comparison.add(torch.tensor([[1.0, 2.0], [5.0, -3.0]]), torch.tensor(found), torch.tensor([1, 1]))
    comparison.add(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert (comparison.agrees, comparison.images, comparison.correct) == (agrees, 3, 2)


def test_another_class_is_an_error_however_near() -> None:
    comparison = Comparison()
    comparison.add(torch.tensor([[0.0, 1e-6]]), torch.tensor([[1e-6, 0.0]]), None)
    assert not comparison.agrees
    assert comparison.correct is None


def test_without_its_data_a_network_is_compared_on_random_images(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Path(shutil.copytree(photos, tmp_path / "record"))
    settings = (record / "config.yaml").read_text()
    (record / "config.yaml").write_text(re.sub("data_root: .*", f"data_root: {tmp_path}/gone", settings))
    assert call("export", record, "--format", "safetensors", "-o", tmp_path / "net.safetensors") == 0
    first, second, _ = capsys.readouterr().err.splitlines()
    assert first.startswith("the run's test images are not there (imagefolder: the folder ")
    assert second.startswith("as PyTorch on 64 random images: the same classes")


# Pictures


def test_what_is_seen_in_pictures_is_what_the_evaluator_saw(photos: Path, tmp_path: Path) -> None:
    evaluator = build_evaluator(Record(photos).config(), "retrain")
    evaluator.module.set_model(load_model(photos))
    data = evaluator.datamodule
    with torch.no_grad():
        batches = [data.on_after_batch_transfer(batch, 0)[0] for batch in data.test_dataloader()]
        wanted = torch.cat([evaluator.module.eval()(images) for images in batches])
    tested = pictures([photos.parent.parent / "photos" / "test"])
    assert [str(path) for path in tested] == data.test_files
    for form in ("torchscript", "safetensors", None):
        file = photos if form is None else tmp_path / f"net.{form}"
        if form is not None:
            export(Record(photos), form, file)
        network = load_network(file, trust=form == "torchscript")
        found = torch.stack([row for _, row in logits(network, tested) if isinstance(row, Tensor)])
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_pictures_of_a_grey_data_set_are_seen_as_in_the_test(run_of: Callable[[str], Path], tmp_path: Path) -> None:
    record = run_of("cheap_resnet")
    images = digits(record)[:5]
    for i, image in enumerate(images):
        Image.fromarray(image[..., 0].numpy()).save(tmp_path / f"{i}.png")
    found = [row for _, row in logits(load_network(record), pictures([tmp_path])) if isinstance(row, Tensor)]
    torch.testing.assert_close(torch.stack(found), expected(record, images), rtol=1e-5, atol=1e-5)


def test_predictions_go_to_programs_and_broken_pictures_are_one_line_each(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photos.parent.parent / "photos" / "test" / "cat" / "0.jpg"
    (tmp_path / "in").mkdir()
    shutil.copy(image, tmp_path / "good.jpg")
    shutil.copy(image, tmp_path / "in" / "GOOD.JPG")
    (tmp_path / "empty.png").touch()
    (tmp_path / "in" / "text.bmp").write_text("no picture")
    assert call("predict", photos, tmp_path, "--format", "json", "--top", "9") == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert [Path(each["image"]).name for each in told] == ["good.jpg", "GOOD.JPG"]
    assert told[0]["classes"] == told[1]["classes"]
    probabilities = [each["probability"] for each in told[0]["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert {each["class"] for each in told[0]["classes"]} == {"cat", "dog", "eel"}
    assert shown.err.splitlines() == [
        f"{tmp_path}/empty.png cannot be read: empty",
        f"{tmp_path}/in/text.bmp cannot be read: not a picture",
    ]
    assert call("predict", photos, image, image, "--format", "csv", "--top", "2") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["image"], row["rank"]) for row in rows] == [(str(image), "1"), (str(image), "2")]
    assert [row["class"] for row in rows] == [each["class"] for each in told[0]["classes"][:2]]
    assert float(rows[0]["probability"]) == pytest.approx(probabilities[0], abs=1e-5)
    assert call("predict", photos, image) == 0
    assert str(image) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("network", "images", "message"),
    [
        ("nothing", "net.onnx", "nothing is neither a record nor an exported file"),
        ("net.txt", "net.onnx", "net.txt is neither a record nor an exported file, whose name would end in .onnx, "),
        ("net.onnx", "net.onnx", "net.onnx cannot be read as onnx: "),
        ("net.pt2", "net.onnx", "net.pt2 runs the program in it: allow it by --trust"),
        ("other.safetensors", "net.onnx", "other.safetensors does not say what its network is"),
        ("lying.safetensors", "net.onnx", "lying.safetensors cannot be read as safetensors: "),
        ("RECORD", "nothing", "nothing does not exist"),
        ("RECORD", "folder", "folder holds no file named .jpg"),
    ],
)
def test_what_is_no_network_or_no_picture_is_one_line(
    network: str, images: str, message: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("net.txt", "net.onnx", "net.pt2"):
        (tmp_path / name).write_text("no network")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    if network.startswith("lying"):
        export(Record(photos), "safetensors", tmp_path / "good.safetensors")
        card = load_network(tmp_path / "good.safetensors").card.model_copy(update={"class_names": ["one"]})
        save_file(load_file(tmp_path / "good.safetensors"), tmp_path / network, metadata=card.texts())
    assert call("predict", photos if network == "RECORD" else tmp_path / network, tmp_path / images) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err


def test_weights_of_a_space_that_is_not_registered_run_no_code(photos: Path, tmp_path: Path) -> None:
    export(Record(photos), "safetensors", tmp_path / "good.safetensors")
    card = load_network(tmp_path / "good.safetensors").card.model_copy(update={"space": "os:system"})
    save_file(load_file(tmp_path / "good.safetensors"), tmp_path / "bad.safetensors", metadata=card.texts())
    with pytest.raises(OptionError, match=r"is not registered.*--trust"):
        load_network(tmp_path / "bad.safetensors")


def test_the_lines_of_the_readme_see_what_predict_does(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_of("cheap_resnet")
    export(Record(record), "onnx", tmp_path / "net.onnx")
    grey = digits(record)[0, ..., 0].numpy()
    Image.fromarray(grey).save(tmp_path / "photo.png")
    (code,) = [
        block
        for block in re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
        if "onnxruntime" in block
    ]
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert call("predict", tmp_path / "net.onnx", tmp_path / "photo.png", "--format", "json", "--top", "1") == 0
    (seen,) = json.loads(capsys.readouterr().out)[0]["classes"]
    assert done.stdout.split() == [seen["class"], f"{seen['probability']:.3f}"]
