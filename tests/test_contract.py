"""What every registered part keeps, ours or a stranger's.

Parametrised over the entry points: a new file and its line in an installed pyproject.toml are tested by what is here.
"""

from __future__ import annotations

import json
import os
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import nni
import numpy as np
import pytest
import torch
from numpy.random import RandomState
from safetensors.torch import load_file, save_file
from torch import nn

from nasbench import registry
from nasbench.architecture import choices, instantiate, named, resolve, validate
from nasbench.config import make_config
from nasbench.errors import DataError, NasbenchError, OptionError
from nasbench.networks import build_space, load_model
from nasbench.pipeline import run
from nasbench.presets import PRESETS, complete, resolve_config
from nasbench.profile import profile
from nasbench.record import Record
from nasbench.registry import SIZE_NAMES

NAMES = {kind: list(registry.entries(kind)) for kind in registry.GROUPS}
SPACES, STRATEGIES = NAMES["space"], NAMES["strategy"]
WIDTHS = (0.1, 0.25, 0.5, 1.0)
SIZES = (8, 17, 32)
CLASSES = 10


def build(name: str, size: int = 8, **options: Any) -> Any:
    """A space for images of a size."""
    return build_space(complete(make_config({"space": name, "space_options": options})), CLASSES, size)


def one_line(error: Exception, *said: str) -> None:
    """Check that an error is one clear line."""
    text = str(error)
    assert text
    assert "\n" not in text
    assert all(part in text for part in said)


def takes(kind: str, name: str, option: str) -> bool:
    """Whether a part has an option."""
    return option in registry.parameters(registry.load(kind, name))


@cache
def builds(name: str) -> dict[tuple[float | None, int], dict[str, Any]]:
    """The widths and image sizes (of those above) at which a space builds, with its options, the smallest first."""
    base = registry.preset("space", name, "quick", PRESETS["quick"], PRESETS["quick"])
    found = {}
    for width, size in product(WIDTHS if takes("space", name, "width") else (None,), SIZES):
        options = base if width is None else {**base, "width": width}
        try:
            build(name, size, **options)
        except OptionError as e:
            one_line(e)
        else:
            found[width, size] = options
    return found


def smallest(name: str) -> tuple[int, dict[str, Any]]:
    """The least image size at which a space builds, and its options for the least network."""
    size = min(size for _, size in builds(name))
    return size, next(options for (_, s), options in builds(name).items() if s == size)


def network(name: str, architecture: Any) -> nn.Module:
    """An architecture of a space at its smallest."""
    size, options = smallest(name)
    return instantiate(lambda: build(name, size, **options), architecture)


def drawn(space: Any, seed: int = 0) -> dict[str, Any]:
    """A random architecture."""
    state = RandomState(seed)
    return validate(space, {k: m.random(random_state=state) for k, m in space.simplify().items()})


def logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The main logits; some networks return auxiliary ones behind them."""
    output = model(images)
    return output[0] if isinstance(output, (tuple, list)) else output


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names])
def test_every_part_is_described_and_documented(kind: str, name: str) -> None:
    summary = registry.summaries(kind)[name]
    assert summary.endswith(".")
    factory = registry.load(kind, name)
    assert summary == (getattr(factory, "__wrapped__", factory).__doc__ or "").strip().split("\n")[0]
    with pytest.raises(NasbenchError, match="no_such_option") as refused:
        registry.build(kind, name, {"no_such_option": 1})
    assert "\n" not in str(refused.value)


# Spaces


@pytest.mark.parametrize("name", SPACES)
def test_a_space_builds_at_several_widths_and_sizes(name: str) -> None:
    found = builds(name)
    sized = any(takes("space", name, option) for option in SIZE_NAMES)
    assert len({size for _, size in found}) >= (2 if sized else 1)
    assert len({width for width, _ in found}) >= (2 if takes("space", name, "width") else 1)
    counts = set()
    for (width, size), options in found.items():
        first = {label: values[0] for label, values in choices(build(name, size, **options)).items()}
        model = instantiate(lambda size=size, options=options: build(name, size, **options), first).eval()
        images = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert logits(model, images).shape == (2, CLASSES)
        if size == 32:
            counts.add((width, sum(p.numel() for p in model.parameters())))
    by_width = [count for _, count in sorted(counts)]
    assert by_width == sorted(set(by_width))  # wider is larger


@pytest.mark.parametrize("name", SPACES)
def test_labels_and_named_architectures(name: str) -> None:
    size, options = smallest(name)
    space = build(name, size, **options)
    found = choices(space)
    assert found
    for label, values in found.items():
        assert "/" not in label
        assert values == json.loads(json.dumps(values))
    for given, architecture in named(space).items():
        assert resolve(space, given) == validate(space, architecture)
    if named(space):
        assert resolve(space, None) == next(iter(named(space).values()))
    for architecture in (drawn(space, 1), drawn(space, 2)):
        assert resolve(space, json.loads(json.dumps(architecture))) == architecture


@pytest.mark.parametrize("name", SPACES)
def test_every_candidate_trains_a_step(name: str) -> None:
    size, options = smallest(name)
    found = choices(build(name, size, **options))
    for index in range(max(map(len, found.values()))):
        torch.manual_seed(0)
        model = network(name, {label: values[index % len(values)] for label, values in found.items()}).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        before = [p.detach().clone() for p in model.parameters()]
        loss = nn.functional.cross_entropy(logits(model, torch.randn(4, 3, size, size)), torch.arange(4))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
        assert all(p.isfinite().all() for p in model.parameters())
        changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
        assert np.mean(changed) > 0.9


@pytest.mark.parametrize("name", SPACES)
def test_freezing_and_saving(name: str, tmp_path: Path) -> None:
    size, options = smallest(name)
    space = build(name, size, **options)
    architecture = drawn(space, 3)
    model, again = (network(name, architecture) for _ in range(2))
    images = torch.randn(2, 3, size, size)
    logits(model.train(), images)  # moves the batch statistics, which have to be saved too
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "model.safetensors")
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    frozen = space.freeze(architecture)
    assert frozen.state_dict().keys() == model.state_dict().keys()
    frozen.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = logits(model.eval(), images)
        for other in (again, frozen):
            assert torch.equal(logits(other.eval(), images), expected)


@pytest.mark.parametrize("name", SPACES)
def test_profile(name: str) -> None:
    size, options = smallest(name)
    model = network(name, drawn(build(name, size, **options)))
    counted = profile(model, size)
    assert counted.params == sum(p.numel() for p in model.parameters()) == sum(p.params for p in counted.parts)
    assert counted.madds == sum(p.madds for p in counted.parts) > 0
    assert all(p.output for p in counted.parts if p.madds)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names])
def test_every_option_can_be_written_down_and_read_back(kind: str, name: str) -> None:
    options = registry.complete(kind, name, {})
    assert json.loads(json.dumps(options, allow_nan=False)) == options
    assert registry.complete(kind, name, options) == options
    assert not set(options) & set(registry.OWNED[kind])


# Strategies and evaluators


def attempt(out: Path, space: str, strategy: str, evaluator: str = "classification") -> Record | None:
    """Run one short epoch of everything; `None` where that was refused, in one line and before anything was written."""
    size, options = smallest(space)
    settings = {
        "space": space,
        "space_options": options,
        "strategy": strategy,
        "strategy_options": {"warmup_epochs": 0} if takes("strategy", strategy, "warmup_epochs") else {},
        "evaluator": evaluator,
        "dataset": "digits",
        "image_size": size,
        "train_images": 64,
        "batch_size": 16,
        "epochs": 1,
        "retrain_epochs": 1,
        "max_trials": 6,
        "device": "cpu",
    }
    record: Record | None = None
    try:
        record = run(resolve_config(settings), out)
    except NasbenchError as e:
        one_line(e)
    if record is None:
        assert not out.exists() or not list(out.iterdir())
        return None
    result = record.result().model_dump()
    assert record.status().state == "finished"
    assert 0 <= result["top1"] <= 1
    assert result["params"] > 0
    architecture = record.architecture()
    assert resolve(build(space, size, **options), architecture) == architecture
    assert record.decisions().keys() == architecture.keys()
    with torch.no_grad():
        assert logits(load_model(record.path), torch.zeros(1, 3, size, size)).shape == (1, CLASSES)
    return record


PAIRS = [(SPACES[i % len(SPACES)], STRATEGIES[i % len(STRATEGIES)]) for i in range(max(len(SPACES), len(STRATEGIES)))]


@pytest.mark.parametrize(("space", "strategy"), PAIRS)
def test_strategies_search_spaces(space: str, strategy: str, tmp_path: Path) -> None:
    if attempt(tmp_path / "pair", space, strategy) is None:
        # Not this pair, then; but what is good for nothing else either is broken.
        assert any(attempt(tmp_path / s, s, strategy) for s in SPACES)
        assert any(attempt(tmp_path / s, space, s) for s in STRATEGIES)


@pytest.mark.slow
@pytest.mark.parametrize(("space", "strategy"), [p for p in product(SPACES, STRATEGIES) if p not in PAIRS])
def test_all_strategies_search_all_spaces_or_refuse(space: str, strategy: str, tmp_path: Path) -> None:
    attempt(tmp_path / "pair", space, strategy)  # where it is refused, that is what it checks


@pytest.mark.parametrize("name", NAMES["evaluator"])
def test_an_evaluator_fits_a_short_epoch(name: str, tmp_path: Path) -> None:
    assert any(attempt(tmp_path / space, space, "random", name) for space in SPACES)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "space"), list(product(NAMES["evaluator"], SPACES)))
def test_all_evaluators_train_all_spaces_or_refuse(name: str, space: str, tmp_path: Path) -> None:
    attempt(tmp_path / "pair", space, "random", name)  # likewise


@pytest.mark.parametrize("name", NAMES["evaluator"])
def test_an_evaluator_can_be_sent(name: str) -> None:
    """NNI sends evaluators to other processes as JSON of limited size."""
    config = resolve_config({"evaluator": name, "dataset": "digits", "device": "cpu", "train_images": 64})
    context = {"dataset": "digits", "data": config.data_options(), "epochs": 1, "device": "cpu"}
    taken = {k: v for k, v in context.items() if takes("evaluator", name, k)}
    evaluator = registry.build("evaluator", name, config.evaluator_options, **taken)
    sent = nni.dump(evaluator)
    assert len(sent) < 4096
    assert type(nni.load(sent)) is type(evaluator)
    assert nni.dump(nni.load(sent)) == sent


# Data sets


@pytest.mark.parametrize("name", NAMES["dataset"])
def test_a_data_set_is_split_and_normalised_or_says_where_it_was_looked_for(name: str, tmp_path: Path) -> None:
    root = os.environ.get("NASBENCH_DATA") or str(tmp_path / "absent")
    for size, stage in ((12, "search"), (20, "retrain")):
        options = {"data_root": root, "image_size": size, "batch_size": 8, "stage": stage}
        data = registry.build_dataset(name, options)
        try:
            data.setup()
        except DataError as e:
            one_line(e, root)
            return
        first, second = data.splits()
        assert len(first) >= len(second) > 0
        assert not set(first.tolist()) & set(second.tolist())
        assert len(first) + len(second) == len(data.train_labels)
        assert set(data.train_labels.tolist()) == set(range(data.num_classes))
        told = data.description()
        assert json.loads(json.dumps(told))["class_names"] == data.class_names
        assert (told["image_size"], len(data.class_names)) == (size, data.num_classes)
        assert len(data.mean) == len(data.std) in (1, 3)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            images, labels = data.on_after_batch_transfer(next(iter(loader)), 0)
            assert images.shape == (len(labels), 3, size, size)
            assert images.dtype == torch.float32
            assert images.isfinite().all()
            assert labels.dtype == torch.int64
            assert 0 <= int(labels.min()) <= int(labels.max()) < data.num_classes
