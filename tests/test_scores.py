"""Zero-cost scores against their definitions, and the command that ranks networks by them."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
from collections import OrderedDict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn import functional as F

from nasbench.commands import rank as ranking
from nasbench.errors import OptionError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from nasbench.results.ranking import table
from nasbench.scores import MIXED, SCORES, scored
from nasbench.strategies import zero_cost
from nasbench.strategies.spos import UniformModule
from nasbench.strategies.zero_cost import ZeroCost
from nasbench.tabular import Benchmark, read


class Small(nn.Sequential):
    """Two convolutions and a classifier, in double precision, of fixed weights."""

    def __init__(self, bias: bool = True) -> None:
        torch.manual_seed(1)
        super().__init__(
            OrderedDict(
                first=nn.Conv2d(3, 4, 3, padding=1, bias=bias),
                relu=nn.ReLU(),
                second=nn.Conv2d(4, 5, 3, padding=1, bias=bias),
                again=nn.ReLU6(inplace=True),
                pool=nn.AdaptiveAvgPool2d(1),
                flat=nn.Flatten(),
                head=nn.Linear(5, 3, bias=bias),
            )
        )
        self.double()


WEIGHTS = ("first.weight", "second.weight", "head.weight")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(2)
    return torch.randn(6, 3, 7, 7, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])


def gradients(images: Tensor, labels: Tensor, weights: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The gradient of the loss at the network's own weights, or at others."""
    network = Small()
    network.load_state_dict(weights or network.state_dict())
    F.cross_entropy(network(images), labels).backward()
    named = dict(network.named_parameters())
    return {name: named[name].grad.clone() for name in WEIGHTS}  # type: ignore[union-attr]


def test_gradients_are_counted_as_defined(batch: tuple[Tensor, Tensor]) -> None:
    found, weights = gradients(*batch), dict(Small().named_parameters())
    assert scored("grad_norm", Small, *batch) == pytest.approx(
        sum(g.square().sum().sqrt().item() for g in found.values())
    )
    assert scored("snip", Small, *batch) == pytest.approx(
        sum((weights[n] * g).abs().sum().item() for n, g in found.items())
    )


def test_grasp_is_a_difference_of_gradients(batch: tuple[Tensor, Tensor]) -> None:
    found, step, start = gradients(*batch), 1e-6, Small().state_dict()
    moved = ({n: p + sign * step * found[n] if n in found else p for n, p in start.items()} for sign in (1, -1))
    ahead, behind = (gradients(*batch, weights) for weights in moved)
    product = sum((start[n] * (ahead[n] - behind[n])).sum().item() / (2 * step) for n in WEIGHTS)
    assert scored("grasp", Small, *batch) == pytest.approx(-product, rel=1e-5)


def test_fisher_by_hand(batch: tuple[Tensor, Tensor]) -> None:
    network, (images, labels) = Small(), batch
    first = network.first(images)
    second = network.second(network.relu(first))
    value = F.cross_entropy(network.head(F.relu6(second).mean((2, 3))), labels)
    outputs = (first, second)
    parts = zip(outputs, torch.autograd.grad(value, outputs), strict=True)
    expected = sum(((z * g).sum((2, 3)) ** 2).mean(0).sum().item() / 2 for z, g in parts)
    assert scored("fisher", Small, *batch) == pytest.approx(expected)


def test_synflow_needs_no_data_and_is_conserved_from_layer_to_layer(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    found = scored("synflow", lambda: Small(bias=False), images, labels)
    assert found == scored("synflow", lambda: Small(bias=False), 5 * images[:2], labels[:2])
    network = Small(bias=False)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    flow = network.second(network.first(torch.ones(1, 3, 7, 7, dtype=torch.float64)))
    total = network.head(flow.mean((2, 3))).sum().item()
    assert flow.max() > 6  # which the network itself would cut off
    assert found == pytest.approx(3 * total)  # Σ θ ∂R/∂θ is R in each of the three layers


def test_jacov_is_that_of_correlations(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    images = images.requires_grad_()
    (jacobian,) = torch.autograd.grad(Small()(images).sum(), images)
    values = np.linalg.eigvalsh(np.corrcoef(jacobian.flatten(1).numpy())) + 1e-5
    assert scored("jacov", Small, images, labels) == pytest.approx(-(np.log(values) + 1 / values).sum())
    alike = images.detach()[:1].repeat(6, 1, 1, 1)  # whose Jacobians say the same
    assert scored("jacov", Small, alike, labels) < scored("jacov", Small, images, labels)


def test_naswot_is_the_determinant_of_agreements_and_knows_no_order(batch: tuple[Tensor, Tensor]) -> None:
    images, labels = batch
    network = Small()
    first = network.first(images)
    codes = torch.cat([(z > 0).flatten(1) for z in (first, network.second(first.relu()))], 1)
    kernel = [[int((a == b).sum()) for b in codes] for a in codes]
    assert scored("naswot", Small, images, labels) == pytest.approx(np.linalg.slogdet(np.array(kernel, float))[1])
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert scored("naswot", Small, images[order], labels) == pytest.approx(scored("naswot", Small, images, labels))
    assert scored("naswot", Small, images[:1].repeat(6, 1, 1, 1), labels) == -math.inf


def test_zen_of_a_linear_map_is_known(batch: tuple[Tensor, Tensor]) -> None:
    torch.manual_seed(0)
    inputs, outputs, side = 64, 40, 8
    plain = nn.Sequential(OrderedDict(features=nn.Conv2d(inputs, outputs, 1, bias=False)))
    images, labels = torch.zeros(16, inputs, side, side), torch.zeros(16)
    # Each output is 0.01 w·ε: |N(0, 0.01² ‖w‖²)| with ‖w‖² about the number of inputs.
    expected = math.log(outputs * side * side * MIXED * math.sqrt(2 * inputs / math.pi))
    assert scored("zen", lambda: plain, images, labels) == pytest.approx(expected, abs=0.03)
    normed = nn.Sequential(OrderedDict(features=nn.Sequential(plain.features, nn.BatchNorm2d(outputs, affine=False))))
    # What the normalisation divides by is given back.
    assert scored("zen", lambda: normed, images, labels) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(("images", "rank"), [(torch.eye(8), 8.0), (torch.ones(8, 8), 1.0)])
def test_near_counts_directions(images: Tensor, rank: float) -> None:
    found = SCORES["near"](nn.Sequential(nn.ReLU()), images, torch.zeros(8))
    assert found == pytest.approx(2 * rank)  # before the activation and behind it
    maps = images.repeat(3, 1).reshape(3, 8, 8, 1).transpose(1, 2)  # channels of maps are the columns
    assert scored("near", lambda: nn.Sequential(nn.ReLU()), maps, torch.zeros(3)) == pytest.approx(2 * rank)


def test_sizes_are_scores(batch: tuple[Tensor, Tensor]) -> None:
    float_batch = batch[0].float(), batch[1]
    assert scored("params", lambda: Small().float(), *float_batch) == sum(p.numel() for p in Small().parameters())
    assert scored("madds", lambda: Small().float(), *float_batch) == 49 * (27 * 4 + 36 * 5) + 15


def test_what_cannot_be_measured_is_named(batch: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(OptionError, match="unknown score 'synflo': did you mean 'synflow'"):
        scored("synflo", Small, *batch)
    with pytest.raises(OptionError, match="has no ReLU to look at"):
        scored("naswot", lambda: nn.Sequential(nn.Flatten(), nn.Linear(147, 3)).double(), *batch)


def test_a_network_that_is_blind_to_its_images_is_ranked_last(batch: tuple[Tensor, Tensor]) -> None:
    """Benchmarks have some: every way through a cell leads over `none`."""

    class Blind(Small):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * 0)

    found = {name: scored(name, Blind, *batch) for name in SCORES if name not in ("synflow", "near", "params", "madds")}
    assert {name for name, value in found.items() if value == -math.inf} == {"jacov", "naswot", "zen"}
    rows = table("title", {"jacov": np.array([*range(9), -math.inf])}, np.arange(10)[::-1] / 10.0, {"jacov": 1.0}).rows
    assert rows[0]["tau"].value == pytest.approx(kendalltau([*range(1, 10), 0], range(9, -1, -1)).statistic)


def test_a_ranking_by_hand() -> None:
    accuracy = np.linspace(0.5, 0.9, 40)
    rng = np.random.default_rng(3)
    scores = {"noise": rng.normal(size=40), "same": accuracy * 3, "constant": np.ones(40), "opposite": -accuracy}
    found = table("title", scores, accuracy, dict.fromkeys(scores, 2.0))
    rows = {str(row["score"].value): row for row in found.rows}
    assert next(iter(rows)) == "same"
    assert [rows["same"][k].value for k in ("tau", "low", "high", "rho", "recall")] == pytest.approx([1, 1, 1, 1, 1])
    assert rows["opposite"]["tau"].value == pytest.approx(-1)
    assert rows["constant"]["tau"].value is None
    noise = rows["noise"]
    assert noise["tau"].value == pytest.approx(kendalltau(scores["noise"], accuracy).statistic)
    assert noise["low"].value < 0 < noise["high"].value
    assert noise["seconds"].value == pytest.approx(50)


def rank(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nasbench", "rank", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["nasbench_macro", "nasbench201_cifar10"])
def test_networks_are_ranked_by_what_they_cost(name: str, real_data: Path, tmp_path: Path) -> None:
    words = ("--networks", "30", "--score", "params", "--score", "madds", "--format", "json")
    done = rank(name, *words, "--data-root", str(real_data), "--figure", str(tmp_path / "rank.png"))
    assert done.returncode == 0, done.stderr
    rows = {row["score"]["value"]: row for row in json.loads(done.stdout)["rows"]}
    benchmark = read(name, real_data)
    drawn = np.random.default_rng(0).choice(len(benchmark.accuracy), 30, replace=False)
    keys = list(benchmark.accuracy)
    sizes = {"3": 9, "1": 1}  # of convolutions of cells
    if name == "nasbench201_cifar10":  # whose parameters follow from the candidates
        cost = [sum(sizes.get(word.partition("conv_")[2][:1], 0) for word in keys[n]) for n in drawn]
        assert rows["params"]["tau"]["value"] == pytest.approx(
            kendalltau(cost, [benchmark.accuracy[keys[n]] for n in drawn]).statistic, abs=1e-6
        )
    assert rows["madds"]["tau"]["value"] > 0.3
    assert (tmp_path / "rank.png").stat().st_size > 10_000


@pytest.mark.slow
def test_every_score_ranks_real_networks(real_data: Path) -> None:
    done = rank(
        "nasbench201_cifar10",
        "--networks",
        "6",
        "--batch-size",
        "16",
        "--data-root",
        str(real_data),
        "--format",
        "json",
    )
    assert done.returncode == 0, done.stderr
    assert {row["score"]["value"] for row in json.loads(done.stdout)["rows"]} == set(SCORES)


@pytest.mark.parametrize("by", ["evolution", "tpe", "local_search", "random"])
def test_a_search_without_training_takes_the_best_score_that_it_meets(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, str]] = []
    measure = zero_cost.scored

    def noted(name: str, build: Any, images: Tensor, labels: Tensor) -> float:
        assert (name, images.shape, len(labels)) == ("params", (16, 3, 8, 8), 16)
        seen.append((measure(name, build, images, labels), build.__self__.sample))
        return seen[-1][0]

    monkeypatch.setattr(zero_cost, "scored", noted)
    settings = {
        **{"space": "metapool_bench", "space_options": {"width": 0.1}, "dataset": "digits", "image_size": 8},
        **{"train_images": 100, "batch_size": 16, "retrain_epochs": 1, "device": "cpu", "limits": {"params": "14k"}},
        **{"strategy": "zero_cost", "strategy_options": {"score": "params", "by": by, "networks": 25}},
    }
    found = run(resolve_config(settings), tmp_path)
    del seen[0]  # whether networks have a score at all, before anything is written
    assert 5 < len(seen) <= 25
    assert max(value for value, _ in seen) <= 14_000
    assert found.result().params == max(value for value, _ in seen)
    assert found.architecture() == max(seen, key=lambda pair: pair[0])[1]
    assert {d.by for d in found.decisions().values()} == {f"the best by params that {by} met"}


def test_a_score_as_a_filter_before_training(tmp_path: Path) -> None:
    settings = {
        **{"space": "metapool_bench", "space_options": {"width": 0.1}, "dataset": "digits", "image_size": 8},
        **{"train_images": 100, "batch_size": 16, "epochs": 1, "retrain_epochs": 1, "device": "cpu"},
        **{"limits": {"params": "14k"}, "strategy": "zero_cost"},
    }
    options = {"score": "params", "by": "random", "networks": 25}
    best = run(resolve_config({**settings, "strategy_options": options, "epochs": None}), tmp_path / "best")
    found = run(resolve_config({**settings, "strategy_options": {**options, "trained": 3}}), tmp_path / "found")
    trials = list(csv.DictReader((found.path / "trials.csv").open()))
    sizes = [int(row["params"]) for row in trials]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == best.result().params
    assert len({row["architecture"] for row in trials}) == 3
    of_best = max(trials, key=lambda row: float(row["accuracy"]))
    assert found.result().params == int(of_best["params"])
    assert {d.by for d in found.decisions().values()} == {
        "the best of the 3 that params put first of those that random met"
    }
    ended = run(
        resolve_config({**settings, "strategy_options": {**options, "trained": 3}, "max_trials": 2}), tmp_path / "ended"
    )
    assert {d.by for d in ended.decisions().values()} == {
        "the best of the 2 that params put first of those that random met"
    }
    with pytest.raises(OptionError, match="trained=4 are more than the networks=3"):
        ZeroCost(networks=3, trained=4)


@pytest.mark.parametrize("by", ["pmpl", "zero_cost", "nonsense", "nni.nas.strategy:DARTS"])
def test_only_what_trains_networks_one_by_one_can_ask_for_scores(by: str) -> None:
    with pytest.raises(OptionError, match=r"trains no networks one by one|unknown strategy"):
        ZeroCost(by=by)


def test_wrong_names_are_one_line(tmp_path: Path) -> None:
    for words in (
        ("nasbench_micro",),
        ("nasbench_macro", "--data-root", str(tmp_path)),
        ("nasbench_macro", "--figure", "x"),
    ):
        done = rank(*words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr


def test_networks_are_ranked_by_their_accuracies_in_a_supernet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a table of a small space that the supernet itself could have written, τ is 1."""
    labels, candidates = [f"stage{n}.enhancer" for n in range(1, 6)], ("none", "avg3", "global")
    keys = list(product(candidates, repeat=5))[:8]
    measured: dict[tuple[str, ...], float] = {}
    whole = UniformModule.measure

    def kept(self: Any, architecture: Any) -> float:
        return measured.setdefault(tuple(architecture[label] for label in labels), whole(self, architecture))

    def benchmark(name: str, root: Path) -> Benchmark:
        accuracy = {key: measured.get(key, float(n)) for n, key in enumerate(keys)}
        return Benchmark("small", "metapool_bench", dict.fromkeys(labels, candidates), accuracy, ())

    monkeypatch.setattr(UniformModule, "measure", kept)
    monkeypatch.setattr(ranking, "read", benchmark)
    given: dict[str, Any] = {"score": None, "networks": 8, "batch_size": 16, "dataset": "digits", "seed": 0}
    given |= {"supernet": "spos", "epochs": 1, "train_images": 100, "data_root": tmp_path, "figure": None}
    for file in (tmp_path / "untold.json", tmp_path / "told.json"):
        ranking.command("nasbench_macro", **given, how="json", output=file)
    (before,), (after,) = (json.loads((tmp_path / f"{n}.json").read_text())["rows"] for n in ("untold", "told"))
    assert measured.keys() == set(keys)  # and evolution has measured none
    assert after["score"]["value"] == "spos, 1 epoch"
    assert (before["tau"]["value"] < 1, after["tau"]["value"]) == (True, pytest.approx(1))
    with pytest.raises(OptionError, match="strategy 'darts' measures no given networks"):
        ranking.command("nasbench_macro", **given | {"supernet": "darts"}, how="json", output=None)
