"""What a record means, whatever becomes of the code that wrote it, and whatever a stranger puts into its files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from records import LABELS, NAMES, write_run
from safetensors.torch import save_file

from nasbench import presets, registry
from nasbench import record as records
from nasbench.config import RESULT, SETTING
from nasbench.errors import RecordError
from nasbench.networks import derived, load_model
from nasbench.presets import resolve_config
from nasbench.record import Record
from nasbench.results.collect import collect, setting
from nasbench.results.figures import plot
from nasbench.spaces.mbv2_metapool import MobileNetV2MetaPooling
from nasbench.strategies.darts import DARTS
from nasbench.strategies.pmpl import PMPL
from nasbench.studies.metapooling import TABLES

FOUND = {label: NAMES[i % 3] for i, label in enumerate(LABELS)}


class LaterSpace(MobileNetV2MetaPooling):
    """The space as somebody may have changed it since."""

    presets: ClassVar = {"quick": {"width": 0.5, "dropout": 0.7}}

    def __init__(
        self, width: float = 0.75, position: str = "output", dropout: float = 0.9, flavour: str = "new", **options: Any
    ) -> None:
        super().__init__(width=width, position=position, dropout=dropout, **options)


class LaterStrategy(PMPL):
    """Likewise."""

    presets: ClassVar = {"quick": {"rho": 0.9, "patience": 5}}

    def __init__(self, *, rho: float = 0.5, patience: int = 3, eta: float = 0.7) -> None:
        super().__init__(rho=rho, eta=eta)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes it later: presets and parts have changed under their old names."""

    def change() -> None:
        found = {kind: dict(registry.entries(kind)) for kind in registry.GROUPS}
        for kind, name, changed in (("space", "mbv2_metapool", LaterSpace), ("strategy", "pmpl", LaterStrategy)):
            found[kind][name] = EntryPoint(name, f"{__name__}:{changed.__name__}", registry.GROUPS[kind])
        monkeypatch.setattr(registry, "entries", lambda kind: found[kind])
        monkeypatch.setitem(presets.PRESETS, "quick", {"epochs": 1, "retrain_epochs": 2, "precision": "bf16"})

    return change


def test_later_presets_options_and_defaults_change_no_record(tmp_path: Path, later: Callable[[], None]) -> None:
    given: dict[str, Any] = {"space_options": {"candidates": "ablation"}, "preset": "quick"}
    searched = write_run(tmp_path, strategy="pmpl", architecture=FOUND, steps=4, **given)
    fixed = write_run(tmp_path, architecture="global", **given)
    image = torch.rand(1, 3, 16, 16)
    torch.manual_seed(0)
    network = derived(Record(searched).config(), FOUND, Record(searched).data()).eval()
    save_file(network.state_dict(), searched / records.MODEL)

    def meaning() -> list[Any]:
        frame = collect([tmp_path]).frame.to_dict("records")
        rows = [[row.key for row in TABLES["table3"].rows if row.match(run)] for run in frame]
        opened = [Record(path) for path in (searched, fixed)]
        settings = [(r.config(), r.result(), setting(r.config(), r.result())) for r in opened]
        return [rows, settings, str(frame), load_model(searched)(image).tolist()]

    before, config = meaning(), resolve_config({**given, "strategy": "pmpl"})
    assert sorted(before[0]) == [["global"], ["pmpl"]]  # records of one second are in the order of their names
    later()
    changed = resolve_config({**given, "strategy": "pmpl"})
    assert (changed.retrain_epochs, changed.strategy_options["patience"]) == (2, 5)
    assert changed.space_options["flavour"] == "new"
    assert config.space_options["dropout"] != changed.space_options["dropout"]
    assert meaning() == before


@pytest.mark.parametrize(("strategy", "fixing"), [("pmpl", "lead"), ("darts", "none")])
@pytest.mark.parametrize("default", ["as it is", "evidence"])
def test_a_record_from_before_an_option_says_what_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str, fixing: str, default: str
) -> None:
    options = {"fixing": fixing, "delta": 0.05, "undecided": "cheapest", "supernets": 1}
    path = write_run(tmp_path, strategy=strategy, architecture=FOUND, steps=4, strategy_options=options)
    before = Record(path).config()
    assert options.items() <= before.strategy_options.items()
    written = yaml.safe_load((path / records.CONFIG).read_text())
    written["strategy_options"] = {k: v for k, v in written["strategy_options"].items() if k not in options}
    (path / records.CONFIG).write_text(yaml.safe_dump(written))
    if default == "evidence":
        for part in (PMPL, DARTS):
            preset = {"fixing": "evidence", "delta": 0.01, "undecided": "largest_pi", "supernets": 3}
            monkeypatch.setattr(part, "presets", {"quick": preset})
        assert resolve_config({"strategy": strategy}).strategy_options["supernets"] == 3
    after = Record(path).config()
    assert after == before
    assert after.digest(*RESULT) == before.digest(*RESULT)
    assert after.digest(*SETTING) == before.digest(*SETTING)


def test_a_record_of_another_version_is_refused_by_name(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    status = json.loads((path / records.STATUS).read_text())
    (path / records.STATUS).write_text(json.dumps({**status, "schema_version": 3}))
    with pytest.raises(RecordError, match=rf"{path} was written by a newer nasbench \(version 3 of the record\)"):
        Record(path).config()
    del status["schema_version"]
    (path / records.STATUS).write_text(json.dumps(status))
    with pytest.raises(RecordError, match=rf"version 1 of the record.*`nasbench migrate {path}`"):
        Record(path).config()
    assert "nasbench migrate" in collect([tmp_path]).problems[0].reason
    (path / records.STATUS).write_text("{}")  # of no version at all
    with pytest.raises(RecordError, match=r"status\.json is damaged"):
        Record(path).config()


def test_no_number_of_a_record_is_infinite(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    written = (path / records.RESULT).read_text()
    for number in ("NaN", "Infinity", "-Infinity", "1e999", '"NaN"', "1e30000"):
        for name in ("top1", "params", "retrain_seconds"):
            broken = json.dumps({**json.loads(written), name: "HERE"}).replace('"HERE"', number)
            (path / records.RESULT).write_text(broken)
            found = collect([tmp_path])
            assert found.frame.empty
            assert "result.json is damaged" in found.problems[0].reason
    extra = json.dumps({**json.loads(written), "search": {"loss": "HERE"}}).replace('"HERE"', "1e999")
    (path / records.RESULT).write_text(extra)
    assert collect([tmp_path]).frame.empty
    with pytest.raises(ValueError, match="not JSON compliant"):
        Record(path).write_json(records.RESULT, {"top1": float("nan")})


READ: dict[str, Callable[[Record], Any]] = {
    records.CONFIG: Record.config,
    records.STATUS: Record.status,
    records.ENVIRONMENT: Record.environment,
    records.DATA: Record.data,
    records.ARCHITECTURE: Record.architecture,
    records.DECISIONS: Record.decisions,
    records.RESULT: Record.result,
}
WRONG = {
    "nothing": b"",
    "null": b"null",
    "list": b"[]",
    "empty": b"{}",
    "nan": b"NaN",
    "word": b'"word"',
    "deep": b"[" * 100_000,
    "long key": b'{"' + b"y" * 3_000_000 + b'": 1}',
    "huge": b'"' + b"x" * 30_000_000 + b'"',
    "binary": b"\xff\x00",
}
ALLOWED = [  # mappings in which nothing is missing
    *((records.CONFIG, "empty"), (records.ENVIRONMENT, "empty"), (records.ENVIRONMENT, "long key")),
    (records.ARCHITECTURE, "long key"),
]
OLD = [(records.STATUS, "empty"), (records.STATUS, "long key")]  # no version: one of the first


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return write_run(folder, strategy="pmpl", architecture=FOUND, steps=4, space_options={"candidates": "ablation"})


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", READ)
def test_a_file_of_the_wrong_shape_is_named_in_one_line(name: str, wrong: str, good: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(good, tmp_path / "run"))
    (path / name).write_bytes(WRONG[wrong])
    if (name, wrong) in ALLOWED:
        READ[name](Record(path))
    else:
        with pytest.raises(RecordError) as refused:
            READ[name](Record(path))
        message = str(refused.value)
        assert str(path if (name, wrong) in OLD else path / name) in message
        assert "\n" not in message
        assert len(message) < 1000
    found = collect([path])
    assert len(found.frame) == (name in (records.CONFIG, records.ENVIRONMENT) and (name, wrong) in ALLOWED)
    assert len(found.frame) + len(found.problems) == 1
    assert all("\n" not in problem.reason and len(problem.reason) < 1000 for problem in found.problems)


@pytest.mark.parametrize("value", [".nan", "[.inf]", "!!binary aGVsbG//", "&a [*a]", "{? [1] : 2}"])
def test_options_of_a_record_are_plain_and_finite(value: str, good: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(good, tmp_path / "run"))
    written = (path / records.CONFIG).read_text()
    (path / records.CONFIG).write_text(written.replace("rho: 0.2", f"rho: {value}"))
    with pytest.raises(RecordError, match=r"config\.yaml is damaged: ") as refused:
        Record(path).config()
    assert "\n" not in str(refused.value)
    assert len(collect([path]).problems) == 1


@pytest.mark.parametrize(
    "content", ["null", "a,b\n1,2\n", "HEADER\n1,x\n", "HEADER\nb", "x" * 200_000, "HEADER\n\0", '"']
)
@pytest.mark.parametrize(("name", "what"), [(records.SEARCH, "alphas"), (records.METRICS, "curves")])
def test_curves_of_the_wrong_shape_are_named_in_one_line(
    name: str, what: str, content: str, good: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(good, tmp_path / "run"))
    header = (good / name).read_text().splitlines()[0]
    (path / name).write_text(content.replace("HEADER", header))
    with pytest.raises(RecordError, match=f"{name} is damaged") as refused:
        plot(collect([path]).frame, what)
    assert "\n" not in str(refused.value)


def test_a_curve_of_words_or_of_another_layer_is_refused(good: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(good, tmp_path / "run"))
    for name, what in ((records.SEARCH, "alphas"), (records.METRICS, "curves")):
        header, first, *_ = (good / name).read_text().splitlines()
        *_, number, last = first.split(",")
        infinite = ",".join(
            ["nan" if cell == (number if what == "alphas" else last) else cell for cell in first.split(",")]
        )
        for wrong in (first.replace("0", "word").replace("1", "word"), infinite):
            (path / name).write_text(f"{header}\n{wrong}\n")
            with pytest.raises(RecordError, match=f"{name} is damaged"):
                plot(collect([path]).frame, what)
    (path / records.SEARCH).write_text((good / records.SEARCH).read_text().replace("block01.", "block18."))
    with pytest.raises(RecordError, match=r"it has 'block18[.]enhancer', which the architecture lacks"):
        plot(collect([path]).frame, "alphas")
