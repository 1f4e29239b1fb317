"""How the time of a supernet's step, of a search and of a sweep grows with what makes them larger.

`OMP_NUM_THREADS=1 python experiments/growth.py 2` measures so many interleaved rounds (ten minutes), keeps the medians
in growth.csv and draws docs/images/growth.png; with 0 rounds it draws what was kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.axes import Axes
from torch.nn import functional as F

import nasbench
from nasbench.files import write_atomic
from nasbench.memory import freed_memory_kept
from nasbench.results.style import PAGE, encode, new_figure, panels_of
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.strategies.pmpl import PMPL

KEPT = Path(__file__).with_suffix(".csv")
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "growth.png"
ORDER = ("none", "avg3", "avg5", "avg7", "max3", "max5", "max7", "global", "se", "coord", "cbam", "gated", "blur")
SIDE = "side of the images (px)"
STEPS: dict[str, tuple[float, ...]] = {
    "candidates": (2, 3, 5, 7, 8, 9, 10, 11, 12, 13),
    SIDE: (32, 64, 96, 128, 160, 192, 224),
    "width": (0.25, 0.5, 0.75, 1.0, 1.4),
    "batch": (8, 16, 32, 64, 128),
}
USUAL = {"candidates": 8, SIDE: 96, "width": 0.5, "batch": 16}
SEARCHES, SWEEPS = "images of a search", "runs at a time"
VALUES: dict[str, tuple[float, ...]] = {**STEPS, SEARCHES: (240, 480, 720, 960, 1200), SWEEPS: (1, 2, 4)}
# What has no reason to be straight: the candidates differ, and cores are few.
CROOKED = {"candidates": "up to 8 fused", SWEEPS: f"{os.cpu_count()} cores"}
UNITS = {SEARCHES: "seconds", SWEEPS: "runs a minute"}
RUNS = 4  # of a sweep
TINY = {"dataset": "digits", "architecture": "none", "space_options": {"width": 0.25}, "train_images": 400}


def time_step(candidates: float, side: float, width: float, batch: float) -> float:
    """Milliseconds of a supernet's forward and backward pass in training mode, the mean of three."""
    torch.manual_seed(0)
    names = list(ORDER[: int(candidates)])
    # With their own strides small images would have larger maps than some larger ones.
    space = MobileNetV2MetaPooling(
        num_classes=10, image_size=int(side), width=width, candidates=names, strides="original"
    )
    network = PMPL().mutate_model(space).to(memory_format=torch.channels_last).train()
    images = torch.randn(int(batch), 3, int(side), int(side)).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (int(batch),))
    with freed_memory_kept():
        for repetition in range(4):
            if repetition == 1:
                start = perf_counter()
            network.zero_grad()
            F.cross_entropy(network(images), labels).backward()
    return 1e3 * (perf_counter() - start) / 3


def time_search(images: float) -> float:
    """Seconds of PMPL's search on so many images of digits, three epochs."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        settings = {"train_images": int(images), "epochs": 3, "retrain_epochs": 1, "device": "cpu"}
        return nasbench.run(out=out, dataset="digits", preset="quick", **settings).result.search_seconds


def rate_of_sweep(at_a_time: float) -> float:
    """Runs a minute of a sweep, from the command to its end."""
    with TemporaryDirectory() as folder:
        sweep = Path(folder) / "sweep.yaml"
        settings = {"name": "growth", "base": {**TINY, "preset": "quick"}, "grid": {"seed": list(range(RUNS))}}
        sweep.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command = [sys.executable, "-m", "nasbench", "sweep", str(sweep), "--concurrency", str(int(at_a_time))]
        start = perf_counter()
        subprocess.run([*command, "--out", str(Path(folder) / "out")], check=True, capture_output=True)
        return 60 * RUNS / (perf_counter() - start)


def measurements() -> Iterator[tuple[str, float, Callable[[], float]]]:
    """What grows, its value, and what measures it there."""
    for what, values in VALUES.items():
        for value in values:
            if what in STEPS:
                setting = {**USUAL, what: value, **({"batch": 8} if what == SIDE else {})}
                yield what, value, partial(time_step, *setting.values())
            else:
                yield what, value, partial(time_search if what == SEARCHES else rate_of_sweep, value)


def measure(rounds: int) -> None:
    """Keep the median of each measurement, and all of its rounds."""
    found: dict[tuple[str, float], list[float]] = {}
    for _ in range(rounds):
        for what, value, function in measurements():
            found.setdefault((what, value), []).append(function())
            print(what, value, round(found[what, value][-1], 2), flush=True)
    rows = [
        {"what": what, "value": value, "median": np.median(times), "rounds": " ".join(f"{t:.4g}" for t in times)}
        for (what, value), times in found.items()
    ]
    write_atomic(KEPT, pd.DataFrame(rows).to_csv(index=False, float_format="%.5g").encode())


def draw(axes: Axes, what: str, values: np.ndarray, times: np.ndarray) -> str:
    """One panel: what was measured, and the straight line that is nearest to it; returns how near."""
    across = values**2 if what == SIDE else values
    axes.plot(across, times, "o", color="black", markersize=3)
    said = CROOKED.get(what, "")
    if not said:
        slope, offset = np.polyfit(across, times, 1)
        away = np.abs(times / (slope * across + offset) - 1).max()
        axes.plot(across, slope * across + offset, color="#0072B2", linewidth=1)
        said = f"within {100 * away:.0f} % of a line"
    shown = [0]
    for i in range(1, len(across)):
        if across[i] - across[shown[-1]] > 0.21 * np.ptp(across):
            shown.append(i)
    square = "²" if what == SIDE else ""
    axes.set_xticks(across[shown], [f"{values[i]:g}{square}" for i in shown])
    axes.set_xlabel(what)
    axes.set_ylabel(UNITS.get(what, "ms a step"))
    axes.set_ylim(bottom=0)
    axes.set_title(said, fontsize=7)
    return f"{what}: {said}"


def main() -> None:
    """Measure, and draw."""
    if rounds := int(sys.argv[1]):
        measure(rounds)
    kept = pd.read_csv(KEPT)
    figure = new_figure(PAGE, 3.8)
    panels = panels_of(figure, len(VALUES), 3)
    for axes, (what, rows) in zip(panels, kept.groupby("what", sort=False), strict=True):
        print(draw(axes, str(what), rows["value"].to_numpy(), rows["median"].to_numpy()))
    write_atomic(PICTURE, encode(figure, "png"))


if __name__ == "__main__":
    main()
