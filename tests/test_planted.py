"""The planted truth: data set and space agree on it, and trained networks confirm it."""

from __future__ import annotations

from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nasbench.architecture import instantiate, validate
from nasbench.data.planted import BITS, TILE, Planted
from nasbench.errors import OptionError
from nasbench.evaluators.classification import Classification
from nasbench.spaces.planted import CANDIDATES, GRID, LABELS
from nasbench.spaces.planted import Planted as Space

TRUTH = Space.truth()
NULL = [label for label, right in TRUTH.items() if len(right) == len(CANDIDATES)]
RIGHT = Space().architectures()["right"]
SAMPLING = 0.03  # of a share, and of a correlation, of 4,000 test images


def made(**options: Any) -> Planted:
    """A data set that is ready."""
    data = Planted(**options)
    data.setup()
    return data


@cache
def seen(noise: float) -> tuple[dict[str, dict[str, torch.Tensor]], torch.Tensor]:
    """What every candidate reads at the centre of its tile of each test image, and the bits of the label."""
    data = made(noise=noise, batch_size=4_000)
    images, labels = next(iter(data.test_dataloader()))
    grey, space = data.normalise(images)[:, :1], Space()
    read: dict[str, dict[str, torch.Tensor]] = {}
    for number, (label, layer) in enumerate(zip(LABELS, space.enhancers, strict=True)):
        top, left = (TILE * n for n in divmod(number, GRID))
        tile = grey[:, :, top : top + TILE, left : left + TILE]
        centre = TILE // 2
        read[label] = {name: layer[name](tile)[:, 0, centre, centre] for name in CANDIDATES}
    return read, (labels[:, None] >> torch.arange(BITS)) % 2


def correlations(numbers: torch.Tensor, bits: torch.Tensor) -> np.ndarray[Any, Any]:
    """Of one candidate's numbers with each bit."""
    return np.corrcoef(torch.cat([numbers[:, None], bits], 1).T.numpy())[0, 1:]


@pytest.mark.parametrize("noise", [0.0, 0.6])
def test_the_right_candidate_reads_its_bit_and_the_others_nothing(noise: float) -> None:
    read, bits = seen(noise)
    carried = []
    for label in LABELS:
        if label in NULL:
            continue
        found = {name: correlations(numbers, bits) for name, numbers in read[label].items()}
        (right,) = TRUTH[label]
        carried.append(int(found[right].argmax()))
        assert found[right].max() == pytest.approx(1 - noise, abs=SAMPLING)
        assert all(abs(c).max() < 2 * SAMPLING for name, c in found.items() if name != right)
    assert len(set(carried)) == len(carried) == BITS - 1  # nobody else tells the same


def test_where_nothing_matters_candidates_are_equal_or_alike() -> None:
    read, bits = seen(0.0)
    equal, alike = NULL[0], NULL[1:-1]
    same = list(read[equal].values())
    assert all(torch.allclose(same[0], other, atol=1e-5) for other in same[1:])
    assert correlations(same[0], bits).max() == pytest.approx(1)
    for label in alike:
        numbers = torch.stack(list(read[label].values()))
        between = np.corrcoef(numbers.numpy())
        assert abs(between - np.eye(len(CANDIDATES))).max() < 2 * SAMPLING
        assert numbers.std(1) == pytest.approx(numbers.std().item(), rel=1e-3)
        assert max(abs(correlations(row, bits)).max() for row in numbers) < 2 * SAMPLING
    empty = torch.stack(list(read[NULL[-1]].values()))
    assert torch.allclose(empty, empty[0, 0], atol=1e-5)


@cache
def accuracy(changes: tuple[tuple[str, str], ...]) -> float:
    """Of the test images, after a short training of the right network with some candidates changed."""
    torch.manual_seed(0)
    data = {"batch_size": 64, "train_images": 3_000}
    training = Classification(
        dataset="nasbench.data.planted:Planted", data=data, stage="retrain", epochs=3, learning_rate=0.1, device="cpu"
    )
    training.evaluate(instantiate(Space, validate(Space(), RIGHT | dict(changes))))
    return float(training.test()["top1"])


def test_the_right_network_learns_it_all() -> None:
    assert accuracy(()) > 0.99


@pytest.mark.parametrize("label", [label for label in LABELS if label not in NULL])
def test_a_wrong_choice_costs_a_trained_network_its_bit(label: str) -> None:
    wrong = CANDIDATES[CANDIDATES.index(RIGHT[label]) - 1]
    assert accuracy(((label, wrong),)) == pytest.approx(0.5, abs=SAMPLING)


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name != "none"])
def test_choices_that_do_not_matter_change_nothing_in_a_trained_network(name: str) -> None:
    assert accuracy(tuple((label, name) for label in NULL)) > 0.99


def test_noise_takes_the_bits_away() -> None:
    """What the best network can know: every bit with probability 1 − noise / 2."""
    read, bits = seen(0.6)
    signs = torch.stack([read[label][RIGHT[label]] > 0 for label in LABELS[:BITS]], 1)
    assert (signs == bits.bool()).all(1).float().mean().item() == pytest.approx(0.7**BITS, abs=SAMPLING)
    read, bits = seen(1.0)
    every = [numbers for label in LABELS[:-1] for numbers in read[label].values()]
    assert max(abs(correlations(numbers, bits)).max() for numbers in every) < 2 * SAMPLING


def test_a_draw_is_another_data_set_and_the_same_one_every_time() -> None:
    one, again, other = (made(draw=draw, seed=seed) for draw, seed in ((1, 0), (1, 5), (2, 0)))
    assert np.array_equal(one.train_labels, again.train_labels)
    assert not np.array_equal(one.train_labels, other.train_labels)


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan")])
def test_noise_is_a_share(noise: float) -> None:
    with pytest.raises(OptionError, match="noise must be"):
        Planted(noise=noise)


@cache
def experiment() -> Any:
    """The script that counts what strategies find."""
    spec = spec_from_file_location("planted_experiment", Path(__file__).parents[1] / "experiments" / "planted.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(noise: str, found: str, by: str, excluded: str) -> dict[str, str]:
    """Of the experiment, its layers separated by spaces; `-` excludes nothing."""
    none = excluded.replace("-", "").replace(" ", ";").replace("+", " ")
    return {"noise": noise, "found": found.replace(" ", ";"), "by": by.replace(" ", ";"), "excluded": none}


def test_decisions_are_wrong_where_another_is_right_or_nothing_matters() -> None:
    counted = experiment()
    found = "none avg3 avg7 avg7 avg5 none none none none"
    by = "evidence threshold evidence undecided limit evidence undecided limit limit"
    excluded = "avg3+avg5+avg7 - none+avg3+avg5 none - avg3+avg5+avg7 - - -"
    at = {noise: [row(noise, found, by, excluded)] for noise in ("0.5", "1.0")}
    assert counted.hits(at["0.5"]) == counted.hits(at["1.0"]) == (3, 4)
    assert counted.errors(at["0.5"]) == (2, 4)
    assert counted.errors(at["1.0"]) == (4, 4)
    assert counted.wrong_exclusions(at["0.5"]) == (4, 10)
    assert counted.wrong_exclusions(at["1.0"]) == (10, 10)
