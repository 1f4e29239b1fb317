"""How long the command line takes to answer."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from typing import Any

from nasbench.benchmarks import interleave, spread


def run(repetitions: int = 7) -> dict[str, Any]:
    """Time `nasbench --help` and `nasbench list`, each in a process of its own.

    Returns medians in seconds (`help_s`, `list_s`) and `spread`: quartiles by command.
    """

    def answer(argument: str) -> None:
        subprocess.run([sys.executable, "-m", "nasbench", argument], capture_output=True, check=True)

    contenders = {"help": lambda: answer("--help"), "list": lambda: answer("list")}
    seconds = {name: [t / 1e3 for t in times] for name, times in interleave(contenders, repetitions).items()}
    return {
        **{f"{name}_s": median(values) for name, values in seconds.items()},
        "spread": {name: spread(values) for name, values in seconds.items()},
    }
