"""Limits on what a network costs: kept by what is derived and measured again, or refused with what is reachable."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import RandomState
from torch import nn
from typer.testing import CliRunner

from nasbench.cli import app
from nasbench.config import make_config
from nasbench.errors import LimitError, NasbenchError, OptionError
from nasbench.limits import KINDS
from nasbench.limits.budget import Budget, budget_of, network
from nasbench.limits.costs import Costs
from nasbench.limits.kind import Call, Limit, exact, normal, parse
from nasbench.limits.levers import WIDTHS
from nasbench.limits.memory import measure
from nasbench.pipeline import run
from nasbench.presets import complete, resolve_config
from nasbench.profile import profile
from nasbench.record import COSTS, Record
from nasbench.results.pareto import front
from nasbench.results.report import command

COUNTED = tuple(name for name in KINDS if name != "latency")
TINY: dict[str, Any] = {
    "space_options": {"width": 0.05, "candidates": "none,avg3,global"},
    "image_size": 8,
    "train_images": 96,
    "batch_size": 16,
    "epochs": 1,
    "retrain_epochs": 1,
    "device": "cpu",
}
EVIDENCE = {"warmup_epochs": 0, "fixing": "evidence"}


def configured(limits: dict[str, Any], **changes: Any) -> Any:
    """A configuration of a tiny run under limits."""
    return resolve_config({**TINY, "limits": limits, **changes})


def costs_of(limits: dict[str, Any], **changes: Any) -> Budget:
    """The tables of a tiny space of ten classes."""
    return budget_of(configured(limits, **changes), 10, 8)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"madds": "100M"}, "100M"),
        ({"madds": 100_000_000}, "100M"),
        ({"params": "2e3k"}, "2M"),
        ({"memory": "1 MiB"}, "1.048576MB"),
        ({"latency": "0.005s"}, "5ms@onnx"),
    ],
)
def test_equal_limits_have_one_normal_form(written: dict[str, Any], told: str) -> None:
    (limit,) = parse(written)
    assert normal(limit) == told
    assert parse({limit.name: told}) == [limit]
    assert complete(make_config({"limits": written})).limits == {limit.name: told}


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ({"flops": "1M"}, "unknown limit 'flops'"),
        ({"madds": "100X"}, "unknown unit 'X'"),
        ({"madds": "many"}, "positive number with its unit, such as madds=5M"),
        ({"params": 0}, "positive number"),
        ({"latency": "5ms@tvm"}, "unknown runtime 'tvm'"),
        ({"madds": "5M@onnx"}, "unknown runtime 'onnx'"),
    ],
)
def test_a_limit_that_is_none_is_named(written: dict[str, Any], what: str) -> None:
    with pytest.raises(OptionError, match=what):
        parse(written)


@pytest.mark.parametrize("space", ["mbv2_metapool", "shufflenetv2_metapool", "menet", "cheap_resnet", "mobile"])
def test_counted_costs_of_candidates_add_up_to_those_of_networks(space: str) -> None:
    small = {"cheap_resnet": {}, "menet": {}}.get(space, {"width": 0.5})
    config = make_config(
        {"space": space, "space_options": small, "limits": dict.fromkeys(COUNTED, "9G") | {"memory": "9GB"}}
    )
    found, state = budget_of(complete(config), 10, 32), RandomState(1)
    drawn = {label: list(own)[state.randint(len(own))] for label, own in found.costs[0].places.items()}
    facts, counts = found.measured(drawn), profile(found.build(drawn), 32)
    assert facts["params"].predicted == facts["params"].measured == counts.params
    assert facts["madds"].predicted == facts["madds"].measured == counts.madds
    assert facts["memory"].predicted == pytest.approx(facts["memory"].measured, rel=0.02)


class Residual(nn.Module):
    """relu(x) + x, where both live at once with the sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) + x


def test_the_peak_of_activations_is_what_lives_at_one_time() -> None:
    x = torch.zeros(1, 1, 10, 10)
    chain = nn.Sequential(nn.ReLU(), nn.ReLU(), nn.ReLU(), nn.ReLU())
    peaks = [found.value for found in measure([Call(Residual(), (x,), 400), Call(chain, (x,), 400)])]
    assert peaks == [3 * 400, 3 * 400]  # input, and in the chain no more than what is read and what is written


def invented(draw: Any, names: tuple[str, ...]) -> tuple[Budget, dict[str, dict[str, float]]]:
    """Tables and scores of a few layers, and limits between the cheapest and the dearest network, or below."""
    layers = [f"l{i}" for i in range(draw(st.integers(1, 4)))]
    values = {label: [f"c{i}" for i in range(draw(st.integers(1, 4)))] for label in layers}
    found = []
    for name in names:
        places = {k: {v: exact(draw(st.integers(0, 30))) for v in own} for k, own in values.items()}
        base = {k: min(own, key=lambda v, own=own: own[v].value) for k, own in places.items()}
        join = Limit(name, 1).kind.JOIN
        whole = join([draw(st.integers(1, 9)), *(places[k][v].value for k, v in base.items())])
        limit = Limit(name, float(draw(st.integers(1, 120))))
        found.append(Costs(limit, base, exact(whole), places, dict.fromkeys(layers, "")))
    scores = {
        k: {v: draw(st.sampled_from([0.0, -0.5, -1.25, -3.0, -30.0, -1000.0])) for v in own}
        for k, own in values.items()
    }
    return Budget(found, lambda architecture: nn.Identity(), 8), scores


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([("madds",), ("memory",), ("madds", "params"), ("madds", "params", "memory")]))
def test_the_best_below_the_limits_is_what_trying_all_finds(data: st.DataObject, names: tuple[str, ...]) -> None:
    budget, scores = invented(data.draw, names)
    every = [dict(zip(scores, found, strict=True)) for found in product(*scores.values())]
    totals = [sum(scores[k][v] for k, v in found.items()) for found in every if budget.allows(found)]
    best = budget.best(scores)
    assert (best is None) == (not totals)
    if best is not None:
        assert budget.allows(best)
        assert sum(scores[k][v] for k, v in best.items()) == pytest.approx(max(totals), abs=1e-6)


def test_a_candidate_whose_stated_cost_is_wrong_is_found_by_measuring_again() -> None:
    budget = costs_of({"madds": "9G"})
    budget.check()
    (costs,) = budget.costs
    label = next(iter(costs.places))
    wrong = {**costs.places, label: {**costs.places[label], "global": exact(0.5 * costs.whole.value)}}
    planted = replace(budget, costs=[replace(costs, places=wrong)])
    with pytest.raises(LimitError, match="a cost is wrong, or they do not add up"):
        planted.settle({**costs.base, label: "global"}, {})


def test_100_million_multiply_adds_are_kept_where_a_search_would_take_more() -> None:
    config = make_config({"space_options": {"candidates": "ablation"}, "limits": {"madds": "100M"}, "image_size": 128})
    budget = budget_of(complete(config), 10, 128)
    labels = budget.costs[0].places
    wanted = dict.fromkeys(labels, "global")
    assert profile(budget.build(wanted), 128).madds > 100e6
    taken, facts = budget.settle(wanted, {label: {"none": 0.2, "avg3": 0.3, "global": 0.5} for label in labels})
    assert 99e6 < facts["madds"].measured == profile(budget.build(taken), 128).madds <= 100e6
    assert list(taken.values()).count("global") > 0
    assert "none" not in taken.values()  # which costs as much as avg3, and has a smaller π


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """A tiny search that may not take every global it wants."""
    reach = costs_of({"params": "9G"}).costs[0]
    most = reach.of(dict.fromkeys(reach.places, "global"))
    limit = {"params": int((reach.whole.value + most) / 2)}
    options = {**EVIDENCE, "undecided": "largest_pi", "eta": 0.3}
    return run(configured(limit, strategy_options=options, seed=1), tmp_path_factory.mktemp("limited"))


def test_a_search_takes_the_best_below_its_limit(limited: Record) -> None:
    result, (limit,) = limited.result(), parse(limited.config().limits)
    assert result.params == result.limits["params"].measured <= limit.value
    changed = {k: d for k, d in limited.decisions().items() if d.by == "budget"}
    assert all(d.wanted != result.architecture[k] for k, d in changed.items())
    rows = limited.curves(COSTS)
    assert len(rows) == 17 * 3
    assert {row["candidate"] for row in rows if row["cost"] == "0"} == {"none", "avg3"}
    assert "params ≤" in result.label
    assert f"--limit params={normal(limit)}" in command(limited.config())


def test_a_latency_limit_is_kept_when_measured_again(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    small = {**TINY, "space": "metapool_bench", "space_options": {}, "image_size": 64}
    reach = budget_of(resolve_config({**small, "limits": {"latency": "10s"}}), 10, 64).costs[0]
    limit = {"latency": f"{1e6 * 3 * reach.whole.value:.0f}us@onnx"}
    record = run(resolve_config({**small, "limits": limit, "strategy_options": EVIDENCE}), tmp_path)
    facts = record.result().limits["latency"]
    assert 0 < facts.low <= facts.measured <= 1.1 * facts.limit
    assert {row["kind"] for row in record.curves(COSTS)} == {"latency"}


def test_an_unreachable_limit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    told = [f"--{k.replace('_', '-')}={v}" for k, v in TINY.items() if k != "space_options"]
    outcome = CliRunner().invoke(app, ["run", "--limit", "madds=1k", "--width", "0.05", *told, "--out", str(tmp_path)])
    assert isinstance(outcome.exception, NasbenchError) or outcome.exit_code == 2
    assert not list(tmp_path.iterdir())
    reach = costs_of({"madds": "9G"}).costs[0]
    with pytest.raises(LimitError, match=f"the cheapest reachable network has {reach.limit.text(reach.whole.value)}"):
        costs_of({"madds": "1k"})


def test_limits_that_exclude_each_other_are_refused() -> None:
    budget = costs_of({"madds": "9G", "params": "9G"})
    madds, params = budget.costs
    label = next(iter(madds.places))
    one = {**madds.places, label: {"none": exact(10), "avg3": exact(0), "global": exact(0)}}
    two = {**params.places, label: {"none": exact(0), "avg3": exact(10), "global": exact(10)}}
    contrary = [
        replace(c, places=p, base={**c.base, label: b}, limit=replace(c.limit, value=c.whole.value + 5))
        for c, p, b in ((madds, one, "avg3"), (params, two, "none"))
    ]
    with pytest.raises(LimitError, match="no network keeps all limits together"):
        replace(budget, costs=contrary).check()


def test_a_given_architecture_above_the_limit_is_refused_with_its_cost() -> None:
    config = configured({"params": "20k"}, architecture="global")
    count = sum(
        p.numel()
        for p in network(
            config, 10, 8, dict.fromkeys(costs_of({"params": "9G"}).costs[0].places, "global")
        ).parameters()
    )
    with pytest.raises(LimitError, match=f"the network has {count / 1e3:.4g}k"):
        budget_of(config, 10, 8)


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("random", {}),
        ("random", {"trials": 2}),
        ("nni.nas.strategy:RegularizedEvolution", {"population_size": 2, "sample_size": 2}),
        ("nni.nas.strategy:GumbelDARTS", {}),
    ],
)
def test_other_strategies_keep_limits_too(strategy: str, options: dict[str, Any], tmp_path: Path) -> None:
    reach = costs_of({"params": "9G"}).costs[0]
    middle = (reach.whole.value + reach.of(dict.fromkeys(reach.places, "global"))) / 2.2
    config = configured({"params": int(middle)}, strategy=strategy, strategy_options=options, max_trials=2)
    result = run(config, tmp_path).result()
    assert result.params <= middle
    assert result.limits["params"].measured == result.params


def test_drawing_ends_where_hardly_a_network_keeps_the_limit(tmp_path: Path) -> None:
    space = {"space_options": {"width": 0.05, "candidates": "none,global"}}
    reach = costs_of({"params": "9G"}, **space).costs[0]
    with pytest.raises(LimitError, match="none of 10,000 networks drawn at random"):
        run(configured({"params": int(reach.whole.value)}, strategy="random", **space), tmp_path)


def test_a_strategy_without_probabilities_is_refused_under_a_limit(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no π"):
        run(configured({"params": "9G"}, strategy="nni.nas.strategy:RandomOneShot"), tmp_path)


def test_auto_takes_the_largest_value_below_the_limit() -> None:
    said: list[str] = []
    wide = {**TINY, "space_options": {"width": "auto", "candidates": "none,avg3"}, "limits": {"params": "800k"}}
    config = resolve_config(wide, said.append)
    width = config.space_options["width"]
    assert said[0] == f"width={width} is the largest that keeps the limits: params 700.5k of params=800k"
    larger = WIDTHS[WIDTHS.index(width) - 1]
    with pytest.raises(LimitError):
        budget_of(resolve_config({**wide, "space_options": {"width": larger, "candidates": "none,avg3"}}), 10, 8)
    large = resolve_config({**TINY, "image_size": "auto", "limits": {"madds": "20M"}}, said.append)
    assert large.image_size is not None
    assert large.image_size % 32 == 0
    with pytest.raises(LimitError):
        budget_of(
            resolve_config({**TINY, "image_size": large.image_size + 32, "limits": {"madds": "20M"}}),
            10,
            large.image_size + 32,
        )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"image_size": "auto"}, "give one with --limit"),
        ({"image_size": "auto", "space_options": {"width": "auto"}, "limits": {"madds": "9M"}}, "one of them"),
        ({"image_size": "auto", "limits": {"madds": "1k"}}, "cannot be kept"),
        ({"space": "planted", "space_options": {"width": "auto"}, "limits": {"madds": "9M"}}, "unknown option"),
    ],
)
def test_auto_is_refused_where_it_means_nothing(changes: dict[str, Any], what: str) -> None:
    with pytest.raises(NasbenchError, match=what):
        resolve_config({**TINY, **changes})


def test_the_front_is_what_nothing_else_undercuts() -> None:
    assert front([(1, 5), (2, 3), (2, 4), (3, 3), (1, 5), (0, 9)]) == [True, True, False, False, True, True]


def test_a_profile_marks_the_named_architectures_that_none_undercuts() -> None:
    outcome = CliRunner().invoke(app, ["profile", "--width", "0.05", "--image-size", "8", "--json"])
    named = {row["name"]: row["front"] for row in json.loads(outcome.stdout.splitlines()[-1])["named"]}
    assert named == {"none": True, "local": True, "global": False, "paper": False}
