"""Online distillation: the loss, what learns from what, which student is reported, and whole runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import seed_everything
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.architecture import fresh_copy, instantiate, resolve
from nasbench.data.arrays import Digits
from nasbench.errors import ArchitectureError, OptionError
from nasbench.evaluators.classification import Classification
from nasbench.evaluators.distillation import (
    DistillationModule,
    FusionTeacher,
    OnlineDistillation,
    distillation_loss,
    fusion_map,
    standard_architecture,
)
from nasbench.networks import load_model
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.spaces.cheap_resnet import CheapResNet, StandardBlock
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from tests.toys import CentrePixel

SMALL: dict[str, Any] = {"depth": 8, "width": 0.25, "image_size": 8, "num_classes": 10}
DATA = {"image_size": 8, "train_images": 96, "batch_size": 16}


def network(choice: str = "shift") -> Any:
    return instantiate(lambda: CheapResNet(**SMALL), resolve(CheapResNet(**SMALL), choice))


def mobilenet(choice: str = "paper", **options: Any) -> Any:
    def build() -> MobileNetV2MetaPooling:
        return MobileNetV2MetaPooling(width=0.05, image_size=8, num_classes=10, **options)

    return instantiate(build, resolve(build(), choice))


def evaluator(kind: Any = OnlineDistillation, **options: Any) -> Any:
    return kind(**{"dataset": "digits", "data": DATA, "epochs": 2, "device": "cpu"} | options)


def module(**options: Any) -> DistillationModule:
    """What trains two small students."""
    given = {
        **{"students": 2, "teacher": "fusion", "temperature": 4.0, "distillation_weight": 1.0, "teacher_weight": 1.0},
        **{"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0, "label_smoothing": 0.0},
        **{"gradient_clip": None, "channels_last": True},
    }
    return DistillationModule(10, 8, **{**given, **options})


# The loss


def test_the_loss_on_numbers_computed_by_hand() -> None:
    # Two classes, one image of class 0, T = 2: all probabilities are powers of e.
    teacher = torch.tensor([[2.0, 0.0]])
    student = torch.tensor([[0.0, 4.0]])
    p_t, p_s = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(2))  # softened probability of class 0
    divergence = p_t * math.log(p_t / p_s) + (1 - p_t) * math.log((1 - p_t) / (1 - p_s))
    ce_teacher, ce_student = math.log(1 + math.exp(-2)), math.log(1 + math.exp(4))
    label = torch.tensor([0])
    both = ce_teacher + 2 * (ce_student + 4 * divergence)
    assert distillation_loss(teacher, [student, student], label, 2.0).item() == pytest.approx(both, rel=1e-6)
    weighted = 0.5 * ce_teacher + ce_student + 3 * 4 * divergence
    found = distillation_loss(teacher, [student], label, 2.0, distillation_weight=3.0, teacher_weight=0.5)
    assert found.item() == pytest.approx(weighted, rel=1e-6)


def slow_loss(teacher: Tensor, students: list[Tensor], labels: Tensor, t: float) -> float:
    total = 0.0
    for n, label in enumerate(labels.tolist()):
        soft_t = [math.exp(z / t) for z in teacher[n].tolist()]
        p = [e / sum(soft_t) for e in soft_t]
        total -= math.log(math.exp(teacher[n, label]) / sum(math.exp(z) for z in teacher[n].tolist()))
        for student in students:
            soft_s = [math.exp(z / t) for z in student[n].tolist()]
            q = [e / sum(soft_s) for e in soft_s]
            total -= math.log(math.exp(student[n, label]) / sum(math.exp(z) for z in student[n].tolist()))
            total += t**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(labels)


@given(st.integers(1, 4), st.integers(2, 5), st.integers(1, 3), st.floats(0.5, 20), st.integers(0, 10**6))
@settings(max_examples=40)
def test_the_loss_against_its_definition(images: int, classes: int, students: int, t: float, seed: int) -> None:
    torch.manual_seed(seed)
    teacher = torch.randn(images, classes, dtype=torch.float64)
    others = [torch.randn(images, classes, dtype=torch.float64) for _ in range(students)]
    labels = torch.randint(0, classes, (images,))
    assert distillation_loss(teacher, others, labels, t).item() == pytest.approx(slow_loss(teacher, others, labels, t))


def test_gradients_reach_teacher_and_students() -> None:
    logits = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    labels = torch.tensor([0, 3, 1])

    def loss(*z: Tensor) -> Tensor:
        return distillation_loss(z[0], z[1:], labels, 3.0, 0.7, 1.3, 0.1)

    assert torch.autograd.gradcheck(loss, logits)
    # The soft targets themselves teach the teacher: without its own cross-entropy it still has a gradient.
    only_soft = distillation_loss(logits[0], logits[1:], labels, teacher_weight=0.0)
    assert torch.autograd.grad(only_soft, logits[0])[0].abs().min() > 0


def test_t_squared_keeps_the_size_of_the_gradient() -> None:
    """∂/∂z_s of T²·KL tends to (z_s − z_t centred) / classes for large T, whatever T is."""
    teacher, student = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    student.requires_grad_()
    label = torch.tensor([2])
    plain = F.cross_entropy(student, label) + F.cross_entropy(teacher, label)
    gap = student.detach() - teacher
    limit = (gap - gap.mean()) / 5
    for t in (1e2, 1e3):
        (soft,) = torch.autograd.grad(
            distillation_loss(teacher, [student], label, t) - plain, student, retain_graph=True
        )
        torch.testing.assert_close(soft, limit, rtol=0.05, atol=1e-3)


# Teachers and students


def test_the_fusion_teacher_against_its_definition() -> None:
    teacher = FusionTeacher(5, 3).eval()
    nn.init.uniform_(teacher.norm.running_mean)
    maps = [torch.randn(2, 2, 4, 4), torch.randn(2, 3, 4, 4)]
    expected = torch.zeros(2, 3)
    for n in range(2):
        pooled = []
        for c in range(5):
            plane = maps[0][n, c] if c < 2 else maps[1][n, c - 2]
            scaled = (plane - teacher.norm.running_mean[c]) / (1 + teacher.norm.eps) ** 0.5  # type: ignore[index]
            pooled.append(scaled.clamp(min=0).mean())
        expected[n] = teacher.linear(torch.stack(pooled))
    torch.testing.assert_close(teacher(maps), expected)


@pytest.mark.parametrize("teacher", ["fusion", "standard"])
def test_everybody_learns(teacher: str) -> None:
    training = module(teacher=teacher, students=3)
    first = network()
    training.set_model(first)
    training.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    assert training.students[0] is first
    weights = [student.classifier.weight for student in training.students]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])
    images, labels = torch.randn(4, 3, 8, 8), torch.randint(0, 10, (4,))
    outputs = training.outputs(images)
    assert list(outputs) == ["student1", "student2", "student3", "teacher"]
    assert isinstance(training.teacher, FusionTeacher) == (teacher == "fusion")
    if teacher == "standard":
        assert isinstance(training.teacher.features.block01, StandardBlock)  # type: ignore[union-attr]
        torch.testing.assert_close(outputs["teacher"], training.teacher(images))  # type: ignore[misc]
    else:
        maps = [student.features(images) for student in training.students]
        torch.testing.assert_close(outputs["teacher"], training.teacher(maps))  # type: ignore[misc]
    training.training_step((images, labels), 0).backward()
    everybody = dict(training.trained().named_parameters())
    assert len(everybody) == sum(len(list(m.parameters())) for m in (*training.students, training.teacher))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in everybody.values())
    # Only the teacher's loss: through the fused maps it trains the students too, beside a standard teacher it does not.
    training.zero_grad()
    F.cross_entropy(training.outputs(images)["teacher"], labels).backward()
    reached = [any(p.grad is not None for p in student.parameters()) for student in training.students]
    assert reached == [teacher == "fusion"] * 3


def test_nothing_stays_on_the_students() -> None:
    training = module()
    first = network()
    keys = list(first.state_dict())
    training.set_model(first)
    training.outputs(torch.randn(2, 3, 8, 8))
    assert not any(m._forward_hooks for m in first.modules())
    assert list(first.state_dict()) == keys


def test_a_further_student_does_not_repeat_the_first_after_a_reset_of_the_seed() -> None:
    like = network()
    torch.manual_seed(0)
    first = fresh_copy(like)
    torch.manual_seed(0)
    training = module()
    training.set_model(first)
    assert not torch.equal(first.classifier.weight, training.students[1].classifier.weight)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))


class Pooled(nn.Module):
    """A network with a convolution behind its global pooling, and no `features`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.body = nn.Sequential(nn.Conv2d(6, 5, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Conv2d(5, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(x)))).flatten(1)


class Flat(nn.Module):
    """A network without any map."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


def test_where_the_last_map_is() -> None:
    assert fusion_map(network(), 8) == ("features", 16)
    assert fusion_map(mobilenet(), 8) == ("features", 1280)
    assert fusion_map(Pooled(), 8) == ("body", 5)
    assert fusion_map(Pooled(), 3) == ("head", 10)  # every map is a single pixel
    space = CheapResNet(**SMALL)
    assert fusion_map(space, 8) == ("features", 16)
    assert space.training
    with pytest.raises(OptionError, match=r"teacher 'fusion': Flat has no feature map: .* use teacher=standard"):
        fusion_map(Flat(), 8)


def test_the_standard_architecture_of_a_space() -> None:
    assert set(standard_architecture(network()).values()) == {"standard"}
    assert set(standard_architecture(mobilenet()).values()) == {"none"}
    with pytest.raises(OptionError, match="CentrePixel names none at all: use teacher=fusion"):
        standard_architecture(CentrePixel())
    with pytest.raises(OptionError, match="names global: use teacher=fusion"):
        standard_architecture(mobilenet("global", candidates="global,max3"))


# Training


def trained(kind: Any, net: Any, **options: Any) -> tuple[Any, Any]:
    seed_everything(0, workers=True, verbose=False)
    built = evaluator(kind, **options)
    built.evaluate(net)
    return built, net


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.1, "gradient_clip": 0.5, "milestones": [0.5], "ema": 0.9}]
)
def test_one_student_without_a_teacher_is_plain_training(options: dict[str, Any]) -> None:
    # With dropout and random shifts of the images: every random number has to fall in the same place.
    torch.manual_seed(5)
    one, two = mobilenet(dropout=0.3), mobilenet(dropout=0.3)
    two.load_state_dict(one.state_dict())
    start = {k: v.clone() for k, v in one.state_dict().items()}
    plain, _ = trained(Classification, one, **options)
    nothing = {"students": 1, "distillation_weight": 0.0, "teacher_weight": 0.0}
    distilled, _ = trained(OnlineDistillation, two, **nothing, **options)
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert not torch.equal(start["classifier.1.weight"], one.classifier[1].weight)
    a, b = plain.test(), distilled.test()
    assert (a["top1"], a["top5"], a["loss"]) == (b["top1"], b["top5"], b["loss"])
    assert b["distillation"]["test_top1"] == {"student1": b["top1"]}


def test_further_students_leave_the_first_one_s_images_alone() -> None:
    """Without a teacher, students do not know each other: the first is trained as if it were alone."""
    nothing = {"distillation_weight": 0.0, "teacher_weight": 0.0}
    built, _ = trained(OnlineDistillation, torch_seeded(), students=3, **nothing)
    alone, other = trained(OnlineDistillation, torch_seeded(), students=1, **nothing)
    first = built.module.students[built.module.names.index("student1")]
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in first.state_dict().items())
    assert alone.module.names == ["student1"]


def torch_seeded() -> Any:
    torch.manual_seed(3)
    return network()


class Twisted(Digits):
    """Digits whose held-out images tell another student than the test images do: their labels are moved by one."""

    def test_dataloader(self) -> Any:
        loader = super().test_dataloader()
        images, labels = loader.dataset.tensors
        loader.dataset.tensors = (images, (labels + 1) % 10)
        return loader


@pytest.mark.parametrize("teacher", ["fusion", "standard"])
def test_the_student_is_chosen_on_held_out_images(teacher: str) -> None:
    net = torch_seeded()
    for parameter in net.classifier.parameters():  # the first student always says the same: another one must win
        parameter.requires_grad_(False).zero_()
    data_options = DATA | {"train_images": 400}
    built = evaluator(dataset=f"{__name__}:Twisted", students=4, teacher=teacher, data=data_options, epochs=4)
    seed_everything(1, workers=True, verbose=False)
    built.evaluate(net)
    result = built.test()
    told = result["distillation"]
    assert set(told["held_out_top1"]) == set(told["test_top1"]) == {*(f"student{i}" for i in range(1, 5)), "teacher"}
    students = {name: top1 for name, top1 in told["held_out_top1"].items() if name != "teacher"}
    assert students[told["reported"]] == max(students.values()) > students["student1"]
    assert result["top1"] == told["test_top1"][told["reported"]]
    # Every number is found again with the networks as they are left, the reported one in the model that was given.
    assert built.module.names[0] == told["reported"]
    assert built.module.model is net
    data = built.datamodule
    for loader, named in ((data.val_dataloader(), "held_out_top1"), (data.test_dataloader(), "test_top1")):
        correct, total = dict.fromkeys(told[named], 0), 0
        with torch.no_grad():
            for images, labels in loader:
                for name, logits in built.module.eval().outputs(data.normalise(images)).items():
                    correct[name] += int((logits.argmax(1) == labels).sum())
                total += len(labels)
        assert {name: n / total for name, n in correct.items()} == pytest.approx(told[named])


def test_reporting_exchanges_weights_and_names() -> None:
    training = module(students=3)
    first = network()
    training.set_model(first)
    before = [{k: v.clone() for k, v in s.state_dict().items()} for s in training.students]
    images = torch.randn(2, 3, 8, 8)
    outputs = training.eval().outputs(images)
    training.report("student3")
    assert training.names == ["student3", "student2", "student1"]
    assert all(torch.equal(v, before[2][k]) for k, v in first.state_dict().items())
    after = training.outputs(images)
    for name in (*training.names, "teacher"):
        torch.testing.assert_close(after[name], outputs[name], rtol=0, atol=0)
    assert training.best({"val_top1_student1": 0.5, "val_top1_student2": 0.5, "val_top1_student3": 0.4}) == "student2"
    training.report("student3")
    assert training.names[0] == "student3"


def test_a_search_is_plain_classification() -> None:
    built = evaluator(stage="search", teacher="standard")
    assert not isinstance(built.module, DistillationModule)
    built.evaluate(network())
    assert "val_top1_student1" not in built.trainer.callback_metrics


def test_a_second_network_gets_its_own_training() -> None:
    built = evaluator(students=2, epochs=1)
    one, two = torch_seeded(), torch_seeded()
    built.evaluate(one)
    first = built.trainer
    built.evaluate(two)
    assert built.trainer is not first
    assert built.trainer.current_epoch == 1
    assert not torch.equal(two.classifier.weight, torch_seeded().classifier.weight)


def test_the_learning_rate_falls_at_the_milestones() -> None:
    built = evaluator(Classification, epochs=4, learning_rate=0.1, milestones=[0.5, 0.75])
    rates: list[float] = []

    from pytorch_lightning import Callback

    class Rates(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    built.observe([Rates()])
    built.evaluate(network())
    assert rates == pytest.approx([0.1, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"students": 0}, "students must be ≥ 1"),
        ({"teacher": "teacher"}, "teacher must be 'fusion' or 'standard', not 'teacher'"),
        ({"temperature": 0}, "temperature must be > 0"),
        ({"distillation_weight": -1}, "distillation_weight must be ≥ 0"),
        ({"teacher_weight": -1}, "teacher_weight must be ≥ 0"),
        ({"label_smoothing": 1}, "label_smoothing must be"),
        ({"milestones": [1.5]}, "milestones must be > 0 and < 1"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        evaluator(**options)


def test_a_network_that_cannot_be_built_again_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="a further Pooled cannot be built"):
        evaluator(students=2).evaluate(Pooled())
    evaluator(students=1, epochs=1).evaluate(Pooled())
    assert fresh_copy(network())


# Whole runs

TINY: dict[str, Any] = {
    "train_images": 96,
    "batch_size": 16,
    "image_size": 8,
    "epochs": 1,
    "retrain_epochs": 2,
    "device": "cpu",
    "evaluator": "online_distillation",
}


@pytest.mark.parametrize(
    ("space", "strategy", "options", "teacher"),
    [
        ("cheap_resnet", "fixed", {"choice": "shift"}, "fusion"),
        ("cheap_resnet", "random", {"trials": 2}, "standard"),
        ("cheap_resnet", "pmpl", {"warmup_epochs": 0}, "fusion"),
        ("mbv2_metapool", "random", {}, "fusion"),
        ("mbv2_metapool", "random", {}, "standard"),
    ],
)
def test_a_whole_run(space: str, strategy: str, options: dict[str, Any], teacher: str, tmp_path: Path) -> None:
    small = {"depth": 8, "width": 0.25} if space == "cheap_resnet" else {"width": 0.05}
    chosen = {"space": space, "space_options": small, "strategy": strategy, "strategy_options": options}
    done = run(resolve_config(TINY | chosen | {"evaluator_options": {"students": 2, "teacher": teacher}}), tmp_path)
    result = done.result().model_dump()
    told = result["distillation"]
    assert result["top1"] == told["test_top1"][told["reported"]]
    assert set(told["held_out_top1"]) == {"student1", "student2", "teacher"}
    rows = {(r["stage"], r["epoch"], r["name"]): float(r["value"]) for r in done.curves("metrics.csv")}
    for name, value in told["held_out_top1"].items():
        assert rows["retrain", "2", f"val_top1_{name}"] == pytest.approx(value, abs=1e-6)
        assert ("retrain", "1", f"train_top1_{name}") in rows
    best = max(told["held_out_top1"]["student1"], told["held_out_top1"]["student2"])
    assert rows["retrain", "2", "val_top1"] == pytest.approx(best, abs=1e-6)
    # What is kept is one plain network: the reported student.
    model = load_model(done.path)
    assert sum(p.numel() for p in model.parameters()) == result["params"]
    assert not any("student" in key or "others" in key for key in load_file(done.path / "model.safetensors"))
    data = Digits(image_size=8, batch_size=64)
    data.setup()
    facts = done.data()
    data.mean, data.std = tuple(facts.mean), tuple(facts.std)
    with torch.no_grad():
        hits = [model(data.normalise(x)).argmax(1) == y for x, y in data.test_dataloader()]
    assert torch.cat(hits).float().mean().item() == pytest.approx(result["top1"], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"space": "tests.toys:CentrePixel", "evaluator_options": {"teacher": "standard"}},
            "CentrePixel names none at all: use teacher=fusion",
        ),
        ({"evaluator_options": {"teacher": "fussion"}}, "teacher='fussion'"),
        ({"evaluator_options": {"temprature": 3}}, "did you mean 'temperature'"),
        ({"evaluator_options": {"learning_rat": 3}}, "did you mean 'learning_rate'"),
        ({"evaluator_options": {"momentum": "much"}}, "momentum='much'"),
    ],
)
def test_what_cannot_work_is_refused_before_a_record_is_made(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=message):
        run(resolve_config(TINY | {"strategy": "random"} | changes), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("teacher", ["fusion", "standard"])
def test_the_preset_trains_networks_with_wide_last_maps(teacher: str, tmp_path: Path) -> None:
    """Soft targets over 1280 channels diverge at the preset's learning rate unless their gradient is clipped."""
    options = {"students": 2, "teacher": teacher}
    chosen = {"space": "mbv2_metapool", "strategy": "fixed", "evaluator": "online_distillation", "preset": "quick"}
    done = run(resolve_config(chosen | {"evaluator_options": options, "retrain_epochs": 6, "device": "cpu"}), tmp_path)
    told = done.result().distillation
    assert min(told["test_top1"].values()) > 0.6
