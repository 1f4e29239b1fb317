import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import Any

from nasbench.benchmarks import interleave, summarised

ONE_STEP = ("--train-images", "80", "--epochs", "2")  # an epoch has one batch of 64


def run(repetitions: int = 7) -> dict[str, Any]:
    """Seconds of `nasbench --help`, `nasbench list`, and of a search on digits until one step of it is shown.

    Each in a process of its own.
    """

    def answer(argument: str) -> None:
        subprocess.run([sys.executable, "-m", "nasbench", argument], capture_output=True, check=True)

    def first_step() -> None:
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-u", "-m", "nasbench", "run", *ONE_STEP, "--out", folder]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
                if not any(line.startswith("search") for line in process.stdout or ()):
                    raise RuntimeError(f"{' '.join(command)} showed no step")
                process.kill()

    contenders = {"help": lambda: answer("--help"), "list": lambda: answer("list"), "first_step": first_step}
    seconds = {name: [t / 1e3 for t in times] for name, times in interleave(contenders, repetitions).items()}
    return {**summarised(seconds, "s"), "goals": {"first_step_s": "≤ 6 s"}}
