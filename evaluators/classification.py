"""The evaluator that searches and retraining share, so that strategies differ in nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import nni
import torch
from nni.nas.evaluator.pytorch import Lightning, LightningModule, Trainer
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from nasbench import registry
from nasbench.errors import OptionError, check_range
from nasbench.spaces.operations.liftdown import auxiliary_loss

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


class ClassificationModule(LightningModule):
    """Cross-entropy training of one network: SGD with momentum, cosine schedule by step, top-1 and top-5.

    Source: the recipe of Dong et al., ICASSP 2023, section 3.1 (SGD 0.9, weight decay 4e-5, cosine).

    Batches are (images (N, 3, H, W), labels (N,)).
    """

    def __init__(
        self,
        num_classes: int,
        learning_rate: float,
        momentum: float,
        weight_decay: float,
        label_smoothing: float,
        gradient_clip: float | None,
        channels_last: bool,
    ) -> None:
        """Keep the hyper-parameters; the network follows with `set_model`."""
        super().__init__()
        self.save_hyperparameters()
        self.channels_last = channels_last
        names = ["top1", "top5"] if num_classes >= 5 else ["top1"]
        self.metrics = nn.ModuleDict(
            {
                stage: nn.ModuleDict(
                    {n: MulticlassAccuracy(num_classes, top_k=int(n[-1]), average="micro") for n in names}
                )
                for stage in ("val", "test")
            }
        )

    def set_model(self, model: nn.Module) -> None:
        """Set the network to train."""
        super().set_model(model.to(memory_format=torch.channels_last) if self.channels_last else model)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images `x` (N, 3, H, W)."""
        logits = self.model(x)
        # Some networks return auxiliary logits beside the main ones while training.
        return logits[0] if isinstance(logits, (tuple, list)) else logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Loss of one batch."""
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.hparams["label_smoothing"])
        extra = auxiliary_loss(self.model)
        if extra is not None:
            loss = loss + extra
        correct = (logits.detach().argmax(1) == labels).float().mean()
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(labels))
        self.log("train_top1", correct, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy on held-out images."""
        self._measure("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Accuracy on test images."""
        self._measure("test", batch)

    def _measure(self, stage: str, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self(images)
        self.log(f"{stage}_loss", F.cross_entropy(logits, labels), batch_size=len(labels))
        for name, metric in self.metrics[stage].items():  # type: ignore[operator]
            metric.update(logits, labels)
            self.log(f"{stage}_{name}", metric)

    def configure_optimizers(self) -> dict[str, Any]:
        """SGD and a cosine schedule down to zero over all steps of the fit."""
        hparams = self.hparams
        exempt = {
            id(parameter)
            for module in self.model.modules()
            if hasattr(module, "no_weight_decay")
            for name, parameter in module.named_parameters()
            if name in module.no_weight_decay()
        }
        groups: list[dict[str, Any]] = [{"params": [p for p in self.model.parameters() if id(p) not in exempt]}]
        if exempt:
            plain = [p for p in self.model.parameters() if id(p) in exempt]
            groups.append({"params": plain, "weight_decay": 0.0})
        optimizer = torch.optim.SGD(
            groups,
            lr=hparams["learning_rate"],
            momentum=hparams["momentum"],
            weight_decay=hparams["weight_decay"],
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_validation_epoch_end(self) -> None:
        """Tell NNI the held-out accuracy of the epoch, where an NNI trial is listening."""
        if nni.get_current_parameter() is not None:
            nni.report_intermediate_result(self._held_out())

    def on_fit_end(self) -> None:
        """Tell NNI the final held-out accuracy, where an NNI trial is listening."""
        if nni.get_current_parameter() is not None:
            nni.report_final_result(self._held_out())

    def _held_out(self) -> float:
        metrics = self.trainer.callback_metrics
        # A one-shot search has no validation: its measure is the training accuracy.
        return float(metrics.get("val_top1", metrics.get("train_top1", torch.zeros(()))))


@nni.trace
class Classification(Lightning):
    """Image classification with Lightning: SGD, cosine schedule, label smoothing, mixed precision, EMA.

    Takes plain values only and builds module, trainer and data from them, so that NNI can send it to other processes.
    Give all arguments by keyword.
    """

    def __init__(
        self,
        dataset: str = "digits",
        data: dict[str, Any] | None = None,
        stage: Literal["search", "retrain"] = "retrain",
        epochs: int = 10,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        weight_decay: float = 4e-5,
        label_smoothing: float = 0.0,
        gradient_clip: float | None = None,
        ema: float | None = None,
        channels_last: bool = True,
        device: str = "auto",
        precision: Literal["32", "bf16", "16"] = "32",
        checkpoints: str | None = None,
    ) -> None:
        """Describe the training; data are read when it starts.

        Args:
            dataset: registered name or `module:Class` of a data set.
            data: its options, see `nasbench.data.base.ImageData`.
            stage: `search` splits the training images into train and meta, `retrain` into train and held out.
            epochs: passes over the training images.
            learning_rate: ζ, at the start of the cosine schedule.
            momentum: of SGD.
            weight_decay: L2 penalty of all weights θ.
            label_smoothing: share of the target spread over all classes, 0–1.
            gradient_clip: largest norm of the gradient, none where `None`.
            ema: decay of an exponential moving average of the weights; used in retraining only.
            channels_last: memory layout of weights and images; faster on most devices.
            device: `auto`, `cpu`, `cuda` or `cuda:N`.
            precision: `32`, `bf16` or `16` (mixed; 16 for retraining only).
            checkpoints: folder for `last.ckpt` and `best.ckpt` (on held-out images); none are written where `None`.

        Raises:
            OptionError: a value is out of range, or the device does not exist.
        """
        check_range("epochs", epochs, ge=1)
        check_range("learning_rate", learning_rate, gt=0)
        check_range("momentum", momentum, ge=0, lt=1)
        check_range("weight_decay", weight_decay, ge=0)
        check_range("label_smoothing", label_smoothing, ge=0, lt=1)
        if gradient_clip is not None:
            check_range("gradient_clip", gradient_clip, gt=0)
        if ema is not None:
            check_range("ema", ema, gt=0, lt=1)
        if precision not in PRECISIONS:
            raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
        if precision == "16" and stage == "search":
            raise OptionError(
                "precision 16 needs loss scaling, which the search's own gradient steps lack: use bf16 or 32"
            )
        self.stage, self.epochs, self.checkpoints = stage, epochs, checkpoints
        self._optimisation = {
            "learning_rate": learning_rate,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "label_smoothing": label_smoothing,
            "gradient_clip": gradient_clip,
            "channels_last": channels_last,
        }
        self._ema = ema if stage == "retrain" else None
        self._hardware = {"precision": PRECISIONS[precision], **_accelerator(device)}
        self._callbacks: list[Callback] = []
        self._used = False
        datamodule = registry.build("dataset", dataset, {**(data or {}), "stage": stage})
        datamodule.setup()
        super().__init__(self._module(datamodule.num_classes), self._trainer(), datamodule=datamodule)

    def observe(self, callbacks: Sequence[Callback]) -> None:
        """Let callbacks watch this and every later fit."""
        self._callbacks.extend(callbacks)
        self.trainer.callbacks.extend(callbacks)

    def evaluate(self, model: nn.Module) -> Any:
        """Train a network. Every call has a new optimiser, schedule and trainer.

        Args:
            model: (N, 3, H, W) → (N, classes).
        """
        if self._used:  # a Lightning trainer that has reached its last epoch trains nothing more
            self.module = self._module(self.datamodule.num_classes)
            self.trainer = self._trainer()
        self._used = True
        return super().evaluate(model)

    def test(self) -> dict[str, float | None]:
        """Measure the network that was trained last on the test images.

        Returns:
            `top1`, `top5` (fractions; `None` with under five classes) and `loss`.
        """
        (values,) = self.trainer.test(self.module, datamodule=self.datamodule, verbose=False)
        return {"top1": values["test_top1"], "top5": values.get("test_top5"), "loss": values["test_loss"]}

    def _module(self, num_classes: int) -> ClassificationModule:
        return ClassificationModule(num_classes, **self._optimisation)  # type: ignore[arg-type]

    def _trainer(self) -> Any:
        callbacks = list(self._callbacks)
        if self._ema is not None:
            callbacks.append(EMAWeightAveraging(decay=self._ema))
        if self.checkpoints is not None:
            monitor = {"monitor": "val_top1", "mode": "max", "filename": "best"} if self.stage == "retrain" else {}
            folder = Path(self.checkpoints)
            callbacks.append(ModelCheckpoint(folder, save_last=True, save_top_k=len(monitor) and 1, **monitor))  # type: ignore[arg-type]
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


def _accelerator(device: str) -> dict[str, Any]:
    kind, _, index = device.partition(":")
    if device in ("auto", "cpu"):
        return {"accelerator": device, "devices": 1}
    if kind != "cuda" or not (not index or index.isdigit()):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"device {device!r}: {torch.cuda.device_count()} CUDA device(s) found; use --device cpu or auto"
        )
    return {"accelerator": "gpu", "devices": [int(index or 0)]}
