"""Searches for the tests of several processes: `python -m tests.ranks OUT SCENARIO …` is one process of two."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import nni.nas.strategy  # noqa: F401  (before nni.nas.oneshot)
import torch
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning import seed_everything
from torch import Tensor, nn

from nasbench.data.arrays import Digits
from nasbench.data.base import Augmentation
from nasbench.evaluators import classification
from nasbench.spaces.operations.enhancers import enhancer
from nasbench.strategies.darts import DARTS, DartsModule
from nasbench.strategies.pmpl import PMPL, ProgressiveModule

BATCH = 16
STEPS = 20


class Still(Digits):
    """Digits that are never shifted: the same images in any process."""

    augmentation = Augmentation()


class Plain(ModelSpace):
    """Two choices, and no batch statistics unless asked for."""

    def __init__(self, num_classes: int = 10, batch_norm: bool = False) -> None:
        super().__init__()
        candidates = ["none", "avg3", "max3", "avg5", "global"] if batch_norm else ["none", "avg3", "max3", "avg5"]
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = LayerChoice({n: enhancer(n, 6) for n in candidates}, label="layer1.enhancer")
        self.middle = nn.Conv2d(6, 6, 3, 2, padding=1)
        self.second = LayerChoice({n: enhancer(n, 6) for n in candidates}, label="layer2.enhancer")
        self.norm: nn.Module = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.head = nn.Linear(6 * 16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(self.stem(x.to(self.head.weight.dtype))))
        return self.head(torch.relu(self.norm(self.second(self.middle(x)))).flatten(1))


class Noting:
    """Notes which images a process sees."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: dict[str, list[str]] = {"train": [], "val": []}
        self.pushed = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        for part, notes in self.seen.items():
            notes.extend(hashlib.md5(image.numpy().tobytes()).hexdigest() for image in batch[part][0])
        return super().training_step(batch, batch_idx)  # type: ignore[misc]


class Skewed:
    """In the second process α is pushed to its last candidate before every step, and so is its gradient."""

    def architecture_gradient(self, train: Any, meta: Any, alphas: Any) -> Any:
        gradients = super().architecture_gradient(train, meta, alphas)  # type: ignore[misc]
        if self.trainer.global_rank > 0:  # type: ignore[attr-defined]
            with torch.no_grad():
                for alpha in alphas:
                    alpha[-1] += 3.0
            self.pushed += 1  # type: ignore[attr-defined]
        return gradients


SCENARIOS: dict[str, tuple[Any, type, dict[str, Any]]] = {
    "pmpl": (lambda: PMPL(eta=0.05, rho=0.99), ProgressiveModule, {}),
    "fixing": (lambda: PMPL(eta=0.05, rho=0.1), ProgressiveModule, {}),
    "evidence": (lambda: PMPL(eta=0.05, fixing="evidence", delta=0.9), ProgressiveModule, {}),
    "darts1": (lambda: DARTS(eta=0.02), DartsModule, {}),
    "darts2": (lambda: DARTS(eta=0.02, order=2), DartsModule, {}),
    "batch_norm": (lambda: PMPL(eta=0.05, rho=0.1), ProgressiveModule, {"batch_norm": True}),
    "skewed_pmpl": (lambda: PMPL(eta=0.05, rho=0.1), ProgressiveModule, {}),
    "skewed_darts": (lambda: DARTS(eta=0.02), DartsModule, {}),
}


def search(scenario: str, devices: int) -> dict[str, Any]:
    """Search in float64 on a few digits; `devices` 2 takes part as the process that LOCAL_RANK tells."""
    make, base, options = SCENARIOS[scenario]
    mixins = (Noting, Skewed, base) if scenario.startswith("skewed") else (Noting, base)
    seed_everything(0, verbose=False)
    strategy = make()
    strategy.module_class = type("Module", mixins, {})
    space = Plain(**options)
    precisions, classification.PRECISIONS = classification.PRECISIONS, {"32": "64-true"}
    try:
        # 80 training and 80 meta images are five full batches an epoch; evidence takes more.
        epochs, images = (1, 1280) if scenario == "evidence" else (STEPS // 5, 160)
        evaluator = classification.Classification(
            dataset="tests.ranks:Still",
            data={"image_size": 8, "train_images": images, "batch_size": BATCH, "meta_fraction": 0.5},
            stage="search",
            epochs=epochs,
            learning_rate=0.05,
            device="cpu",
            devices=devices,
        )
    finally:
        classification.PRECISIONS = precisions
    strategy(RawFormatModelSpace.from_model(space, evaluator), SequentialExecutionEngine())
    module = strategy.oneshot_module
    return {
        "steps": module.steps,
        "alphas": {label: alpha.tolist() for label, alpha in module.alphas.items()},
        "weights": {n: p.sum().item() for n, p in module.named_parameters() if p.requires_grad},
        "architecture": {str(k): v for k, v in module.export().items()},
        "fixed": module.fixed,
        "decisions": {label: [d["step"], d["by"]] for label, d in module.decisions.items()},
        "excluded": {k: {name: out["step"] for name, out in v.items()} for k, v in module.evidence.excluded.items()},
        "seen": module.seen,
        "pushed": module.pushed,
    }


class Lonely(classification.Classification):  # type: ignore[misc]
    """An evaluator that knows of one process only."""

    def __init__(self, stage: str = "retrain") -> None:
        super().__init__(stage=stage)


class Failing(ModelSpace):
    """One choice; FAILING (rank → how, in JSON) says which processes fail in their third forward pass."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer = LayerChoice({n: enhancer(n, 8) for n in ("none", "avg3")}, label="layer.enhancer")
        self.head = nn.Linear(8, num_classes)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        if self.passes == 3:
            how = json.loads(os.environ["FAILING"]).get(os.environ["LOCAL_RANK"])
            if how == "raise":
                raise ValueError("lost power")
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if how == "hang":
                Path(os.environ["HANGING"]).touch()
                time.sleep(1000)
        return self.head(self.layer(self.stem(x)).mean((2, 3)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_text(json.dumps({name: search(name, devices=2) for name in sys.argv[2:]}))
