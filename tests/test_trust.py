"""A stranger's record runs nothing: names of modules in it are not imported, whatever is done with the record."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

import nasbench
from nasbench import registry
from nasbench.cli import main
from nasbench.errors import OptionError
from nasbench.pipeline import run
from nasbench.presets import resolve_config
from tests.records import unsealed

KINDS = ("space", "strategy", "evaluator", "dataset")
TINY = {
    **{"space_options": {"width": 0.05}, "image_size": 8, "train_images": 64, "batch_size": 16, "device": "cpu"},
    **{"epochs": 1, "retrain_epochs": 1, "strategy": "random", "dataset": "digits"},
}
READING = (
    ("show", "RECORD"),
    ("show", "RECORD", "--json"),
    ("table", "enhancers", "RECORD"),
    ("table", "table3", "RECORD"),
    ("plot", "RECORD", "--output", "OUT"),
    ("plot", "RECORD", "--what", "receptive-field", "--output", "OUT"),
    ("report", "RECORD", "--output", "OUT"),
    ("compare", "RECORD", "RECORD"),
    ("profile", "--architecture", "RECORD"),
    ("export", "RECORD", "--format", "safetensors", "--output", "FILE", "--force"),
    ("predict", "RECORD", "PICTURE"),
)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished record."""
    return run(resolve_config(TINY), tmp_path_factory.mktemp("runs")).path


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module that leaves a trace as soon as it is imported; it is the current one."""
    (tmp_path / "stranger.py").write_text(
        "open('trace', 'w').close()\ndef part(**options): open('trace', 'w').close()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger", raising=False)
    return tmp_path


def forged(template: Path, folder: Path, kind: str, name: str, **options: str) -> Path:
    """A copy of a record that names another part."""
    record = folder / "record"
    shutil.copytree(template, record)
    settings = yaml.safe_load((record / "config.yaml").read_text())
    settings |= {kind: name, f"{kind}_options": options or {"command": "touch trace"}}
    (record / "config.yaml").write_text(yaml.safe_dump(settings))
    unsealed(record)  # a stranger can do sums too
    return record


def reads_it_and_runs_nothing(record: Path, planted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a record to every command that reads."""
    Image.new("L", (8, 8)).save(planted / "picture.png")
    for command in READING:
        places = {"OUT": "out", "FILE": "net.safetensors", "PICTURE": "picture.png"}
        words = [str(planted / places[word]) if word in places else word for word in command]
        words = [str(record) if word == "RECORD" else word for word in words]
        monkeypatch.setattr(sys, "argv", ["nasbench", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code in (0, 2), command
        assert not (planted / "trace").exists(), command
        assert "stranger" not in sys.modules, command


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["stranger:part", "os:system", "subprocess:check_output"])
def test_reading_a_record_runs_nothing(
    kind: str, name: str, template: Path, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = forged(template, planted, kind, name)
    reads_it_and_runs_nothing(record, planted, monkeypatch)
    if kind == "space":
        with pytest.raises(OptionError, match=r"not registered.*trust"):
            nasbench.load_model(record)
        assert not (planted / "trace").exists()


def test_a_backbone_that_a_record_names_is_not_imported_either(
    template: Path, planted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = forged(template, planted, "space", "metapool", backbone="stranger:part")
    reads_it_and_runs_nothing(record, planted, monkeypatch)
    with pytest.raises(OptionError, match=r"backbone 'stranger:part' is not registered.*trust"):
        nasbench.load_model(record)
    assert not (planted / "trace").exists()


def test_trust_is_asked_for_by_name(
    template: Path, planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = forged(template, planted, "space", "stranger:part")
    arguments = ["plot", str(record), "--what", "receptive-field", "--output", str(planted / "out")]
    monkeypatch.setattr(sys, "argv", ["nasbench", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--trust" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["nasbench", *arguments, "--trust"])
    with pytest.raises(SystemExit, match="2"):
        main()  # now it is imported, and is no space: it is not called
    assert "'stranger:part' is no nni ModelSpace" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "name"), [(kind, "os:system") for kind in KINDS])
def test_what_is_no_such_part_is_not_called(kind: str, name: str) -> None:
    with pytest.raises(OptionError, match=f"{kind} '{name}' is no "):
        registry.build(kind, name, {})
    with pytest.raises(OptionError, match=f"{kind} '{name}' is no "):
        resolve_config({kind: name})


def test_trust_ends_with_its_block() -> None:
    with registry.trusting(False), pytest.raises(OptionError, match="not registered"):
        registry.load("space", "os:system")
    with pytest.raises(OptionError, match="is no nni ModelSpace"):
        registry.load("space", "os:system")
