"""ONNX, for ONNX Runtime and what else reads it. The card's entries are `metadata_props`."""

from pathlib import Path

import torch
from torch import Tensor

from nasbench.export.card import INPUT, OUTPUT, Card
from nasbench.export.format import DYNAMIC, Deployed, Runnable

SUFFIX = ".onnx"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
RUNS_CODE = False


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    program = torch.onnx.export(
        network,
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=DYNAMIC,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where each came from, with the folders of this machine
    program.model.metadata_props.update(card.texts())
    program.save(path, external_data=False)


def quantise(network: Deployed, images: Tensor, card: Card, path: Path) -> None:
    """See `Quantising`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        rest = iter(images.split(1))

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.rest, None)
            return None if batch is None else {INPUT: batch.numpy()}

    exact = path.with_name(f"float{SUFFIX}")
    write(network, images[:2], card, exact)
    quantize_static(exact, path, Reader(), per_channel=True, weight_type=QuantType.QInt8)
    describe(card, path)


def describe(card: Card, path: Path) -> None:
    """See `Quantising`."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, card.texts())
    onnx.save(model, path)


def read(path: Path) -> Runnable:
    """See `Format`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def logits(images: Tensor) -> Tensor:
        (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(found)

    return Runnable(Card.read(session.get_modelmeta().custom_metadata_map, path), logits)
