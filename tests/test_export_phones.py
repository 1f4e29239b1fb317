"""Files for phones: what Core ML's parser sees, whole numbers, and cards at the end of a file."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nasbench.errors import ExportError, NasbenchError, OptionError
from nasbench.export.attached import describe, described
from nasbench.export.card import card_of
from nasbench.export.format import format_of, load_network
from nasbench.export.fresh import Fresh
from nasbench.export.write import export
from nasbench.record import Record
from tests.test_commands import call
from tests.test_export import SPACES, file_of, run_of

__all__ = ["run_of"]
SLOW = [pytest.param(space, marks=pytest.mark.slow) for space in SPACES if space != "cheap_resnet"]


@pytest.mark.parametrize(
    ("form", "package", "command"),
    [
        ("onnx", "onnxruntime", 'pip install "nasbench[onnx]"'),
        ("executorch", "executorch", 'pip install "nasbench[executorch]"'),
        ("coreml", "coremltools", 'pip install "nasbench[coreml]"'),
        (
            "litert",
            "litert_torch",
            'pip install "nasbench[litert]" && '
            "pip install --no-deps litert-torch==0.10.0 litert-converter==0.5.0 ai-edge-quantizer==0.10.0",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_command(
    form: str,
    package: str,
    command: str,
    run_of: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = run_of("cheap_resnet")
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, package, None)  # which is how Python marks what is not to be found
    monkeypatch.setattr("nasbench.export.format.find_spec", lambda name: None if name == package else name)
    assert call("export", record, "--format", form, "-o", tmp_path / "net.onnx") == 2
    assert capsys.readouterr().err == f"error: format {form} needs {package}: {command}\n"


@pytest.mark.parametrize("space", ["cheap_resnet", *SLOW])
def test_core_ml_parses_a_classifier_of_pictures(
    space: str, run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, record = file_of("coreml", tmp_path), run_of(space)
    file.mkdir()
    (file / "Manifest.json").touch()  # an earlier one
    assert call("export", record, "--format", "coreml", "-o", file, "--force") == 0
    said = capsys.readouterr().err.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    import coremltools

    model = coremltools.models.MLModel(str(file), skip_model_load=True)
    spec, card = model.get_spec(), card_of(Record(record))
    (picture,) = spec.description.input
    assert (picture.type.imageType.width, picture.type.imageType.height) == (card.image_size, card.image_size)
    assert [output.name for output in spec.description.output] == ["class", "class_probs", "logits"]
    assert json.loads(model.user_defined_metadata["class_names"]) == card.class_names
    assert json.loads(model.user_defined_metadata["top1"]) == card.top1
    weights = sum(path.stat().st_size for path in file.rglob("weight.bin"))
    assert weights >= 4 * 0.9 * card.params  # in 32 bits; normalisation is folded
    if sys.platform != "darwin":
        assert "parsed; not tried on images: coreml runs on macOS only" in said
        with pytest.raises(OptionError, match="runs on macOS only"):
            load_network(file)


@pytest.mark.parametrize(
    ("space", "form"),
    [("cheap_resnet", "onnx")]
    + [
        pytest.param(space, form, marks=pytest.mark.slow)
        for space in SPACES
        for form in ("onnx", "executorch")
        if (space, form) != ("cheap_resnet", "onnx")
    ],
)
def test_a_network_in_int8_says_its_accuracy_beside_the_float_one(
    space: str, form: str, run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    file, record = file_of(form, tmp_path), run_of(space)
    if (space, form) == ("cheap_resnet", "executorch"):
        with pytest.raises(NasbenchError):  # XNNPACK pads no whole numbers, and a shift does
            export(Record(record), form, file, quantise="int8")
        assert list(tmp_path.iterdir()) == []
        return
    report = export(Record(record), form, file, quantise="int8")
    assert report.comparison is not None
    assert report.comparison.images == 359
    assert report.comparison.difference > 0
    network = load_network(file)
    assert (network.card.quantised, network.card.top1) == ("int8", Record(record).result().top1)
    assert network.card.quantised_top1 == report.comparison.found_correct / 359
    assert network.card.quantised_top1 >= network.card.top1 - 0.05


def test_whole_numbers_are_refused_where_a_format_has_none(
    run_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = run_of("cheap_resnet")
    for form, quantise, message in (
        ("safetensors", "int8", "is written with floating-point numbers only, int8 is for onnx, executorch"),
        ("onnx", "int9", "unknown numbers 'int9': did you mean 'int8'?"),
    ):
        file = tmp_path / f"net{format_of(form).SUFFIX}"
        assert call("export", record, "--format", form, "--quantise", quantise, "-o", file) == 2
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_card_at_the_end_of_a_file_is_replaced_and_leaves_the_rest_alone(
    run_of: Callable[[str], Path], tmp_path: Path
) -> None:
    card, file = card_of(Record(run_of("cheap_resnet"))), tmp_path / "net.pte"
    file.write_bytes(b"network" * 99)
    describe(card, file)
    size = file.stat().st_size
    describe(card.model_copy(update={"top1": 0.125}), file)
    assert described(file).top1 == 0.125
    assert described(file).usage.startswith("images: uint8 (1, 8, 8, 3)")
    assert file.read_bytes().startswith(b"network" * 99)
    assert file.stat().st_size < size + 99
    with zipfile.ZipFile(file) as archive:  # as `unzip` would
        assert json.loads(archive.read("class_names")) == card.class_names


def test_a_runtime_that_crashes_is_one_line(tmp_path: Path) -> None:
    with Fresh() as fresh:
        fresh.process.kill()
        with pytest.raises(ExportError, match="died"):
            fresh.read("onnx", tmp_path / "net.onnx", False)
