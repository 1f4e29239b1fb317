"""The evaluator that searches and retraining share, so that strategies differ in nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast, final

import nni
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from nni.nas.evaluator.pytorch import Lightning, Trainer
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from nasbench import registry
from nasbench.contracts import SearchModule, main_logits
from nasbench.errors import OptionError
from nasbench.evaluators.stopping import BestEpoch, best_of, measured
from nasbench.options import Count, Fraction, NonNegative, Positive, Rate, Share, Whole, checked
from nasbench.spaces.operations.auxiliary import auxiliary_loss

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}


class ClassificationModule(SearchModule):
    """Cross-entropy training of one network: SGD with momentum, cosine or stepped schedule, top-1 and top-5.

    Batches are (images (N, 3, H, W), labels (N,)). A loss of one's own is a subclass that defines `loss`, see
    `Classification.module_class`. Source: Dong et al., ICASSP 2023, section 3.1 (SGD 0.9, weight decay 4e-5, cosine).
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a `training_step` of one's own, which would lose the losses that modules add, by a TypeError."""
        super().__init_subclass__(**kwargs)
        if cls.training_step is not ClassificationModule.training_step:
            raise TypeError(f"{cls.__name__} defines training_step: define loss, to which it adds auxiliary losses")

    def __init__(
        self,
        num_classes: int,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        label_smoothing: float,
        gradient_clip: float | None,
        channels_last: bool,
        milestones: list[float] | None = None,
        class_weights: list[float] | None = None,
        warmup_epochs: int = 0,
    ) -> None:
        """Keep the hyper-parameters; the network follows with `set_model`."""
        super().__init__()
        self.save_hyperparameters()
        self.channels_last, self.gradient_clip = channels_last, gradient_clip
        self.metrics = nn.ModuleDict({stage: accuracies(num_classes) for stage in ("val", "test")})
        self.confusion = MulticlassConfusionMatrix(num_classes)
        self.confused: list[list[int]] = []
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def set_model(self, model: nn.Module) -> None:
        """Set the network to train."""
        super().set_model(self.laid_out(model))

    def laid_out(self, network: nn.Module) -> nn.Module:
        """A network in the memory layout of the training."""
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def trained(self) -> nn.Module:
        """What the optimiser trains."""
        return self.model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images `x` (N, 3, H, W)."""
        return main_logits(self.model(x))

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The training loss, a scalar, of images (N, 3, H, W) and labels (N,); and numbers, logged as `train_NAME`."""
        logits = self(images)
        return F.cross_entropy(logits, labels, **self.targets()), {"top1": top1(logits, labels)}

    def targets(self) -> dict[str, Any]:
        """How the cross-entropy of the training takes its targets: arguments of PyTorch's `cross_entropy`."""
        return {"weight": self.class_weights, "label_smoothing": self.hparams["label_smoothing"]}

    @final
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """`loss` of one batch, and the losses that modules of the network add to it."""
        images, labels = batch
        loss, numbers = self.loss(images, labels)
        extra = auxiliary_loss(self.trained())
        if extra is not None:
            loss = loss + extra
        self.log_training(len(labels), loss=loss.detach(), **numbers)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy on held-out images."""
        self.measure("val", self(batch[0]), batch[1], self.metrics["val"])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy on test images."""
        self.measure_test(self(batch[0]), batch[1])

    def measure_test(self, logits: Tensor, labels: Tensor) -> None:
        """Log and count what the network that is reported says, `logits` (N, classes), of test images."""
        self.confusion.update(logits, labels)
        self.measure("test", logits, labels, self.metrics["test"])

    def on_test_epoch_start(self) -> None:
        """Count anew."""
        self.confusion.reset()

    def on_test_epoch_end(self) -> None:
        """Add up what the processes have counted."""
        if self.confusion.update_called:  # not where a subclass measures in its own way
            self.confused = self.confusion.compute().tolist()

    def log_training(self, batch_size: int, **values: Tensor) -> None:
        """Log numbers of a training batch, as means over the epoch."""
        for name, value in values.items():
            self.log(f"train_{name}", value, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)

    def measure(self, stage: str, logits: Tensor, labels: Tensor, metrics: Any, suffix: str = "") -> None:
        """Log loss and accuracies (see `accuracies`) of logits (N, classes) and labels (N,), of `val` or `test`."""
        self.log(f"{stage}_loss{suffix}", F.cross_entropy(logits, labels), batch_size=len(labels), sync_dist=True)
        for name, metric in metrics.items():
            metric.update(logits, labels)
            self.log(f"{stage}_{name}{suffix}", metric)

    def configure_optimizers(self) -> dict[str, Any]:
        """SGD, and a schedule over all steps of the fit: a cosine down to zero, or a tenth after each milestone.

        Before it the learning rate rises linearly: t/W of it at step t of a warm-up of W steps.
        """
        hparams, trained = self.hparams, cast(Any, self.trained())
        exempt = {
            id(parameter)
            for module in trained.modules()
            if hasattr(module, "no_weight_decay")
            for name, parameter in module.named_parameters()
            if name in module.no_weight_decay()
        }
        groups: list[dict[str, Any]] = [{"params": [p for p in trained.parameters() if id(p) not in exempt]}]
        if exempt:
            plain = [p for p in trained.parameters() if id(p) in exempt]
            groups.append({"params": plain, "weight_decay": 0.0})
        optimizer = torch.optim.SGD(
            groups, lr=hparams["learning_rate"], momentum=hparams["momentum"], weight_decay=hparams["weight_decay"]
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        warm = steps * hparams["warmup_epochs"] // max(1, self.trainer.max_epochs or 1)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if hparams["milestones"] is None:
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warm)
        else:
            turns = [round(share * (steps - warm)) for share in hparams["milestones"]]
            schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, turns)
        if warm:
            rise = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / warm)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, schedule], [warm])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_end(self) -> None:
        """Tell NNI the held-out accuracy of the epoch, where an NNI trial is listening."""
        if nni.get_current_parameter() is not None:
            nni.report_intermediate_result(_accuracy(self.trainer.callback_metrics))

    def on_fit_end(self) -> None:
        """Tell NNI the final held-out accuracy, where an NNI trial is listening."""
        if nni.get_current_parameter() is not None:
            nni.report_final_result(_accuracy(measured(self.trainer)))


def _accuracy(metrics: Mapping[str, Any]) -> float:
    # A one-shot search has no validation: its measure is the training accuracy.
    return float(metrics.get("val_top1", metrics.get("train_top1", 0.0)))


def accuracies(num_classes: int) -> nn.ModuleDict:
    """Metrics `top1` and, from ten classes on, `top5`: of fewer it says nothing."""
    names = ["top1", "top5"] if num_classes >= 10 else ["top1"]
    return nn.ModuleDict({n: MulticlassAccuracy(num_classes, top_k=int(n[-1]), average="micro") for n in names})


def class_weights(counts: Sequence[int]) -> list[float]:
    """Weights n / (K n_c) of K classes that have n_c of n training images: their mean over the images is 1."""
    return [sum(counts) / (len(counts) * count) for count in counts]


def top1(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of a batch in which the largest logit (N, classes) is the label's (N,)."""
    return (logits.detach().argmax(1) == labels).float().mean()


@nni.trace
class Classification(Lightning):
    """Image classification with Lightning: SGD, cosine schedule, label smoothing, mixed precision, EMA.

    Takes plain values only, by keyword, and builds module, trainer and data from them: NNI can send it to other
    processes.
    """

    # The recipe of Dong et al., ICASSP 2023, section 3.1, in `paper`; the smaller presets are scaled from it.
    presets: ClassVar = {
        "quick": {"learning_rate": 0.05},
        "cifar": {"learning_rate": 0.1, "weight_decay": 4e-5},
        "paper": {"learning_rate": 0.05, "weight_decay": 4e-5},
        "finetune": {"learning_rate": 0.01, "weight_decay": 1e-4, "label_smoothing": 0.1},
    }
    # What is trained. A subclass with a loss of its own sets it, and overrides `module_options` where that class takes
    # more than `ClassificationModule` does.
    module_class: type[ClassificationModule] = ClassificationModule
    trainer: Any

    @checked
    def __init__(
        self,
        dataset: str = "digits",  # registered name or `module:Class` of a data set
        data: dict[str, Any] | None = None,  # its options, see `nasbench.data.base.ImageData`
        # `search` splits the training images into train and meta, `retrain` into train and held out.
        stage: Literal["search", "retrain"] = "retrain",
        epochs: Count = 10,  # passes over the training images
        # ζ, at the start of the schedule. What a preset has is for the preset's batch size: with another it is scaled
        # linearly (Goyal et al., arXiv 1706.02677), unless it is given.
        learning_rate: Rate = 0.05,
        # Epochs of the retraining in which the learning rate first rises, a step at a time, from 0 to ζ, which
        # large batches want (ibid.). The schedule is over the epochs after these.
        warmup_epochs: Whole = 0,
        momentum: Share = 0.9,  # of SGD
        weight_decay: NonNegative = 4e-5,  # L2 penalty of all weights θ
        label_smoothing: Share = 0.0,  # share of the target spread over all classes, 0–1
        # `loss` weighs every image by n / (K n_c) in the cross-entropy of the training, where n_c of its n images are
        # of the image's class, one of K; `none` counts all alike.
        balance: Literal["none", "loss"] = "none",
        gradient_clip: Positive | None = None,  # largest norm of the gradient, none where `None`
        # Shares of the schedule after which the learning rate falls to a tenth, e.g. 0.5 and 0.75; the schedule is a
        # cosine down to zero where `None`.
        milestones: list[Fraction] | None = None,
        # Epochs of the retraining without a lower held-out loss after which it ends. The weights of the epoch with the
        # lowest are then tested, else the last ones.
        early_stopping: Count | None = None,
        ema: Fraction | None = None,  # decay of an exponential moving average of the weights; used in retraining only
        channels_last: bool = True,  # memory layout of weights and images; faster on most devices
        device: str = "auto",  # `auto`, `cpu`, `cuda` or `cuda:N`
        devices: Count = 1,  # processes on each machine, each with a device of its own; they share out every batch
        nodes: Count = 1,  # machines that work together
        # `32`, `64`, `bf16` or `16` (these two mixed; 16 for retraining only).
        precision: Literal["32", "bf16", "16", "64"] = "32",
        # Folder for `best.ckpt`, of the best epoch on held-out images; none is written where `None`.
        checkpoints: str | None = None,
    ) -> None:
        """Describe the training; data are read when it starts. Raises OptionError: a value is not possible."""
        if precision == "16" and stage == "search":
            raise OptionError(
                "precision 16 needs loss scaling, which the search's own gradient steps lack: use bf16 or 32"
            )
        if stage == "retrain" and warmup_epochs >= epochs:
            raise OptionError(f"warmup_epochs {warmup_epochs} leave nothing of {epochs} epochs of retraining")
        self.stage, self.epochs, self.checkpoints, self._balance = stage, epochs, checkpoints, balance
        self._optimisation: dict[str, Any] = {
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "label_smoothing": label_smoothing,
            "gradient_clip": gradient_clip,
            "channels_last": channels_last,
            "milestones": milestones,
            "warmup_epochs": warmup_epochs if stage == "retrain" else 0,
        }
        self._ema, self._patience = (ema, early_stopping) if stage == "retrain" else (None, None)
        self._hardware = hardware(device, devices, nodes, precision)
        self._callbacks: list[Callback] = []
        self._used = False
        datamodule = registry.build_dataset(dataset, data or {}, stage=stage)
        datamodule.setup()
        world = devices * nodes
        if datamodule.batch_size % world:
            fitting = max(1, round(datamodule.batch_size / world)) * world
            raise OptionError(
                f"batch_size {datamodule.batch_size} cannot be shared out equally among {world} processes: "
                f"use {fitting}, for instance"
            )
        safe = {"weights_only": True}  # a checkpoint may hold no code
        super().__init__(self._module(datamodule), self._trainer(), datamodule=datamodule, fit_kwargs=safe)

    def observe(self, callbacks: Sequence[Callback]) -> None:
        """Let callbacks watch this and every later fit."""
        self._callbacks.extend(callbacks)
        self.trainer.callbacks.extend(callbacks)

    def evaluate(self, model: nn.Module) -> Any:
        """Train a network (N, 3, H, W) → (N, classes). Every call has a new optimiser, schedule and trainer."""
        # A Lightning trainer that has reached its last epoch trains nothing more.
        if self._used or self.trainer.max_epochs != self.epochs:
            self.module = self._module(self.datamodule)
            self.trainer = self._trainer()
        self._used = self.datamodule.singly = True
        return super().evaluate(model)

    def beside(self) -> dict[str, Any]:
        """What `test` needs of the last training beside the network, as values and tensors: nothing."""
        return {}

    def restore(self, model: nn.Module, beside: Mapping[str, Any] | None) -> bool:
        """Take a trained network, and what was kept beside it, in place of training; whether that is enough."""
        self.module.set_model(model)
        return True

    def test(self) -> dict[str, Any]:
        """Measure the network that was trained last on the test images.

        Returns `top1`, `top5` (fractions; `None` with under ten classes), `loss`, `balanced_accuracy` (mean of the
        recalls of the classes that have test images) and `confusion` (images by class and by prediction).
        """
        (values,) = self.trainer.test(self.module, datamodule=self.datamodule, verbose=False)
        measured = {"top1": values["test_top1"], "top5": values.get("test_top5"), "loss": values["test_loss"]}
        if confused := self.module.confused:
            recalls = [row[label] / sum(row) for label, row in enumerate(confused) if any(row)]
            measured |= {"balanced_accuracy": sum(recalls) / len(recalls), "confusion": confused}
        return measured

    @property
    def numbers(self) -> dict[str, Any]:
        """What the record keeps of the last training: its `epochs` and the `best_epoch`, where that counts."""
        best = best_of(self.trainer)
        return {} if best is None else {"epochs": best.trained, "best_epoch": best.best["epoch"]}

    def module_options(self, data: Any) -> dict[str, Any]:
        """What `module_class` is built with, for a data set that is ready, beside what `ClassificationModule` takes.

        The constructor calls it: what it reads of a subclass's options must be set before `super().__init__`.
        """
        return {}

    def _module(self, data: Any) -> ClassificationModule:
        options = {**self._optimisation, **self.module_options(data)}
        if self._balance == "loss":
            counts = registry.declared(data, "train_counts", None)
            if counts is None:
                raise OptionError("balance=loss needs a data set that tells its train_counts")
            options["class_weights"] = class_weights(counts())
        return self.module_class(data.num_classes, **options)

    def _trainer(self) -> Any:
        callbacks = list(self._callbacks)
        if self._patience is not None:
            callbacks.append(BestEpoch(self._patience))
        if self._ema is not None:
            callbacks.append(EMAWeightAveraging(decay=self._ema))
        if self.checkpoints is not None and self.stage == "retrain":
            monitor, mode = ("val_top1", "max") if self._patience is None else ("val_loss", "min")
            best = ModelCheckpoint(self.checkpoints, "best", monitor, mode=mode, enable_version_counter=False)
            callbacks.append(best)
        return Trainer(
            max_epochs=self.epochs,
            callbacks=callbacks,
            # A one-shot search optimises by hand and clips for itself.
            gradient_clip_val=self._optimisation["gradient_clip"] if self.stage == "retrain" else None,
            enable_checkpointing=self.checkpoints is not None,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **self._hardware,
        )


def hardware(device: str, devices: int, nodes: int, precision: str) -> dict[str, Any]:
    """What a Lightning trainer is told of processors and numbers. Raises OptionError: there are not as many devices."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    several = devices * nodes > 1
    if index and several:
        raise OptionError(f"device {device!r} names a single device: give --device cuda to {devices * nodes} processes")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if several and kind == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind == "cuda" and gpus < max(devices, int(index or 0) + 1):
        raise OptionError(
            f"device {device!r}, devices {devices}: {gpus} CUDA device(s) found; use --device cpu or fewer --devices"
            if several
            else f"device {device!r}: {gpus} CUDA device(s) found; use --device cpu or auto"
        )
    found = {"precision": PRECISIONS[precision], "accelerator": "gpu" if kind == "cuda" else kind}
    if not several:
        return {**found, "devices": [int(index or 0)] if kind == "cuda" else 1}
    return {
        **found,
        "devices": devices,
        "num_nodes": nodes,
        # Candidates leave the graph in a search, and a stranger's network may skip some of its layers.
        "strategy": "ddp_find_unused_parameters_true",
        # The variables that `nasbench.distributed` sets; a cluster manager's own would be taken otherwise.
        "plugins": [LightningEnvironment()],
    }
