"""Classes with many and with few images: what is counted in the test, and how the loss weighs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from records import write_run
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.errors import OptionError, RecordError
from nasbench.evaluators.classification import Classification, class_weights
from nasbench.evaluators.distillation import OnlineDistillation
from nasbench.facts import DataFacts
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.record import CONFIG, CONFUSION, DATA, Record
from nasbench.results.collect import collect
from nasbench.results.figures import plot
from nasbench.results.report import report
from nasbench.show import summary

TRAIN, TEST = (30, 10, 20), (8, 2, 5)


@pytest.fixture
def unequal(tmp_path: Path) -> dict[str, Any]:
    """Images of three classes, as grey as their label says, and which of them there are."""
    path = tmp_path / "unequal.npz"
    labels = {part: np.repeat(np.arange(3), counts) for part, counts in (("train", TRAIN), ("test", TEST))}
    noise = np.random.default_rng(0)
    images = {
        part: (80 * y[:, None, None] + noise.integers(0, 9, (len(y), 8, 8))).astype(np.uint8)
        for part, y in labels.items()
    }
    np.savez(path, **{f"x_{p}": x for p, x in images.items()}, **{f"y_{p}": y for p, y in labels.items()})
    return {"data_root": str(path), "batch_size": 4}


class Darkness(nn.Module):
    """Takes the lightest class for the darkest."""

    def forward(self, x: Tensor) -> Tensor:
        lightness = x.mean((1, 2, 3))
        return F.one_hot(((lightness > -0.6) & (lightness < 0.6)).long(), 3).float()


def made(unequal: dict[str, Any], kind: Any = Classification, **options: Any) -> Any:
    return kind(dataset="arrays", data=unequal, device="cpu", epochs=1, **options)


def test_the_test_counts_what_is_taken_for_what(unequal: dict[str, Any]) -> None:
    evaluator = made(unequal)
    evaluator.module.set_model(Darkness())
    for _ in range(2):  # the second test counts anew
        measured = evaluator.test()
        assert measured["confusion"] == [[8, 0, 0], [0, 2, 0], [5, 0, 0]]
        assert measured["top1"] == pytest.approx(10 / 15)
        assert measured["balanced_accuracy"] == pytest.approx(2 / 3)


def test_the_weights_are_inverse_to_the_counts() -> None:
    assert class_weights([30, 10, 20]) == [60 / 90, 60 / 30, 60 / 60]
    assert np.dot(class_weights([7, 5, 88]), [7, 5, 88]) == pytest.approx(100)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_balanced_loss_weighs_every_image_by_its_class(unequal: dict[str, Any], smoothing: float) -> None:
    evaluator = made(unequal, balance="loss", label_smoothing=smoothing)
    counts = evaluator.datamodule.train_counts()
    assert sum(counts) == 54  # a tenth of each class is held out
    module = evaluator.module
    torch.manual_seed(0)
    module.set_model(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3)))
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 0, 1, 2, 0])
    weights = torch.tensor([54 / (3 * n) for n in counts])
    log = torch.log_softmax(module(images), 1)
    targets = (1 - smoothing) * F.one_hot(labels, 3) + smoothing / 3
    expected = -(weights * targets * log).sum() / weights[labels].sum()
    assert module.loss(images, labels)[0].item() == pytest.approx(expected.item(), rel=1e-6)
    plain = made(unequal, label_smoothing=smoothing).module
    plain.set_model(module.model)
    expected = F.cross_entropy(module(images), labels, label_smoothing=smoothing)
    assert plain.loss(images, labels)[0].item() == expected.item()


def test_students_and_teacher_are_balanced_too(unequal: dict[str, Any]) -> None:
    module = made(unequal, OnlineDistillation, balance="loss", distillation_weight=0.0, students=2).module
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 1, 2])
    logits = {name: torch.randn(4, 3) for name in ("student1", "student2", "teacher")}
    module.outputs = lambda images: logits
    module.teacher = nn.Identity()
    expected = sum(F.cross_entropy(out, labels, weight=module.class_weights) for out in logits.values())
    assert module.loss(images, labels)[0].item() == pytest.approx(float(expected), rel=1e-6)
    assert len(set(module.class_weights.tolist())) == 3


def test_a_data_set_that_does_not_count_cannot_be_balanced(monkeypatch: pytest.MonkeyPatch) -> None:
    from nasbench.data.base import ImageData

    monkeypatch.delattr(ImageData, "train_counts")
    with pytest.raises(OptionError, match="balance=loss needs a data set that tells its train_counts"):
        Classification(balance="loss", device="cpu")


def test_a_run_keeps_and_shows_what_was_counted(unequal: dict[str, Any], tmp_path: Path) -> None:
    given = {"dataset": "arrays", "preset": "quick", "architecture": "none", "space_options": {"width": 0.05}}
    some = {"retrain_epochs": 1, "device": "cpu", "evaluator_options": {"balance": "loss"}, **unequal}
    record = run(resolve_config({**given, **some}), tmp_path / "runs")
    counted = record.confusion()
    assert [sum(n for (true, _), n in counted.items() if true == c) for c in range(3)] == list(TEST)
    result = record.result()
    assert result.top1 == pytest.approx(sum(counted.get((c, c), 0) for c in range(3)) / 15)
    recalls = [counted.get((c, c), 0) / TEST[c] for c in range(3)]
    assert result.balanced_accuracy == pytest.approx(sum(recalls) / 3)
    assert "confusion" not in (result.model_extra or {})
    assert record.config().evaluator_options["balance"] == "loss"
    told = shown(record)
    assert f"balanced accuracy: {100 * (result.balanced_accuracy or 0):.2f} % (mean over the classes" in told
    assert "which have 2 to 8 test images)" in told
    page = report(collect([record.path]).frame, tmp_path / "page").read_text(encoding="utf-8")
    assert "Which classes are taken for which" in page


def shown(record: Record) -> str:
    console = Console(width=200)
    with console.capture() as text:
        console.print(summary(record))
    return text.get()


def test_of_equal_classes_the_accuracy_says_it_all(tmp_path: Path) -> None:
    assert "balanced" not in shown(Record(write_run(tmp_path)))


def test_earlier_records_weighed_nothing_and_counted_nothing(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    settings = yaml.safe_load((path / CONFIG).read_text())
    del settings["evaluator_options"]["balance"]
    (path / CONFIG).write_text(yaml.safe_dump(settings))
    (path / CONFUSION).unlink()
    record = Record(path)
    assert record.config().evaluator_options["balance"] == "none"
    assert record.confusion() == {}
    assert "test accuracy" in shown(record)
    with pytest.raises(RecordError, match="none of the runs has a confusion"):
        plot(collect([path]).frame, "confusion")


@pytest.mark.parametrize("row", ["0,10,3", "-1,0,3", "0,0,0", "0,0,x", "0,0"])
def test_a_damaged_confusion_matrix_is_refused(row: str, tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (path / CONFUSION).write_text(f"class,predicted,images\n{row}\n")
    with pytest.raises(RecordError, match=r"confusion\.csv is damaged"):
        Record(path).confusion()


@pytest.mark.parametrize("classes", [2, 6, 25, 100])
def test_confusions_are_named_however_many_classes_there_are(classes: int, tmp_path: Path) -> None:
    record = Record(write_run(tmp_path))
    names = [f"a very long name of the class {i} $\x1b" for i in range(classes)]
    record.write_json(DATA, DataFacts(class_names=names, image_size=16))
    counts = 60 * np.eye(classes, dtype=int)
    counts[0, 1] = 9
    record.write_confusion(counts.tolist())
    (figure,) = plot(collect([record.path]).frame, "confusion").values()
    texts = [t.get_text() for axes in figure.axes for t in (*axes.texts, *axes.get_yticklabels())]
    assert not any("\x1b" in text for text in texts)
    if classes > 30:
        assert sum("→" in text for text in texts) == 1
    else:
        assert sum(text.startswith("a very long name") for text in texts) == classes
        assert texts.count("9") == 1
        assert texts.count("60") == classes
