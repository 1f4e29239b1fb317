"""The command line as a user meets it: real processes, exit codes, what lands on stdout and stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from nasbench.cli import main

TINY = [
    *("-p", "width=0.05", "--image-size", "8", "--train-images", "64", "--batch-size", "16"),
    *("--epochs", "1", "--retrain-epochs", "1", "--device", "cpu"),
]


def nasbench(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "nasbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "200", **environment},
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One tiny run by the command line."""
    out = tmp_path_factory.mktemp("runs")
    done = nasbench("run", *TINY, "-s", "warmup_epochs=0", "--out", str(out), "--json")
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_last_line_of_stdout_is_the_json(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    out, done = finished
    assert len(done.stdout.splitlines()) == 1
    result = json.loads(done.stdout)
    assert list(result) == [
        *(
            "top1",
            "top5",
            "balanced_accuracy",
            "params",
            "madds",
            "search_seconds",
            "retrain_seconds",
            "peak_memory_bytes",
        ),
        *("search", "limits", "architecture", "names", "label", "record"),
    ]
    assert 0 <= result["top1"] <= result["top5"] <= 1
    assert len(result["architecture"]) == 17
    assert Path(result["record"]).parent == out
    assert "search" in done.stderr
    assert "retrain" in done.stderr


def test_show_repeats_it(finished: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    result = json.loads(finished[1].stdout)
    assert json.loads(nasbench("show", result["record"], "--json").stdout) == result
    shown = nasbench("show", result["record"]).stdout
    for label, candidate in result["architecture"].items():
        assert any(line.split()[:2] == [label, candidate] for line in shown.splitlines())
    assert f"{100 * result['top1']:.2f} %" in shown
    assert f"{result['params']:,} parameters" in shown


def test_help_is_light() -> None:
    code = (
        "import sys\n"
        "from nasbench.cli import app\n"
        "app(['--help'], standalone_mode=False)\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'nni', 'pandas', 'matplotlib')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version_is_told() -> None:
    done = nasbench("--version")
    assert (done.returncode, done.stdout) == (0, f"nasbench {version('nasbench')}\n")


def test_nni_warns_of_nothing_when_it_comes_after_us(tmp_path: Path) -> None:
    code = "import nasbench, nni.nas.strategy; import nasbench.pipeline"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Warning" not in done.stderr


def test_list_reads_names_without_importing() -> None:
    listed = json.loads(nasbench("list", "--json").stdout)
    assert {"pmpl", "darts", "random"} <= set(listed["strategies"])
    assert {"digits", "fashion_mnist", "cifar10", "cifar100", "imagenet", "imagefolder", "arrays"} <= set(
        listed["datasets"]
    )
    assert all(text and "\n" not in text for names in listed.values() for text in names.values())
    assert list(json.loads(nasbench("list", "spaces", "--json").stdout)) == list(listed["spaces"])
    code = (
        "import sys\n"
        "from nasbench.registry import GROUPS, summaries\n"
        "[summaries(k) for k in GROUPS]\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('torch', 'nni')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_options_of_a_part_are_listed() -> None:
    shown = nasbench("options", "pmpl").stdout
    assert "-s NAME=VALUE" in shown
    assert any(line.split()[:4] == ["rho", "0", "to", "1"] for line in shown.splitlines())
    assert "preset quick: fixing=evidence" in shown
    assert "nasbench.strategies.differentiable.Differentiable" in shown  # takes eta
    both = json.loads(nasbench("options", "planted", "--json").stdout)
    assert both["space"] == []
    assert [option["name"] for option in both["dataset"]] == ["noise", "draw", "meta_fraction"]
    assert both["dataset"][0]["text"] == "share of the bits drawn by lot in place of the label's"
    (foreign,) = json.loads(nasbench("options", "nni.nas.strategy:GumbelDARTS", "--json").stdout).values()
    assert {"name": "temperature", "default": "(1.0, 0.33)"}.items() <= foreign[0].items()
    for wrong in ("pmlp", "nni.nas.strategy:Gumbel"):
        refused = nasbench("options", wrong)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
        assert "did you mean" in refused.stderr


def test_how_much_is_said(tmp_path: Path) -> None:
    words = ("run", *TINY, "--choice", "none", "--out", str(tmp_path))
    quiet = nasbench(*words, "--quiet")
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert "test accuracy" in quiet.stdout
    verbose = nasbench(*words, "-v")
    assert "INFO pytorch_lightning" in verbose.stderr
    assert "test accuracy" in verbose.stdout
    assert "INFO" not in verbose.stdout
    assert nasbench(*words, "-q", "--precision", "8").stderr.startswith("error: ")


def test_a_shell_completes_commands_and_options() -> None:
    asked = {"_NASBENCH_COMPLETE": "complete_bash", "COMP_CWORD": "1", "COMP_WORDS": "nasbench ta"}
    command = [str(Path(sys.executable).with_name("nasbench"))]
    for words, found in (("nasbench ta", ["table", "tabular"]), ("nasbench run --stop", ["--stop-after"])):
        asked |= {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
        done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, check=False)
        assert done.stdout.split() == found, done.stderr


def test_profile() -> None:
    told = json.loads(nasbench("profile", "--architecture", "paper", "--width", "1.0", "--json").stdout)
    assert round(told["params"] / 1e6, 3) == 3.911
    assert round(told["madds"] / 1e6, 1) == 305.4
    assert sum(b["params"] for b in told["blocks"]) == told["params"]
    assert "305.4 M" in nasbench("profile", "--architecture", "paper").stdout


def test_a_network_drawn_at_random_is_the_same_for_a_seed() -> None:
    drawn = [json.loads(nasbench("profile", "--architecture", w, "--json").stdout) for w in ("random", "random:0")]
    other = json.loads(nasbench("profile", "--architecture", "random:1", "--json").stdout)
    assert drawn[0]["architecture"] == drawn[1]["architecture"] != other["architecture"]
    assert len({*other["architecture"].values()}) > 3
    assert "unknown architecture 'random:x'" in nasbench("profile", "--architecture", "random:x").stderr


def test_what_a_foreign_strategy_needs_is_named() -> None:
    if find_spec("tianshou"):
        pytest.skip("tianshou is installed")
    refused = nasbench("run", "--strategy", "nni.nas.strategy:PolicyBasedRL")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert 'pip install "nasbench[rl]"' in refused.stderr


def test_print_config_is_complete_and_reads_back(tmp_path: Path) -> None:
    printed = nasbench("run", "--strategy", "darts", "--seed", "3", "-s", "order=2", "--print-config").stdout
    settings = yaml.safe_load(printed)
    told = {"order": 2, "eta": 0.1, "zeta": None, "warmup_epochs": 3, "epochs": None, "meta_fraction": None}
    evidence = {"fixing": "none", "delta": 0.05, "undecided": "cheapest", "supernets": 1}
    assert settings["strategy_options"] == told | evidence
    assert (settings["preset"], settings["seed"], settings["space_options"]["width"]) == ("quick", 3, 0.25)
    path = tmp_path / "config.yaml"
    path.write_text(printed)
    assert nasbench("run", "--config", str(path), "--print-config").stdout == printed
    changed = yaml.safe_load(nasbench("run", "--config", str(path), "--seed", "4", "--print-config").stdout)
    assert changed == settings | {"seed": 4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--space", "mbv2_metapol"], "did you mean 'mbv2_metapool'"),
        (["run", "--space", "nowhere:Space"], "there is no module 'nowhere'"),
        (["run", "--space", "nni.nas.hub.pytorch:MobileNetV3Spac"], "did you mean 'MobileNetV3Space'"),
        (["run", "--space", "tests.toys:Broken"], "RuntimeError: no such weights"),
        (["run", "--space", "torch.nn:Identity"], "no nni ModelSpace"),
        (["run", "--strategy", "pmlp"], "did you mean 'pmpl'"),
        (["run", "--strategy", "torch.nn:Identity"], "no nni Strategy"),
        (["run", "--dataset", "digit"], "did you mean 'digits'"),
        (["run", "--evaluator", "classify"], "unknown evaluator 'classify'"),
        (["run", "--preset", "quik"], "did you mean 'quick'"),
        (["run", "-s", "roh=0.3"], "did you mean 'rho'"),
        (["run", "-s", "rho"], "NAME=VALUE"),
        (["run", "-s", "rho=2"], "rho must be > 0 and < 1, not 2"),
        (["run", "-s", "rho=high"], "rho='high'"),
        (["run", "-s", "epochs=2", "-s", "warmup_epochs=3"], "warmup_epochs is 3, but the search has only 2"),
        (["run", "-p", "widht=1"], "did you mean 'width'"),
        (["run", "-p", "width=0"], "width must be ≥ 0.05"),
        (["run", "-p", "candidates=none,globl"], "did you mean 'global'"),
        (["run", "-e", "label_smoothing=1.5"], "label_smoothing must be"),
        (["run", "--strategy", "darts", "-s", "order=3"], "order=3"),
        (["run", "--space", "tests.toys:CentrePixel", "--strategy", "fixed"], "names no architecture"),
        (["run", "--strategy", "fixed", "--choice", "globall"], "did you mean 'global'"),
        (["run", "--strategy", "fixed", "--choice", "no_such.json"], "unknown architecture 'no_such.json'"),
        (["run", "--strategy", "pmpl", "--choice", "global"], "nothing is left to strategy 'pmpl'"),
        (["run", "--strategy", "fixed", "-s", "order=2"], "unknown option of strategy 'fixed' 'order'"),
        (["run", "--epochs", "0"], "epochs: input should be greater than or equal to 1"),
        (["run", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["run", "--seed", "-1"], "seed: input should be greater than or equal to 0"),
        (["run", "--image-size", "3"], "image_size"),
        (["run", "--train-images", "0"], "train_images: input should be greater than or equal to 1"),
        (["run", "--device", "tpu"], "device must be"),
        (["run", "--precision", "8"], "precision"),
        (["run", "--config", "absent.yaml"], "config absent.yaml cannot be read"),
        (["run", "--weights", "absent.pth"], "weights absent.pth cannot be read"),
        (["run", "--dataset", "cifar10", "--data-root", "absent"], "data root absent does not exist"),
        (["run", "--spase", "x"], "No such option: --spase"),
        (["rum"], "No such command 'rum'"),
        (["list", "space"], "did you mean 'spaces'"),
        (["show", "absent"], "absent is not a run record"),
        (["profile", "--architecture", "papr"], "did you mean 'paper'"),
        (["profile", "-p", "image_size=2"], "image_size"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_no_record(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = ["--out", str(tmp_path / "runs")] if arguments[0] == "run" else []
    monkeypatch.setattr(sys, "argv", ["nasbench", *arguments, *out])
    with pytest.raises(SystemExit) as stopped:
        main()  # in this process: importing PyTorch forty times would take minutes
    stdout, stderr = capfd.readouterr()
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert stopped.value.code == 2
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert stdout == ""
    assert not (tmp_path / "runs").exists()


def test_a_process_exits_with_2_and_without_traceback(tmp_path: Path) -> None:
    done = nasbench("run", "-s", "rho=2", "--out", str(tmp_path / "runs"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: strategy 'pmpl': rho must be > 0 and < 1, not 2.0\n"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sed: 1", "did you mean 'seed'"),
        ("[1, 2]", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("space_options: 3", "space_options must be a mapping"),
        ("seed: soon", "seed: input should be a valid integer"),
    ],
)
def test_a_bad_config_file_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(content)
    done = nasbench("run", "--config", str(path), "--out", str(tmp_path / "runs"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_without_arguments_help_is_shown() -> None:
    done = nasbench()
    assert done.returncode == 2
    assert "Usage" in done.stdout + done.stderr
