from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from nasbench.benchmarks import interleave, summarised
from nasbench.benchmarks.step import fixed
from nasbench.quiet import quiet_libraries, silence

SIZE = 224
PASSES = 10  # a repetition


def _exported(network: nn.Module, image: Tensor) -> Callable[[], object]:
    """A pass of the network in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3  # errors
    with TemporaryDirectory() as folder, quiet_libraries(), silence():
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (image,), path, input_names=["image"], dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return partial(session.run, None, {"image": image.numpy()})


def run(repetitions: int = 7) -> dict[str, Any]:
    """Milliseconds of one 224×224 image on one thread, width 1.0, without enhancers and with `global` in all blocks.

    Besides, of the same exported to ONNX, where ONNX Runtime is installed. On one thread, since two libraries' threads
    that wait for work get into each other's way.
    """
    image = torch.zeros(1, 3, SIZE, SIZE)
    contenders: dict[str, Callable[[], object]] = {}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for name in ("plain", "global"):
            network = fixed("none" if name == "plain" else name, SIZE).to(memory_format=torch.channels_last).eval()
            contenders[name] = partial(network, image)
            if find_spec("onnxruntime") and find_spec("onnxscript"):
                contenders[f"onnx_{name}"] = _exported(network, image)
        with torch.inference_mode():
            found = summarised(interleave(contenders, PASSES * repetitions), "ms")
    finally:
        torch.set_num_threads(threads)
    over = {
        f"{name}_over_plain": found[f"{name}_ms"] / found[f"{name.replace('global', 'plain')}_ms"]
        for name in contenders
        if name.endswith("global")
    }
    return {**found, **over, "goals": dict.fromkeys(over, "≤ 1.08×")}
