"""What Lightning's learning-rate finder suggests for digits: why there is no option for it (docs/decisions.md)."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

from pytorch_lightning import seed_everything
from pytorch_lightning.tuner import Tuner

from nasbench.architecture import resolve
from nasbench.facts import DataFacts
from nasbench.networks import build_space, derived
from nasbench.pipeline import build_evaluator
from nasbench.presets import resolve_config
from nasbench.quiet import quiet_libraries, silence


def suggested(preset: str) -> tuple[float, float]:
    """The finder's rate, and the preset's own."""
    config = resolve_config({"dataset": "digits", "preset": preset, "architecture": "none"})
    with TemporaryDirectory() as folder, quiet_libraries(), silence():
        os.chdir(folder)
        evaluator = build_evaluator(config, "retrain")
        data = evaluator.datamodule
        space = build_space(config, data.num_classes, data.image_size)
        seed_everything(config.seed, workers=True, verbose=False)
        facts = DataFacts.model_validate(data.description())
        evaluator.module.set_model(derived(config, resolve(space, "none"), facts))
        found = Tuner(evaluator.trainer).lr_find(evaluator.module, datamodule=data)
    assert found is not None
    return float(found.suggestion() or 0), config.evaluator_options["learning_rate"]


for preset in ("quick", "finetune"):
    print("{}: suggested {:.0e}, the preset has {:g}".format(preset, *suggested(preset)))
