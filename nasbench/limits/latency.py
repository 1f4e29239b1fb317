"""Seconds that ONNX Runtime takes for one image on one thread of the CPU."""

import warnings
from collections.abc import Callable, Sequence
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import thread_time
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from nasbench.limits.kind import Call, Measured

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
RUNTIME, PACKAGES, TOLERANCE, JOIN = "onnx", ("onnx", "onnxruntime"), 0.1, sum
ROUNDS, WARM = 50, 2  # timed calls of each, and untimed ones before: caches shall hold its own, and not another's


def measure(calls: Sequence[Call]) -> list[Measured]:
    """See `Kind`. The thread's own time is taken: what else the machine does at the time does not count."""
    sessions = [_session(call) for call in calls]
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for session, found in zip(sessions, times, strict=True):
            for _ in range(WARM):
                session()
            start = thread_time()
            session()
            found.append(thread_time() - start)
    spread = (quantiles(found, n=4, method="inclusive") for found in times)
    return [Measured(median, low, high) for low, median, high in spread]


def _session(call: Call) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        # The exporter of `nasbench export` takes ten times as long; what it writes is equally fast.
        warnings.simplefilter("ignore")
        torch.onnx.export(call.module, call.inputs, f"{folder}/net.onnx", dynamo=False)
        session = onnxruntime.InferenceSession(f"{folder}/net.onnx", options, providers=["CPUExecutionProvider"])
    given = {e.name: v.numpy() for e, v in zip(session.get_inputs(), tree_leaves(call.inputs), strict=False)}
    return lambda: session.run(None, given)
