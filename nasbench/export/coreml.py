"""Core ML, for iOS and macOS: a classifier of one picture at a time, in 32 bits. The card is user-defined metadata.

Only macOS runs these; elsewhere the program is parsed, weights and all.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from nasbench.errors import OptionError
from nasbench.export.card import INPUT, OUTPUT, Card
from nasbench.export.format import Deployed, Runnable

SUFFIX = ".mlpackage"
PACKAGES = ("coremltools",)
RUNS_CODE = False
CLASS = "class"  # output beside the logits; the probabilities are `class_probs`


class Classifier(nn.Module):
    """What Core ML sees: a picture (1, 3, S, S) in 0–255 → logits and probabilities (1, classes)."""

    def __init__(self, network: Deployed) -> None:
        """Wrap a network."""
        super().__init__()
        self.network = network

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and their softmax."""
        logits = self.network(picture.permute(0, 2, 3, 1).clone())  # normalised in place
        return logits, logits.softmax(1)


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    import coremltools as ct

    picture = example[:1].permute(0, 3, 1, 2).float().contiguous()
    model = ct.convert(
        torch.export.export(Classifier(network).eval(), (picture,)).run_decompositions({}),
        inputs=[ct.ImageType(INPUT, tuple(picture.shape), color_layout=ct.colorlayout.RGB)],
        classifier_config=ct.ClassifierConfig(card.class_names, CLASS),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
    )
    spec = model.get_spec()
    (logits,) = (output.name for output in spec.description.output if output.type.HasField("multiArrayType"))
    ct.utils.rename_feature(spec, logits, OUTPUT)
    model = ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)
    model.short_description = card.about
    model.user_defined_metadata.update(card.one_at_a_time().texts())
    model.save(str(path))


def read(path: Path) -> Runnable:
    """See `Format`."""
    import coremltools as ct
    from coremltools.converters.mil.frontend.milproto.load import load

    runs = sys.platform == "darwin"
    model = ct.models.MLModel(str(path), skip_model_load=not runs, compute_units=ct.ComputeUnit.CPU_ONLY)
    spec, card = model.get_spec(), Card.read(model.user_defined_metadata, path)
    load(spec, spec.specificationVersion, model.weights_dir)
    names = {output.name for output in spec.description.output}
    if not {OUTPUT, CLASS} <= names:
        raise OptionError(f"{path} computes {', '.join(sorted(names))} instead of {OUTPUT}")

    def logits(images: Tensor) -> Tensor:
        found = [model.predict({INPUT: Image.fromarray(image.numpy())})[OUTPUT] for image in images]
        return torch.cat([torch.from_numpy(row).float().reshape(1, -1) for row in found])

    return Runnable(card, logits, runs)
