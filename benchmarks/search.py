"""The step of a whole search by evidence, from which candidates leave, beside the plain network's."""

import sys
from statistics import mean
from time import perf_counter
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch.nn import functional as F

from nasbench.architecture import instantiate, resolve
from nasbench.benchmarks import summarised
from nasbench.memory import freed_memory_kept
from nasbench.networks import build_space
from nasbench.pipeline import prepare
from nasbench.presets import resolve_config
from nasbench.quiet import silence

GOALS = {"over_plain": "≤ 1.4×"}


class _Beside(Callback):
    """Times every step of a search, and after it one of the plain network on the same images."""

    def __init__(self, plain: torch.nn.Module) -> None:
        self.plain, self.passes = plain, 0
        self.times: dict[str, list[float]] = {"search": [], "plain": []}

    def on_train_batch_start(self, trainer: Trainer, module: Any, *of_batch: Any) -> None:
        # A step with open layers after the warm-up goes through the supernet three times, else once.
        searching = trainer.current_epoch >= module.strategy.warmup_epochs and module.open_alphas()
        self.passes += 3 if searching else 1
        self._begun = perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        images, labels = batch["train"]
        ended = perf_counter()
        self.plain.zero_grad()
        F.cross_entropy(self.plain(images), labels).backward()
        self.times["plain"].append(1e3 * (perf_counter() - ended))
        self.times["search"].append(1e3 * (ended - self._begun))


def run(repetitions: int = 1, **settings: Any) -> dict[str, Any]:
    """Milliseconds of a step of one `quick` search by PMPL, or that of other settings, and of the plain network's.

    `over_plain` compares a pass (forward + backward) of the supernet, on average over the whole search, SGD's step
    and all else of it included, with a pass of the plain network on the same images; it took turns with the search.
    One search, however many repetitions.
    """
    with silence(), freed_memory_kept():
        config = resolve_config({"dataset": "digits", "preset": "quick", "strategy": "pmpl", **settings})
        search: Any = prepare(config)
        classes, size = search.evaluator.datamodule.num_classes, search.image_size
        plain = instantiate(lambda: build_space(config, classes, size), resolve(search.space, "none"))
        beside = _Beside(plain.to(memory_format=torch.channels_last).train())
        search.evaluator.observe([beside])
        search.strategy.run()
    found, steps = beside.times, len(beside.times["plain"])
    over = sum(found["search"]) / beside.passes / mean(found["plain"])
    return {"steps": steps, "passes": beside.passes, **summarised(found, "ms"), "over_plain": over, "goals": GOALS}


if __name__ == "__main__":  # Fashion-MNIST, as in docs/performance.md
    given: dict[str, Any] = {"data_root": sys.argv[1], "train_images": 10_000, "space_options": {"width": 0.25}}
    print(run(dataset="fashion_mnist", epochs=5, **given))
