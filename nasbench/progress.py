"""Live progress on the terminal, and one line an epoch where there is none."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Display:
    """Shows stage, epoch, loss, accuracy, how many layers are fixed, and the time left. Writes to stderr only."""

    def __init__(self, console: Console | None = None, verbose: bool = False) -> None:
        """Write to `console`, by default stderr; `verbose` asks for what the libraries log, too."""
        self.verbose = verbose
        self.console = console or Console(stderr=True, highlight=False)
        self._live = Progress(
            TextColumn("[bold]{task.description:<8}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Display:
        """Start drawing."""
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop drawing; what was drawn stays."""
        self._live.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, markup=False, soft_wrap=True)

    def stage(self, name: str, epochs: int, steps: int, before: int = 0) -> None:
        """Begin a stage of `epochs` epochs and `steps` steps in all, or go on with it after the epochs `before`."""
        self._stage, self._epochs, self._started, self._before = name, epochs, time.perf_counter(), before
        if self.console.is_terminal:
            self._task = self._live.add_task(name, total=steps, facts="")

    def step(self, epoch: int, step: int, facts: str) -> None:
        """Show the state after a step (`epoch` from 1, `step` in all)."""
        if self._task is not None:
            self._live.update(self._task, completed=step, facts=f"epoch {epoch}/{self._epochs}  {facts}")

    def epoch(self, epoch: int, facts: str) -> None:
        """Report a finished epoch (from 1)."""
        if not self.console.is_terminal:
            seconds = time.perf_counter() - self._started
            left = seconds / (epoch - self._before) * (self._epochs - epoch)
            self.say(f"{self._stage:<7} epoch {epoch}/{self._epochs}  {facts}  {left:.0f} s left at most")

    def end(self) -> None:
        """End the stage."""
        if self._task is not None:
            self._live.update(self._task, total=self._live.tasks[-1].completed)
            self._task = None
