"""A table: rows of settings, which `nasbench table kernels --run` trains and compares."""

from __future__ import annotations

from typing import Any

from nasbench.studies.rows import RowSpec, TableSpec

SPACE: dict[str, Any] = {"space": "kernel_sizes", "space_options": {"channels": 8}}

KERNELS = TableSpec(
    "kernels",
    "Kernels and gates of a small network with 8 channels.",
    (
        # The label is what a run of these settings is called (`nasbench show`): by it a row knows its runs.
        *(
            RowSpec(name, title, {**SPACE, "architecture": name}, f"{name} ×8 in kernel_sizes", "small")
            for name, title in (("small", "1×1 everywhere"), ("large", "5×5 everywhere"), ("gated", "1×1 and a gate"))
        ),
        RowSpec(
            "lightest", "lightest of ten", {**SPACE, "strategy": "lightest"}, "lightest ×8 in kernel_sizes", "small"
        ),
    ),
)
