import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import nni.nas.strategy  # noqa: F401  (before nni.nas.oneshot, which imports it in a circle)
import torch
from nni.nas.oneshot.pytorch.base_lightning import BaseOneShotLightningModule
from nni.nas.oneshot.pytorch.sampling import EnasLightningModule, RandomSamplingLightningModule
from nni.nas.oneshot.pytorch.supermodule.differentiable import GumbelSoftmax
from pytorch_lightning import Callback

from nasbench.progress import Display
from nasbench.record import METRICS, SEARCH, Record
from nasbench.strategies.supernet import DifferentiableModule

SNAPSHOTS = 200  # rows of search.csv a candidate, over a whole search
KEPT = ("_metrics", "_search", "_steps", "_fits", "_fixed", "_last_snapshot", "_loss")  # in a checkpoint

Report = Callable[[Mapping[str, float]], None]


def probabilities(module: Any) -> dict[str, dict[Any, float]]:
    """π = softmax(α) of a one-shot search, ours or NNI's, by label and candidate; empty where there is no π.

    No draw enters: GumbelDARTS mixes its candidates by random weights, and NNI reads π through them. RandomOneShot has
    no π; ENAS has a controller, whose next choice depends on the ones that it has drawn before.
    """
    sampling = (EnasLightningModule, RandomSamplingLightningModule)
    if not isinstance(module, BaseOneShotLightningModule) or isinstance(module, sampling):
        return {}
    drawing = [m for m in module.modules() if isinstance(m, GumbelSoftmax)]
    for softmax in drawing:
        softmax.forward = partial(torch.softmax, dim=softmax.dim)
    try:
        return {str(label): distribution for label, distribution in module.export_probs().items()}
    finally:
        for softmax in drawing:
            del softmax.forward  # the class's own again


class Watcher(Callback):
    """Follows `stage` of a run: writes to `record`, shows on `display`, tells `report` the measures of every epoch."""

    def __init__(self, stage: str, record: Record, display: Display, report: Report | None = None) -> None:
        self._name, self._record, self._display, self._report = stage, record, display, report
        rows = record.curves(METRICS)
        # A stage that is repeated after an interruption starts its curves anew.
        self._metrics: list[tuple[Any, ...]] = [tuple(r.values()) for r in rows if r["stage"] != stage]
        self._search: list[tuple[Any, ...]] = []
        self._steps = self._fits = self._fixed = 0
        self._last_snapshot = -1
        self._loss: Any = None

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curves of an earlier process."""
        vars(self).update(state_dict)
        self._metrics, self._search = ([tuple(row) for row in rows] for rows in (self._metrics, self._search))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Announce the stage."""
        goes_on = trainer.current_epoch > 0
        if not goes_on:
            self._fits += 1
            self._steps, self._last_snapshot = 0, -1
        total = int(trainer.num_training_batches) * int(trainer.max_epochs)
        self._interval = max(1, total // SNAPSHOTS)
        name = self._name if self._fits == 1 else f"{self._name} #{self._fits}"
        self._display.stage(name, int(trainer.max_epochs), total, trainer.current_epoch)
        if goes_on:
            self._display.say(f"{name} goes on after epoch {trainer.current_epoch}")
            return
        if isinstance(pl_module, DifferentiableModule):
            warm_up = int(trainer.num_training_batches) * pl_module.strategy.warmup_epochs
            warning = pl_module.outlook(total - warm_up)
            if warning:
                self._display.say(f"warning: {warning}")
        self._snapshot(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the step; keep π now and then, and whenever a layer is fixed."""
        self._steps += 1
        loss = outputs["loss"] if isinstance(outputs, dict) and "loss" in outputs else outputs
        if isinstance(loss, torch.Tensor):
            # A running mean on the device: reading the value every step would stall it.
            self._loss = loss.detach() if self._loss is None else self._loss.lerp(loss.detach(), 0.1)
        fixed = len(pl_module.fixed) if isinstance(pl_module, DifferentiableModule) else 0
        if fixed != self._fixed or self._steps % self._interval == 0:
            self._fixed = fixed
            self._snapshot(pl_module)
        if self._steps % 5 == 0 and self._display.console.is_terminal:
            self._display.step(trainer.current_epoch + 1, self._steps, self._facts(trainer, pl_module))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the curves."""
        epoch = trainer.current_epoch + 1
        measures = self._measures(trainer, pl_module)
        for name, value in {**trainer.callback_metrics, **measures}.items():
            # NNI logs every π here too; search.csv has them.
            if name != "default" and not name.startswith("prob/"):
                self._metrics.append((self._name, epoch, self._steps, name, repr(round(float(value), 6))))
        self._write()
        self._display.epoch(epoch, self._facts(trainer, pl_module))
        if self._report is not None:
            self._report(measures)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Write what is left."""
        self._snapshot(pl_module)
        self._write()
        self._display.end()

    def _facts(self, trainer: Any, pl_module: Any) -> str:
        facts = [] if self._loss is None else [f"loss {float(self._loss):.3f}"]
        metrics = trainer.callback_metrics
        for key, text in (("train_top1", "train"), ("val_top1", "held out")):
            if key in metrics:
                facts.append(f"{text} {100 * float(metrics[key]):.1f} %")
        if isinstance(pl_module, DifferentiableModule):
            facts.append(f"fixed {len(pl_module.fixed)}/{len(pl_module.alphas)}")
        return "  ".join(facts)

    def _measures(self, trainer: Any, pl_module: Any) -> dict[str, float]:
        """Accuracy (held out; a supernet's: training), and the layers' mean −Σ π ln π in nats, 0 where one is fixed."""
        metrics = trainer.callback_metrics
        accuracy = metrics.get("val_top1", metrics.get("train_top1"))
        measures = {"default": 0.0 if accuracy is None else float(accuracy)}
        found = probabilities(pl_module)
        if found:
            fixed = pl_module.fixed if isinstance(pl_module, DifferentiableModule) else {}
            open_layers = [pi.values() for label, pi in found.items() if label not in fixed]
            entropy = sum(-p * math.log(p) for pi in open_layers for p in pi if p > 0)
            measures |= {"fixed_layers": len(fixed), "entropy": entropy / len(found)}
        return measures

    def _snapshot(self, pl_module: Any) -> None:
        if self._last_snapshot == self._steps:
            return
        self._last_snapshot = self._steps
        decided = pl_module.fixed if isinstance(pl_module, DifferentiableModule) else {}
        for label, distribution in probabilities(pl_module).items():
            fixed = int(label in decided)
            for candidate, pi in distribution.items():
                self._search.append((self._steps, label, candidate, f"{pi:.6g}", fixed))

    def _write(self) -> None:
        self._record.write_csv(METRICS, self._metrics)
        if self._search:
            self._record.write_csv(SEARCH, self._search)
