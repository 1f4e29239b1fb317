"""Multiply-adds of convolutions and matrix products for one image, as `nasbench.profile` counts them."""

from collections.abc import Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from nasbench.limits.kind import Call, Measured, exact

UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
RUNTIME, PACKAGES, TOLERANCE, JOIN = "", (), 0.0, sum


def measure(calls: Sequence[Call]) -> list[Measured]:
    """See `Kind`."""
    found = []
    for call in calls:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call.module(*call.inputs)
        found.append(exact(counter.get_total_flops() // 2))
    return found
