"""Several students and a teacher that are trained together: online distillation. Source: arXiv 1909.13063."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, ClassVar, Literal

import nni
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.architecture import Architecture, fresh_copy, named
from nasbench.contracts import main_logits
from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification, ClassificationModule, accuracies, top1
from nasbench.evaluators.stopping import measured
from nasbench.options import NonNegative, Positive, Range, checked
from nasbench.profile import last_map

TEACHER = "teacher"
STANDARD = ("standard", "none")  # what spaces call the architecture with standard convolutions and nothing else
# Soft targets pull without bound, the harder the wider a teacher's last layer: beside MobileNetV2's 1280 channels a
# learning rate of 0.05 diverges without this. In the paper's own network it cuts only the first few dozen steps.
CLIP = {"gradient_clip": 5.0}
# The recipe of arXiv 1909.13063; its batches of 128 are the presets', its 300 epochs are asked for.
RECIPE = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 2e-4, "milestones": [0.5, 0.75], **CLIP}


def distillation_loss(
    teacher: Tensor,  # z_t, logits (N, classes)
    students: Sequence[Tensor],  # z_i, likewise
    labels: Tensor,  # y, (N,)
    temperature: float = 4.0,  # T
    distillation_weight: float = 1.0,  # w_d
    teacher_weight: float = 1.0,  # w_t
    label_smoothing: float = 0.0,  # of the cross-entropies
    weight: Tensor | None = None,  # of every class (classes,) in the cross-entropies
) -> Tensor:
    """w_t·CE(z_t, y) + Σ_i [CE(z_i, y) + w_d·T²·KL(softmax(z_t / T) ‖ softmax(z_i / T))], a mean over the batch.

    Nothing is detached: teacher and students learn from each other. Source: arXiv 1909.13063.
    """
    targets: dict[str, Any] = {"label_smoothing": label_smoothing, "weight": weight}
    loss = teacher_weight * F.cross_entropy(teacher, labels, **targets)
    softened = F.log_softmax(teacher / temperature, 1)
    for student in students:
        loss = loss + F.cross_entropy(student, labels, **targets)
        divergence = F.kl_div(F.log_softmax(student / temperature, 1), softened, reduction="batchmean", log_target=True)
        loss = loss + distillation_weight * temperature**2 * divergence
    return loss


class FusionTeacher(nn.Module):
    """Concatenation of maps (N, C_i, H, W) → BN → ReLU → global average pooling → linear: logits (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int) -> None:
        """Build the classifier for `channels` = Σ C_i."""
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.linear = nn.Linear(channels, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Logits (N, num_classes) of the students' maps."""
        return self.linear(self.relu(self.norm(torch.cat(list(maps), 1))).mean((2, 3)))


def fusion_map(network: nn.Module, image_size: int) -> tuple[str, int]:
    """The name of the module whose map the fusion teacher reads, `nasbench.profile.last_map`, and the map's channels.

    The network computes one black image of this side in evaluation mode. Raises OptionError: no module returns a map.
    """
    training, first = network.training, next(network.parameters(), None)
    images = torch.zeros(1, 3, image_size, image_size, device=None if first is None else first.device)
    try:
        with isolate_rng(), torch.no_grad():
            name, found = last_map(network.eval(), images)
    except OptionError as e:
        raise OptionError(f"teacher 'fusion': {e}; use teacher=standard") from e
    finally:
        network.train(training)
    return name, found.shape[1]


def standard_architecture(space: Any) -> Architecture:
    """The architecture `standard` of a space, or of its network, else `none`. Raises OptionError: it names neither."""
    names = named(space)
    for name in STANDARD:
        if name in names:
            return names[name]
    raise OptionError(
        f"teacher 'standard' needs a space that names an architecture {' or '.join(map(repr, STANDARD))}; "
        f"{type(space).__name__} names {', '.join(names) or 'none at all'}: use teacher=fusion"
    )


class DistillationModule(ClassificationModule):
    """Trains students of one architecture and a teacher together.

    The first student is the network that is set; the others are built anew, and so is the teacher. Their random draws
    leave the generators as they were: the first student sees the same images as in a training alone.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        students: int,
        teacher: str,
        temperature: float,
        distillation_weight: float,
        teacher_weight: float,
        **options: Any,
    ) -> None:
        """Keep the options, see `OnlineDistillation`; the first student follows with `set_model`."""
        super().__init__(num_classes, **options)
        self.num_classes, self.image_size, self.kind = num_classes, image_size, teacher
        self.temperature = temperature
        self.distillation_weight, self.teacher_weight = distillation_weight, teacher_weight
        self.numbered = tuple(f"student{i}" for i in range(1, students + 1))
        self.names = list(self.numbered)  # in the order of `students`, which `report` changes
        self.others = nn.ModuleList()  # the students but the first
        self.teacher: nn.Module | None = None  # a `FusionTeacher`, a network of the space; none if both weights are 0
        self.map_name: str | None = None  # of the module whose output the fusion teacher reads
        everybody = (*self.names, TEACHER)
        self.network_metrics = nn.ModuleDict(
            {stage: nn.ModuleDict({name: accuracies(num_classes) for name in everybody}) for stage in ("val", "test")}
        )

    def set_model(self, model: nn.Module) -> None:
        """Set the first student; build the others and the teacher."""
        super().set_model(model)
        with isolate_rng():
            # A stream of its own: were the generator set back before the training, it would repeat the first student.
            torch.manual_seed(int(torch.randint(2**62, ())))
            self.others = nn.ModuleList(self.laid_out(fresh_copy(model)) for _ in self.names[1:])
            self.teacher = self._teacher(model) if self.distillation_weight or self.teacher_weight else None

    def _teacher(self, model: nn.Module) -> nn.Module:
        if self.kind == "standard":
            return self.laid_out(fresh_copy(model, standard_architecture(model)))
        self.map_name, channels = fusion_map(model, self.image_size)
        return FusionTeacher(channels * len(self.names), self.num_classes)

    @property
    def students(self) -> list[nn.Module]:
        """All students, in the order of `names`."""
        return [self.model, *self.others]

    def trained(self) -> nn.Module:
        """Students and teacher."""
        return nn.ModuleList([*self.students, *([] if self.teacher is None else [self.teacher])])

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, classes) for images (N, 3, H, W): of `student1`, `student2`, …, and last of `teacher`."""
        maps: dict[nn.Module, Tensor] = {}  # by the module that returned it last
        logits = {}
        named = dict(zip(self.names, self.students, strict=True))

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            maps[module] = output

        with ExitStack() as hooks:  # no longer than the pass: copies and files of the networks are without them
            for name in self.numbered:  # whoever has changed places, the teacher finds each one's map where it was
                if self.map_name is not None:
                    hooks.enter_context(named[name].get_submodule(self.map_name).register_forward_hook(keep))
                logits[name] = main_logits(named[name](images))
        if self.teacher is not None:
            logits[TEACHER] = main_logits(self.teacher(list(maps.values()) if maps else images))
        return logits

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch; `train_top1` is the mean over the students."""
        logits = self.outputs(images)
        targets = self.targets()
        students = [logits[name] for name in self.names]
        if self.teacher is None:
            loss = torch.stack([F.cross_entropy(student, labels, **targets) for student in students]).sum()
        else:
            # In single precision or better: the small differences of soft targets are lost in half.
            exact = torch.promote_types(students[0].dtype, torch.float32)
            loss = distillation_loss(
                logits[TEACHER].to(exact),
                [student.to(exact) for student in students],
                labels,
                self.temperature,
                self.distillation_weight,
                self.teacher_weight,
                **targets,
            )
        correct = {f"top1_{name}": top1(output, labels) for name, output in logits.items()}
        mean = torch.stack([correct[f"top1_{name}"] for name in self.names]).mean()
        return loss, {"top1": mean, **correct}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy of students and teacher on held-out images."""
        for name, logits in self.outputs(batch[0]).items():
            self.measure("val", logits, batch[1], self.network_metrics["val"][name], f"_{name}")  # type: ignore[index]

    def on_validation_epoch_end(self) -> None:
        """The held-out numbers of the epoch are those of its best student."""
        held_out = self.trainer.callback_metrics
        best = self.best(held_out)
        for key in ("val_loss", "val_top1", "val_top5"):
            if f"{key}_{best}" in held_out:
                self.log(key, held_out[f"{key}_{best}"])
        super().on_validation_epoch_end()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy on test images: the reported student's, and beside it everybody's."""
        outputs = self.outputs(batch[0])
        self.measure_test(outputs[self.names[0]], batch[1])
        for name, logits in outputs.items():
            self.measure("test", logits, batch[1], self.network_metrics["test"][name], f"_{name}")  # type: ignore[index]

    def best(self, held_out: Any) -> str:
        """The student with the highest held-out accuracy, the first of several; see `on_validation_epoch_end`."""
        return max(self.names, key=lambda name: float(held_out[f"val_top1_{name}"]))

    def report(self, name: str) -> None:
        """Let a student and the first one change places, weights and all: the set model is then that student."""
        place = self.names.index(name)
        if not place:
            return
        first, other = self.students[0], self.students[place]
        kept = {key: value.clone() for key, value in first.state_dict().items()}
        first.load_state_dict(other.state_dict())
        other.load_state_dict(kept)
        self.names[0], self.names[place] = self.names[place], self.names[0]


@nni.trace
class OnlineDistillation(Classification):
    """Several students and a teacher trained together from scratch; the best student on held-out images counts.

    Searches use plain classification with the same options. Arguments go by keyword. Source: arXiv 1909.13063.
    """

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "quick": {"learning_rate": 0.05, **CLIP},
        "cifar": RECIPE,
        "paper": RECIPE,
        "finetune": {"learning_rate": 0.01, "weight_decay": 1e-4, "label_smoothing": 0.1, **CLIP},
    }
    module_class: type[ClassificationModule] = DistillationModule

    @checked
    def __init__(
        self,
        *,
        # m, networks of the architecture that are trained side by side.
        students: Annotated[int, Range(ge=1, le=64)] = 4,
        # `fusion`, a classifier on the students' last maps (see `fusion_map`), or `standard`, the space's named
        # architecture `standard`, else `none`.
        teacher: Literal["fusion", "standard"] = "fusion",
        temperature: Positive = 4.0,  # T, by which the logits are divided for the soft targets
        distillation_weight: NonNegative = 1.0,  # of the soft targets, see `distillation_loss`
        # Of the teacher's own cross-entropy; with both weights 0 there is no teacher.
        teacher_weight: NonNegative = 1.0,
        **options: Any,  # of `Classification`
    ) -> None:
        """Describe the training; data are read when it starts. Raises OptionError: a value is out of range."""
        self._distillation: dict[str, Any] = {
            "students": students,
            "teacher": teacher,
            "temperature": temperature,
            "distillation_weight": distillation_weight,
            "teacher_weight": teacher_weight,
        }
        if options.get("stage") == "search":
            self.module_class = ClassificationModule
        super().__init__(**options)
        self._held_out: dict[str, float] = {}

    def check_space(self, space: Any) -> None:
        """Raise an OptionError unless a teacher can be built for a space; says why, and what to use instead."""
        if not self._distillation["distillation_weight"] and not self._distillation["teacher_weight"]:
            return
        if self._distillation["teacher"] == "standard":
            standard_architecture(space)
        else:
            fusion_map(space, self.datamodule.image_size)

    def evaluate(self, model: nn.Module) -> Any:
        """Train one architecture of an NNI `ModelSpace` beside further students; it then has the best one's weights.

        Raises ArchitectureError: further students cannot be built from it. Raises OptionError: no teacher can.
        """
        result = super().evaluate(model)
        if self.stage == "retrain":
            self._held_out = self._by_network("val")
            self.module.report(self.module.best(measured(self.trainer)))
        return result

    def beside(self) -> dict[str, Any]:
        """All students, the teacher, and how they did on held-out images."""
        return {"weights": self.module.state_dict(), "names": self.module.names, "held_out": self._held_out}

    def restore(self, model: nn.Module, beside: Mapping[str, Any] | None) -> bool:
        """See `Classification.restore`; without the other students and the teacher they are all trained again."""
        if beside is None:
            return False
        super().restore(model, beside)
        self.module.load_state_dict(beside["weights"])
        self.module.names, self._held_out = beside["names"], beside["held_out"]
        return True

    def test(self) -> dict[str, Any]:
        """What `Classification.test` says of the reported student, and as `distillation` everybody's accuracies."""
        result: dict[str, Any] = super().test()
        if self.stage == "retrain":
            result["distillation"] = {
                "reported": self.module.names[0],
                "held_out_top1": self._held_out,
                "test_top1": self._by_network("test"),
            }
        return result

    def _by_network(self, stage: str) -> dict[str, float]:
        metrics, prefix = measured(self.trainer) if stage == "val" else self.trainer.callback_metrics, f"{stage}_top1_"
        found = {k.removeprefix(prefix): float(v) for k, v in metrics.items() if k.startswith(prefix)}
        return {name: found[name] for name in (*self.module.numbered, TEACHER) if name in found}

    def module_options(self, data: Any) -> dict[str, Any]:
        """See `Classification.module_options`."""
        return {} if self.stage == "search" else {"image_size": data.image_size, **self._distillation}
