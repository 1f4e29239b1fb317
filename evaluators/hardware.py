"""Which processors a training runs on, and how precisely it counts."""

from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from nasbench.errors import OptionError

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed", "64": "64-true"}


def hardware(device: str, devices: int, nodes: int, precision: str) -> dict[str, Any]:
    """What a Lightning trainer is told of processors and numbers. Raises OptionError: there are not as many devices."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not (kind == "cuda" and index.isdigit())):
        raise OptionError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    several = devices * nodes > 1
    if index and several:
        raise OptionError(f"device {device!r} names a single device: give --device cuda to {devices * nodes} processes")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if several and kind == "auto":
        kind = "cuda" if gpus else "cpu"
    if kind == "cuda" and gpus < max(devices, int(index or 0) + 1):
        raise OptionError(
            f"device {device!r}, devices {devices}: {gpus} CUDA device(s) found; use --device cpu or fewer --devices"
            if several
            else f"device {device!r}: {gpus} CUDA device(s) found; use --device cpu or auto"
        )
    accelerator = "gpu" if kind == "cuda" else kind
    found = {"precision": PRECISIONS[precision], "accelerator": accelerator}
    if not several:
        return {**found, "devices": [int(index or 0)] if kind == "cuda" else 1}
    return {
        **found,
        "devices": devices,
        "num_nodes": nodes,
        # Candidates leave the graph in a search, and a stranger's network may skip some of its layers.
        "strategy": "ddp_find_unused_parameters_true",
        # The variables that `nasbench.distributed` sets; a cluster manager's own would be taken otherwise.
        "plugins": [LightningEnvironment()],
    }
