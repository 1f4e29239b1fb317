"""What another busy process costs a training, by how long PyTorch's threads spin while they wait for each other.

`python experiments/crowded.py 3` does so many interleaved rounds, half of each with a busy loop beside, and prints
the median milliseconds of a step: MobileNetV2 0.25, 32 images of 64 px. A round takes a minute and a half.
"""

from __future__ import annotations

import os
import subprocess
import sys
from statistics import median
from time import perf_counter

import torch
from torch.nn import functional as F
from torchvision.models import mobilenet_v2

SECONDS = 4
SETTINGS: dict[str, dict[str, str]] = {
    "as it comes": {},
    **{f"GOMP_SPINCOUNT={count}": {"GOMP_SPINCOUNT": count} for count in ("10000", "3000", "1000", "300", "0")},
    "OMP_NUM_THREADS=1": {"OMP_NUM_THREADS": "1"},
}


def child() -> None:
    """Print the milliseconds of a step."""
    torch.manual_seed(0)
    network = mobilenet_v2(num_classes=10, width_mult=0.25).to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (32,))
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()

    for _ in range(3):
        step()
    start, steps = perf_counter(), 0
    while perf_counter() - start < SECONDS:
        step()
        steps += 1
    print(1e3 * (perf_counter() - start) / steps)


def main() -> None:
    """Run all settings in turn, and print a table."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    inherited = {
        k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(rounds):
        for busy in (False, True):
            others = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if busy else []
            for name, values in SETTINGS.items():
                words = [sys.executable, __file__, "--child"]
                done = subprocess.run(words, env=inherited | values, capture_output=True, text=True, check=True)
                found.setdefault((name, busy), []).append(float(done.stdout))
            for other in others:
                other.kill()
                other.wait()
    print("| | alone, ms a step | beside a busy process |\n|---|---|---|")
    for name in SETTINGS:
        print(f"| {name} | {median(found[name, False]):.0f} | {median(found[name, True]):.0f} |")


if __name__ == "__main__":
    child() if "--child" in sys.argv else main()
