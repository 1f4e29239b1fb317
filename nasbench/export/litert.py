"""LiteRT (TensorFlow Lite), for Android: one image at a time. The card is attached.

litert-torch 0.10 asks for a torch under 2.15, and works with 2.15 if installed without what it asks for, by `INSTALL`.
"""

from pathlib import Path

import torch
from torch import Tensor

from nasbench.export.attached import describe, described
from nasbench.export.card import Card
from nasbench.export.format import Deployed, Runnable

SUFFIX = ".tflite"
PACKAGES = ("ai_edge_litert", "litert_torch", "litert_converter", "ai_edge_quantizer", "jax", "torchao")
INSTALL = (
    'pip install "nasbench[litert]" && '
    "pip install --no-deps litert-torch==0.10.0 litert-converter==0.5.0 ai-edge-quantizer==0.10.0"
)
RUNS_CODE = False


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    import litert_torch

    litert_torch.convert(network, (example[:1],)).export(str(path))
    describe(card, path)


def read(path: Path) -> Runnable:
    """See `Format`."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (source,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()

    def logits(images: Tensor) -> Tensor:
        found = []
        for image in images:
            interpreter.set_tensor(source["index"], image[None].numpy())
            interpreter.invoke()
            found.append(torch.from_numpy(interpreter.get_tensor(output["index"])))  # a copy
        return torch.cat(found)

    return Runnable(described(path), logits)
