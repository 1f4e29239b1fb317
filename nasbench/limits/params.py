"""Parameters, trainable or not."""

from collections.abc import Sequence

from nasbench.limits.kind import Call, Measured, exact

UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
RUNTIME, PACKAGES, TOLERANCE, JOIN = "", (), 0.0, sum


def measure(calls: Sequence[Call]) -> list[Measured]:
    """See `Kind`."""
    return [exact(sum(p.numel() for p in call.module.parameters())) for call in calls]
