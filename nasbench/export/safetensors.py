"""The weights alone: nasbench builds the network from what the card says. The card's entries are `__metadata__`."""

from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from nasbench.export.card import Card
from nasbench.export.format import Deployed, Runnable

SUFFIX = ".safetensors"
PACKAGES = ()
RUNS_CODE = False


def write(network: Deployed, example: Tensor, card: Card, path: Path) -> None:
    """See `Format`."""
    state = {name: value.contiguous() for name, value in network.network.state_dict().items()}
    path.write_bytes(save(state, card.texts()))  # save_file would let nobody else read it


def read(path: Path) -> Runnable:
    """See `Format`."""
    with safe_open(path, "pt") as file:
        card = Card.read(file.metadata() or {}, path)
    network = card.network()
    network.load_state_dict(load_file(path))
    return Runnable(card, Deployed(network, card))
