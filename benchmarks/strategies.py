from collections.abc import Callable
from functools import partial
from typing import Any

import nni
import torch
from nni.nas.evaluator import FunctionalEvaluator
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import SimplifiedModelSpace
from torch import nn

from nasbench import registry
from nasbench.answered import Answers, Lookup
from nasbench.architecture import choices, instantiate, resolve
from nasbench.benchmarks import interleave, summarised
from nasbench.quiet import quiet_libraries
from nasbench.scores import scored
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.spaces.nasbench_macro import NasBenchMacro

TRIALS = 100  # networks that each search asks about
BATCH, SIZE, WIDTH = 64, 32, 0.25


def _space() -> MobileNetV2MetaPooling:
    return MobileNetV2MetaPooling(num_classes=10, image_size=SIZE, width=WIDTH)


def _known(network: nn.Module) -> None:
    nni.report_final_result(0.5)


def _search(space: Any, engine: Callable[[], Any]) -> None:
    with quiet_libraries():
        registry.build("strategy", "random", {"trials": TRIALS}, seed=0)(space, engine())


def run(repetitions: int = 7) -> dict[str, Any]:
    """Milliseconds of what searches do that train nothing themselves.

    `tabular` is a random search of 100 networks whose accuracies are at hand, `nni_tabular` the same by NNI's engine,
    which builds each of them; `derived` builds one network (MobileNetV2 with width 0.25 at 32 px), and `naswot` builds
    it and scores it with 64 images.
    """
    macro = NasBenchMacro()
    answers, networks = Answers.of(choices(macro)), SimplifiedModelSpace.from_model(macro, FunctionalEvaluator(_known))
    images, labels = torch.randn(BATCH, 3, SIZE, SIZE), torch.randint(0, 10, (BATCH,))
    network = partial(instantiate, _space, resolve(_space(), "random:0"))
    contenders: dict[str, Callable[[], object]] = {
        "tabular": lambda: _search(answers, lambda: Lookup(lambda architecture: 0.5, TRIALS)),
        "nni_tabular": lambda: _search(networks, lambda: SequentialExecutionEngine(max_model_count=TRIALS)),
        "derived": network,
        "naswot": lambda: scored("naswot", network, images, labels),
    }
    found = summarised(interleave(contenders, repetitions), "ms")
    goals = {"tabular_ms": "≤ 2 ms", "derived_ms": "≤ 20 ms", "naswot_ms": "≤ 50 ms"}
    return {**found, "speedup_nni": found["nni_tabular_ms"] / found["tabular_ms"], "goals": goals}
