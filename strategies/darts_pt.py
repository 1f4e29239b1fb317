"""DARTS with perturbation-based selection."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from nasbench.contracts import main_logits
from nasbench.distributed import copy_from_first, mean_over_processes
from nasbench.errors import OptionError
from nasbench.options import Fraction, checked
from nasbench.strategies.darts import DARTS, DartsModule
from nasbench.strategies.restored import preserved
from nasbench.strategies.supernet import ABSENT


class PerturbationModule(DartsModule):
    """DARTS's search, in whose last part layers are decided one by one, in random order, while all others train on."""

    strategy: DartsPT

    def after_step(self) -> None:
        """Decide as many layers as are due, evenly over the last part of the search."""
        first = (1 - self.strategy.selection) * self._total
        if self._searched < first:
            return
        done = (self._searched - first + 1) / max(1.0, self._total - first)
        while waiting := [k for k, a in self.alphas.items() if any(a is o for o in self.open_alphas())]:
            if len(self.decisions) >= math.ceil(done * (len(self.decisions) + len(waiting))):
                break
            number = torch.randint(len(waiting), (1,), device=self.device)
            copy_from_first([number])
            self._select(waiting[int(number)])
        self.stop_when_decided()

    def _select(self, label: str) -> None:
        """Fix the candidate without which the network is worst (Wang et al., ICLR 2021, algorithm 1)."""
        alpha, pi, without = self.alphas[label], self.probabilities()[label], {}
        for place, candidate in enumerate(pi):
            with preserved([alpha]):
                with torch.no_grad():
                    alpha[place] = ABSENT
                without[candidate] = self._held_out()
        kept = min(without, key=lambda candidate: without[candidate])
        self.decide(label, "removal", pi)
        for candidate in pi:
            if candidate != kept:
                self.exclude(label, candidate)  # its π may be larger
        self.fix(label, kept)

    def _held_out(self) -> tuple[float, float]:
        """Accuracy of the supernet on the meta images, and minus its loss, which tells equal accuracies apart."""
        data, trainer = self.strategy.data, self.trainer
        total = torch.zeros(3, device=self.device)
        self.model.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in data.training_loader(data.splits()[1], False):
                images, labels = (part.to(self.device) for part in batch)  # not by Lightning, which would augment them
                logits: Tensor = main_logits(self.model(trainer.precision_plugin.convert_input(data.normalise(images))))
                right = (logits.argmax(1) == labels).sum()
                loss = F.cross_entropy(logits.float(), labels, reduction="sum")
                total += torch.stack([right, -loss, total.new_tensor(len(labels))])
        self.model.train()
        correct, gain, count = mean_over_processes([total])[0].tolist()
        return correct / count, gain / count


class DartsPT(DARTS):
    """DARTS that keeps in every layer the candidate whose removal hurts held-out accuracy most, whatever its π.

    The paper decides after the search, and trains between two decisions; here the decisions fall into the last part of
    the search, so that it costs what the others cost beside the passes on held-out images. Source: Wang et al.,
    "Rethinking Architecture Selection in Differentiable NAS", ICLR 2021.
    """

    module_class = PerturbationModule
    rules = ("none",)
    presets: ClassVar = DARTS.presets

    @checked
    def __init__(self, *, selection: Fraction = 0.5, **options: Any) -> None:
        """Set the share of the search, after its warm-up, in which layers are decided, and the options of `DARTS`."""
        super().__init__(**options)
        self.selection = selection
        self.data: Any = None

    def mutate_evaluator(self, evaluator: Any) -> Any:
        """See `Differentiable`; the evaluator's data set must give its held-out images in order."""
        self.data = evaluator.datamodule
        if not hasattr(self.data, "training_loader"):
            raise OptionError("darts_pt needs held-out images in order: a data set that derives from ImageData")
        return super().mutate_evaluator(evaluator)
