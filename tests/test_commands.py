"""What the commands do with settings, with records of others, and with what must not reach a terminal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

import nasbench
from nasbench.cli import LazyGroup, app, main
from nasbench.commands import COMMANDS
from nasbench.config import RunConfig
from nasbench.errors import RecordError
from nasbench.record import Record, find_records
from nasbench.results.collect import collect
from nasbench.terminal import clean, one_line, plain_console, print_json
from tests.records import unsealed

ESCAPES = "\x1b[31mred\x1b]0;title\x07\x1b]8;;http://x\x1b\\\x9b2J\x08\u202etfel"
TINY: dict[str, Any] = {
    "space_options": {"width": 0.05},
    "image_size": 8,
    "train_images": 64,
    "batch_size": 16,
    "retrain_epochs": 1,
    "device": "cpu",
}


def call(*words: object) -> int:
    """Run the command in this process."""
    sys.argv = ["nasbench", *map(str, words)]
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def settings(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    """What `nasbench run` would run."""
    assert call("run", *words, "--print-config") == 0
    read = yaml.safe_load(capsys.readouterr().out)
    assert isinstance(read, dict)
    return read


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs, one of them deeper."""
    out = tmp_path_factory.mktemp("made")
    nasbench.run(out=out, strategy="pmpl", strategy_options={"warmup_epochs": 0}, epochs=1, **TINY)
    nasbench.run(out=out / "deeper", architecture="global", **TINY)
    return out


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """The same to be changed."""
    copy = Path(shutil.copytree(made, tmp_path / "runs"))
    for path in find_records(copy):
        unsealed(path)
    return copy


def record_of(runs: Path) -> Path:
    """The run that was searched."""
    return next(path for path in runs.iterdir() if path.name != "deeper")


def change(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, ensure_ascii=False))


# The command line itself


def test_help_names_every_command_and_none_is_imported_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys\nfrom nasbench.cli import app\napp(['--help'], standalone_mode=False)\n"
        "print([m for m in sys.modules if m.startswith('nasbench.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in COMMANDS:
        assert f"│ {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_line_of_help_is_that_of_the_command(name: str) -> None:
    from importlib import import_module

    command = import_module(f"nasbench.commands.{name}").command
    group = LazyGroup(name="nasbench")
    assert group.get_command(None, name).help == (command.__doc__ or "").splitlines()[0]


def test_every_setting_is_an_option_of_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    app(["run", "--help"], standalone_mode=False)
    shown = capsys.readouterr().out
    for name, field in RunConfig.model_fields.items():
        option = name.removesuffix("s") if name.endswith("_options") or name == "limits" else name
        assert f"--{option.replace('_', '-')} " in shown
        assert str(field.description)[:20] in shown
    for old in ("--choice", "--width", "--candidates", " -s ", " -p ", " -e ", " -d "):
        assert old in shown


def test_a_choice_replaces_the_strategy_of_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "searched.yaml"
    file.write_text(yaml.safe_dump(settings(capsys, "--strategy", "darts", "-s", "order=2")))
    given = settings(capsys, "--config", file, "--choice", "global")
    assert (given["strategy"], given["strategy_options"], given["architecture"]) == (None, {}, "global")
    assert call("run", "--config", file, "--strategy", "darts", "--choice", "global", "--print-config") == 2
    assert "nothing is left to strategy 'darts'" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(given))
    searched = settings(capsys, "--config", file, "--strategy", "pmpl")
    assert (searched["strategy"], searched["architecture"], searched["epochs"]) == ("pmpl", None, 12)


def test_options_of_a_file_belong_to_its_parts(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "pmpl.yaml"
    file.write_text("strategy: pmpl\nstrategy_options: {rho: 0.4, eta: 0.3}\nspace_options: {width: 0.5}\n")
    darts = settings(capsys, "--config", file, "--strategy", "darts", "-p", "position=output")
    assert "rho" not in darts["strategy_options"]
    assert darts["strategy_options"]["eta"] == 0.1
    assert (darts["space_options"]["width"], darts["space_options"]["position"]) == (0.5, "output")
    same = settings(capsys, "--config", file, "--strategy", "pmpl", "-s", "eta=0.2")
    assert (same["strategy_options"]["rho"], same["strategy_options"]["eta"]) == (0.4, 0.2)


def test_short_hands_are_options_of_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    space = settings(capsys, "--width", "0.5", "--candidates", "none,se", "-p", "position=output")["space_options"]
    assert (space["width"], space["candidates"], space["position"]) == (0.5, ["none", "se"], "output")
    assert settings(capsys, "-d", "meta_fraction=0.3")["dataset_options"] == {"meta_fraction": 0.3}


def test_a_setting_can_be_given_no_value(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("image_size: 16\ntrain_images: 100\n")
    assert settings(capsys, "--config", file)["image_size"] == 16
    given = settings(capsys, "--config", file, "--image-size", "none", "--train-images", "200", "--weights", "none")
    assert (given["image_size"], given["train_images"], given["weights"]) == (None, 200, None)
    assert call("run", "--image-size", "small") == 2
    assert "Invalid value for '--image-size'" in capsys.readouterr().err


# What reaches the terminal


def test_escapes_and_control_characters_are_taken_away() -> None:
    assert clean(f"a\tb\n{ESCAPES}\ud800") == "a\tb\nred2Jtfel"
    assert clean("\x1b]0;never ended\nnext") == "\nnext"
    assert one_line("a\nb\tc") == "a b c"
    assert len(one_line("x" * 3000)) == 2000


def test_a_console_prints_no_markup_and_no_escapes() -> None:
    console = plain_console(force_terminal=True)
    with console.capture() as captured:
        console.print(f"[bold]x[/nonsense] :smile: {ESCAPES}", style="bold")
    assert captured.get() == "\x1b[1m[bold]x[/nonsense] :smile: red2Jtfel\x1b[0m\n"


def test_json_keeps_what_it_escapes_and_holds_finite_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": ESCAPES})
    printed = capsys.readouterr().out
    assert clean(printed) == printed
    assert json.loads(printed)["name"] == ESCAPES
    with pytest.raises(ValueError, match="JSON"):
        print_json({"x": float("nan")})


def test_an_error_is_one_clean_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--space", f"mbv2\n{ESCAPES}{'x' * 5000}") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert clean(line) == line
    assert len(line) <= len("error: ") + 2000


@pytest.mark.parametrize(
    "how", [["show"], ["explain"], ["table", "strategies"], ["table", "strategies", "--format", "csv"]]
)
def test_a_strangers_record_does_not_reach_the_terminal_raw(
    runs: Path, how: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    record = record_of(runs)
    labels = json.loads((record / "architecture.json").read_text())
    architecture = {f"{ESCAPES}[/bold]{label}": candidate for label, candidate in labels.items()}
    decision = {"by": f"{ESCAPES}[red]"}
    (record / "architecture.json").write_text(json.dumps(architecture))
    (record / "decisions.json").write_text(json.dumps(dict.fromkeys(architecture, decision)))
    change(record / "result.json", architecture=architecture, label=f"{ESCAPES}[/red]")
    assert call(*how, record) == 0
    printed = capfd.readouterr()
    assert clean(printed.out + printed.err) == printed.out + printed.err
    assert "[/" in printed.out


# Records of others


def test_profile_counts_the_network_of_a_record(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    record = record_of(made)
    assert call("profile", "--architecture", record, "--json") == 0
    told = json.loads(capfd.readouterr().out)
    result = Record(record).result()
    assert (told["params"], told["madds"], told["architecture"]) == (result.params, result.madds, result.architecture)


@pytest.mark.parametrize(
    "words",
    [["--space", "menet"], ["--width", "1"], ["-p", "width=1"], ["--image-size", "32"], ["--dataset", "digits"]],
)
def test_profile_refuses_what_contradicts_the_record(
    made: Path, words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert call("profile", "--architecture", record_of(made), *words) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "is a record, which says itself what its network is" in line


def test_a_record_runs_code_only_where_it_is_trusted(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    record = record_of(runs)
    (tmp_path / "somebody.py").write_text(
        "from pathlib import Path\n"
        "Path('imported').touch()\n"
        "from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling as Space\n"
    )
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load((record / "config.yaml").read_text())
    (record / "config.yaml").write_text(yaml.safe_dump(config | {"space": "somebody:Space"}))
    reading = (
        *(["show", record], ["table", "strategies", record], ["compare", record, record]),
        *(["explain", record], ["explain", record, "-o", "page.html"]),
        *(["plot", record, "--output", "figures"], ["report", record, "--output", "page"]),
    )
    for words in reading:
        assert call(*words) == 0, capfd.readouterr().err
    assert call("plot", record, "--what", "receptive-field", "--output", "figures") == 2
    assert call("profile", "--architecture", record) == 2
    assert "allow it by --trust" in capfd.readouterr().err
    assert not (tmp_path / "imported").exists()
    assert call("profile", "--architecture", record, "--trust") == 0
    assert (tmp_path / "imported").exists()


# Packs and migration


def test_a_pack_is_read_as_the_folder_is(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    unfinished = Path(shutil.copytree(record_of(runs), runs / "unfinished"))
    status = json.loads((unfinished / "status.json").read_text())
    change(unfinished / "status.json", state="interrupted", stages={"search": status["stages"]["search"]})
    pack = tmp_path / "all.records.xz"
    assert call("pack", runs, "-o", pack) == 0
    assert f"skipped {unfinished}" in capfd.readouterr().err
    folder, packed = collect([runs]).frame, collect([pack]).frame
    pd.testing.assert_frame_equal(folder.drop(columns="path"), packed.drop(columns="path"))
    names = [str(Path(path).relative_to(pack)) for path in packed["path"]]
    assert names == [str(Path(path).relative_to(runs)) for path in folder["path"]]
    for name in names:
        assert call("show", pack / name) == 0
        assert f"record: {pack / name}" in capfd.readouterr().out.replace("\n", "")
    record = Record(pack / names[0])
    assert record.file("model.safetensors") is record.file("log.txt") is record.file(".lock") is None
    assert call("profile", "--architecture", pack / names[0]) == 0


def test_a_pack_tells_no_folder_of_the_machine(runs: Path, tmp_path: Path) -> None:
    record = record_of(runs)
    change(record / "environment.json", command=["nasbench", "run", "--out", "/home/me/runs", "--data-root=/data/me"])
    pack = tmp_path / "one.records.xz"
    assert call("pack", record, "-o", pack) == 0
    packed = Record(pack / record.name)
    assert str(packed.config().data_root) == "data"
    assert packed.result().record == record.name
    command = json.loads((packed.file("environment.json") or Path()).read_text())["command"]
    assert command == ["nasbench", "run", "--out", "runs", "--data-root=me"]


def test_a_pack_overwrites_nothing_else(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pack = tmp_path / "all.records.xz"
    assert call("pack", runs, "-o", pack) == 0
    assert call("pack", runs, "-o", pack) == 0  # the same content
    shutil.rmtree(runs / "deeper")
    before = pack.read_bytes()
    assert call("pack", runs, "-o", pack) == 2
    assert "exists and holds something else" in capfd.readouterr().err
    assert pack.read_bytes() == before
    assert call("pack", runs, "-o", tmp_path / "all.tar.xz") == 2
    assert call("pack", tmp_path / "nowhere", "-o", tmp_path / "x.records.xz") == 2


def test_migrate_says_what_it_changed(runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert call("pack", runs, "-o", runs / "old.records.xz") == 0
    record = next((runs / "deeper").iterdir())
    config = yaml.safe_load((record / "config.yaml").read_text())
    given = {"strategy": "fixed", "strategy_options": {"choice": "global"}, "epochs": 12, "max_trials": 20}
    del config["architecture"], config["dataset_options"]
    (record / "config.yaml").write_text(yaml.safe_dump(config | given))
    status = json.loads((record / "status.json").read_text())
    del status["schema_version"]
    (record / "status.json").write_text(json.dumps(status))
    result = json.loads((record / "result.json").read_text())
    earlier = {k: v for k, v in result.items() if k not in ("search", "names", "label")} | {"fixed_by_threshold": 0}
    (record / "result.json").write_text(json.dumps(earlier))
    decision = {"by": "fixed", "step": None, "pi": None, "train_loss": None}
    (record / "decisions.json").write_text(json.dumps(dict.fromkeys(result["architecture"], decision)))
    assert call("show", record) == 2
    assert "`nasbench migrate" in capfd.readouterr().err
    assert call("migrate", runs) == 0
    told = capfd.readouterr()
    assert told.out.splitlines() == [str(record)]
    assert told.err == "1 of 2 record(s) brought up to date\n"
    assert json.loads((record / "result.json").read_text()) == result
    assert call("migrate", tmp_path / "nowhere") == 2


# The same from Python


def test_a_run_from_python_is_that_of_the_command_line(made: Path) -> None:
    run = nasbench.Run(record_of(made))
    assert repr(run) == f"Run({str(record_of(made))!r})"
    assert run.config.epochs == 1
    assert run.architecture == run.result.architecture
    assert set(run.decisions) == set(run.architecture)
    assert list(run.alphas.columns) == ["step", "label", "candidate", "pi", "fixed"]
    assert set(run.alphas["label"]) == set(run.architecture)
    assert set(run.metrics["stage"]) == {"search", "retrain"}
    assert sum(p.numel() for p in run.model().parameters()) == run.result.params
    assert run.plot().axes
    assert run.plot("alphas").axes
    shown = run._repr_html_()
    assert f"{run.result.params:,} parameters" in shown
    assert "<script" not in shown
    with pytest.raises(RecordError, match=r"no search\.csv"):
        _ = nasbench.Run(next((made / "deeper").iterdir())).alphas
    assert len(nasbench.collect(made)) == 2


def test_the_html_of_a_strangers_run_is_escaped(runs: Path) -> None:
    record = record_of(runs)
    (record / "architecture.json").write_text(json.dumps({"<script>alert(1)</script>": "x"}))
    (record / "decisions.json").write_text(json.dumps({"<script>alert(1)</script>": {"by": "me"}}))
    shown = nasbench.Run(record)._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_python_takes_every_setting_by_its_name() -> None:
    import inspect

    parameters = inspect.signature(nasbench.run).parameters
    assert set(parameters) == {*RunConfig.model_fields, "out"}
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())


def test_the_package_shows_its_interface() -> None:
    assert set(nasbench.__all__) < set(dir(nasbench))
    for name in nasbench.__all__:
        assert getattr(nasbench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = nasbench.nonsense
