import subprocess
import sys
from typing import Any

from nasbench.benchmarks import interleave, summarised


def run(repetitions: int = 7) -> dict[str, Any]:
    """Seconds of `nasbench --help` and `nasbench list`, each in a process of its own."""

    def answer(argument: str) -> None:
        subprocess.run([sys.executable, "-m", "nasbench", argument], capture_output=True, check=True)

    contenders = {"help": lambda: answer("--help"), "list": lambda: answer("list")}
    seconds = {name: [t / 1e3 for t in times] for name, times in interleave(contenders, repetitions).items()}
    return summarised(seconds, "s")
