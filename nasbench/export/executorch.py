"""ExecuTorch with XNNPACK, for Android and iOS: one image at a time. The card is attached."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasbench.export.attached import describe, described
from nasbench.export.card import Card
from nasbench.export.format import Deployed, Runnable

SUFFIX = ".pte"
PACKAGES = ("executorch", "torchao")
RUNS_CODE = False


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    _lower(torch.export.export(network, (example[:1],)), path)
    describe(card, path)


def quantise(network: Deployed, images: Tensor, card: Card, path: Path) -> None:
    """See `Quantising`."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantiser = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(torch.export.export(network, (images[:1],)).module(), quantiser)
    for image in images:
        observed(image[None])
    _lower(torch.export.export(convert_pt2e(observed), (images[:1],)), path)
    describe(card, path)


def read(path: Path) -> Runnable:
    """See `Format`."""
    import executorch.kernels.quantized  # noqa: F401 (their operators)
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")

    def logits(images: Tensor) -> Tensor:
        # What a method returns lies in its own memory, which the next image overwrites.
        return torch.cat([method.execute([image[None].contiguous()])[0].clone() for image in images])

    return Runnable(described(path), logits)


def _lower(program: Any, path: Path) -> None:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
