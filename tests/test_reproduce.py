"""The command that repeats a run gives its configuration, whatever that is."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from records import LABELS, NAMES
from typer.testing import CliRunner

from nasbench.cli import app
from nasbench.config import Role, RunConfig
from nasbench.errors import OptionError
from nasbench.presets import resolve_config
from nasbench.results.report import command

GROUPS = {"-p": "space_options", "-s": "strategy_options", "-e": "evaluator_options", "-d": "dataset_options"}
RATES = st.sampled_from([1e-05, 3e-4, 0.1, 0.25])


def read(text: str) -> RunConfig:
    """The configuration of a command, by the rules of the command line."""
    found: dict[str, Any] = {}
    words = shlex.split(text)[2:]
    for flag, value in zip(words[::2], words[1::2], strict=True):
        if flag in GROUPS:
            name, _, content = value.partition("=")
            found.setdefault(GROUPS[flag], {})[name] = yaml.safe_load(content)
        elif flag == "--choice":
            found["architecture"] = value
        else:
            number = value.lstrip("-").isdigit() and flag != "--precision"
            found[flag[2:].replace("-", "_")] = None if value == "none" else int(value) if number else value
    return resolve_config(found)


def options(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


spaces = st.one_of(
    st.fixed_dictionaries(
        {
            "space": st.just("mbv2_metapool"),
            "space_options": options(
                width=st.sampled_from([0.25, 0.5, 1]),
                candidates=st.sampled_from(["full", "ablation", "none, se", ["none", "se", "cbam"]]),
                position=st.sampled_from(["expanded", "output"]),
                dropout=st.sampled_from([0, 0.5]),
                attention_reduction=st.sampled_from([None, 4]),
            ),
        }
    ),
    st.fixed_dictionaries({"space": st.just("menet"), "space_options": options(groups=st.just([1, 3]))}),
)
methods = st.one_of(
    st.fixed_dictionaries(
        {"strategy": st.just("pmpl"), "strategy_options": options(eta=RATES, warmup_epochs=st.integers(0, 3))}
    ),
    st.fixed_dictionaries({"strategy": st.just("darts"), "strategy_options": options(order=st.sampled_from([1, 2]))}),
    st.fixed_dictionaries({"strategy": st.just("random"), "strategy_options": options(trials=st.integers(1, 3))}),
    st.fixed_dictionaries({"architecture": st.sampled_from(["none", "global", "228-12x1"])}),
    st.fixed_dictionaries(
        {"architecture": st.builds(dict, st.tuples(*(st.tuples(st.just(x), st.sampled_from(NAMES)) for x in LABELS)))}
    ),
)
evaluators = st.one_of(
    st.fixed_dictionaries(
        {
            "evaluator": st.just("classification"),
            "evaluator_options": options(
                learning_rate=RATES, milestones=st.sampled_from([None, [0.5, 0.75]]), channels_last=st.booleans()
            ),
        }
    ),
    st.fixed_dictionaries(
        {
            "evaluator": st.just("online_distillation"),
            "evaluator_options": options(gradient_clip=st.sampled_from([None, 1.5]), students=st.integers(2, 4)),
        }
    ),
)
others = options(
    dataset=st.sampled_from(["digits", "fashion_mnist", "imagenet"]),
    dataset_options=options(meta_fraction=RATES.filter(lambda x: x >= 0.1)),
    preset=st.sampled_from(["quick", "cifar", "paper", "finetune"]),
    seed=st.integers(0, 2**32 - 1),
    epochs=st.integers(4, 40),
    retrain_epochs=st.integers(1, 300),
    batch_size=st.integers(1, 256),
    image_size=st.sampled_from([None, 28, 64]),
    train_images=st.sampled_from([None, 2000, 12345]),
    weights=st.sampled_from([None, "default", "my weights.safetensors"]),
    retrain=st.sampled_from(["scratch", "finetune"]),
    device=st.sampled_from(["auto", "cpu", "cuda", "cuda:1"]),
    devices=st.integers(1, 4),
    nodes=st.integers(1, 2),
    precision=st.sampled_from(["32", "bf16", "64"]),
    max_trials=st.integers(1, 30),
    data_root=st.just("some where"),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.builds(lambda *parts: {k: v for part in parts for k, v in part.items()}, spaces, methods, evaluators, others))
def test_the_command_of_a_run_gives_its_configuration(given: dict[str, Any]) -> None:
    try:
        config = resolve_config(given)
    except OptionError:
        assume(False)
    assert read(command(config)) == config


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"strategy": "pmpl", "strategy_options": {"eta": 1e-05, "rho": 0.3}, "preset": "cifar", "seed": 7},
        {"architecture": {"block01.enhancer": "none"}, "dataset": "cifar10"},
        {"space_options": {"candidates": ["none", "se"], "width": 0.5}, "precision": "bf16", "train_images": 1000},
        {"space_options": {"position": "output"}, "strategy": "random", "batch_size": 32, "image_size": 28},
        {"dataset": "imagefolder", "skip_broken": True, "space_options": {"strides": "original"}},
        {"dataset": "imagefolder", "preset": "finetune", "epochs": 5, "retrain_epochs": 10},
        {"weights": "default", "retrain": "scratch", "preset": "finetune"},
        {"epochs": 4, "strategy_options": {"warmup_epochs": 3}},  # of 4 epochs the preset would take one
        {"device": "cuda", "devices": 4, "evaluator": "online_distillation", "epochs": 6},
    ],
)
def test_the_command_line_understands_it(given: dict[str, Any]) -> None:
    config = resolve_config(given)
    text = command(config)
    assert ("--device cuda --devices 4" in text) == ("device" in given)
    printed = CliRunner().invoke(app, [*shlex.split(text)[1:], "--print-config"])
    assert printed.exit_code == 0, printed.output
    assert yaml.safe_load(printed.stdout) == config.model_dump(mode="json")


def test_of_all_that_is_usual_nothing_is_said() -> None:
    assert command(resolve_config({})) == (
        "nasbench run --space mbv2_metapool --strategy pmpl --dataset digits --seed 0"
    )
    fixed = command(
        resolve_config({"architecture": "local", "train_images": None, "dataset": "fashion_mnist", "preset": "quick"})
    )
    assert fixed == (
        "nasbench run --space mbv2_metapool --strategy fixed --dataset fashion_mnist --choice local --preset quick "
        "--train-images none --seed 0"
    )


def test_several_seeds_are_a_loop() -> None:
    text = command(resolve_config({}), [0, 2])
    assert text.startswith("for seed in 0 2; do nasbench run ")
    assert text.endswith(" --seed $seed; done")


def test_parts_that_are_not_registered_run_nothing_until_they_are_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text(
        "from pathlib import Path\nfrom nasbench.spaces.menet import MENetSpace\nPath('ran').touch()\n"
    )
    usual = resolve_config({"space": "menet", "preset": "quick"})
    config = usual.model_copy(update={"space": "stranger:MENetSpace"})
    text = command(config)
    assert not (tmp_path / "ran").exists()
    assert "-p width=0.25" in text
    assert "--batch-size 64" in text
    assert read(text).differing(config, *Role) == []
    assert (tmp_path / "ran").exists()
    assert len(command(config, trust=True)) < len(text)
