"""Receptive fields, figures, the report in a browser, comparisons, and the commands."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
import typer
from browser import chromium, visit
from PIL import Image
from test_results_records import LABELS, NAMES, write_run
from torch import Tensor, nn
from typer.testing import CliRunner, Result

from nasbench.config import RunConfig, resolve_config
from nasbench.errors import NasbenchError, OptionError, RecordError
from nasbench.results import commands
from nasbench.results.collect import Problem, collect
from nasbench.results.compare import compare
from nasbench.results.figures import WHAT, plot
from nasbench.results.receptive_field import effective, effective_side, last_map, probe, theoretical
from nasbench.results.report import report
from nasbench.results.style import COLUMN, DPI, PAGE, encode, save, series
from nasbench.spaces.operations.attention import SE, SK
from nasbench.spaces.operations.enhancers import enhancer


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors on shared cores: handing them to a second thread costs a hundred times the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny real runs: a network without enhancers and one with the global one in every block."""
    from nasbench.pipeline import run

    folder = tmp_path_factory.mktemp("real")
    for choice in ("none", "global"):
        given: dict[str, Any] = {"strategy": "fixed", "strategy_options": {"choice": choice}}
        given["space_options"] = {"width": 0.05, "candidates": "ablation"}
        run(resolve_config({**given, "retrain_epochs": 1, "train_images": 40, "image_size": 8}), folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two searches and two fixed networks, with curves."""
    folder = tmp_path / "runs"
    for seed in (0, 1):
        write_run(folder, 0.8 + 0.01 * seed, seed=seed, space_options={"candidates": "ablation"})
        found = {label: NAMES[(i + seed) % 3] for i, label in enumerate(LABELS)}
        space = {"candidates": "ablation"}
        write_run(folder, 0.9, seed=seed, strategy="pmpl", architecture=found, steps=6, space_options=space)
    return folder


class Net(nn.Module):
    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((2, 3))


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def small(*more: nn.Module) -> Net:
    stages = [
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU6()),
        Residual(nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.ReLU6(), enhancer("avg5", 4))),
        nn.Conv2d(4, 4, 3, 2, 2, dilation=2),
        enhancer("max3", 4),
    ]
    return Net(*stages, *more)


def test_the_theoretical_field_by_hand_and_by_gradient_support() -> None:
    torch.manual_seed(0)
    net = small()
    # (extent − 1) · pixels a step: conv 2·1, depthwise 2·2, avg5 4·2, dilated conv 4·2, max3 2·4
    expected = 1 + 2 + 4 + 8 + 8 + 8
    field = theoretical(net, 64)
    assert field.side == expected
    assert field.global_stages == ()

    net = net.double().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.uniform_(module.weight, 0.01, 0.02)  # nothing cancels, no ReLU6 ends at 0 or 6
    seen = torch.zeros(64, 64)
    for _ in range(60):  # a maximum passes its gradient to one input only: many images see the whole window
        image = torch.rand(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
        last = last_map(net, image)
        (gradient,) = torch.autograd.grad(last[:, :, last.shape[2] // 2, last.shape[3] // 2].sum(), image)
        seen += gradient.abs().sum((0, 1))
    rows, columns = seen.sum(1).nonzero().flatten(), seen.sum(0).nonzero().flatten()
    assert (int(rows[0]), int(rows[-1])) == field.rows
    assert (int(columns[0]), int(columns[-1])) == field.columns


@pytest.mark.parametrize("make", [lambda: enhancer("global", 4), lambda: SE(4), lambda: nn.Sequential(SK(4))])
def test_global_pooling_sees_the_whole_image(make: Any) -> None:
    field = theoretical(small(make()), 40)
    assert field.global_stages == (4,)
    assert (field.rows, field.columns) == ((0, 39), (0, 39))


@pytest.mark.parametrize(("name", "extent"), [("none", 1), ("avg3", 3), ("avg7", 7), ("max5", 5)])
def test_the_window_of_every_local_enhancer(name: str, extent: int) -> None:
    for axis in (2, 3):
        window = probe(enhancer(name, 2).double(), 2, axis=axis)
        assert (window.low, window.high, window.stride) == (-(extent // 2), extent // 2, 1)
        assert not window.everything


def test_windows_that_differ_by_axis_and_networks_without_stages() -> None:
    wide = nn.Conv2d(3, 2, (1, 5), padding=(0, 2))
    field = theoretical(Net(wide), 16)
    assert (field.rows, field.columns) == ((8, 8), (6, 10))
    plain = nn.Sequential(wide, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert theoretical(plain, 16) == field
    with pytest.raises(OptionError, match="no feature map"):
        theoretical(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), 4)


def test_the_effective_field_of_one_convolution_is_its_weights() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, -4.0, 2.0], [1.0, 0.01, 1.0]])
    conv.weight.data[:] = weights
    field = effective(Net(conv), 9, channels=1)
    np.testing.assert_allclose(field[3:6, 3:6], weights.abs() / 4, rtol=1e-6)
    assert field.sum() == pytest.approx(float(weights.abs().sum()) / 4)
    assert effective_side(field) == pytest.approx(8**0.5)  # 0.01 / 4 is below Luo's threshold


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def test_gradients_of_different_sign_do_not_cancel_over_the_inputs() -> None:
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    field = effective(Net(Absolute(), conv), 9, channels=1)  # ± 1 at every pixel of the window, by the input's sign
    np.testing.assert_allclose(field[3:6, 3:6], 1, rtol=1e-6)


def test_the_effective_field_lies_within_the_theoretical() -> None:
    torch.manual_seed(1)
    net = small()
    field, shown = theoretical(net, 64), effective(net, 64)
    shown[field.rows[0] : field.rows[1] + 1, field.columns[0] : field.columns[1] + 1] = 0
    assert shown.max() == 0


@pytest.mark.parametrize("what", WHAT)
def test_every_figure_is_drawn_and_written(what: str, runs: Path, real: Path, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    drawn = plot(collect([real if what == "receptive-field" else runs]).frame, what)
    assert dict(matplotlib.rcParams) == before
    assert len(drawn) == (2 if what == "alphas" else 1)
    for name, figure in drawn.items():
        png, svg = save(figure, tmp_path / "figures", name)
        width, height = Image.open(png).size
        assert width in (round(COLUMN * DPI), round(PAGE * DPI))
        assert height < 1.5 * width
        assert ElementTree.parse(svg).getroot().tag.endswith("svg")
        assert encode(figure, "png") == png.read_bytes()
        titles = [figure.get_suptitle(), *(axes.get_title(loc) for axes in figure.axes for loc in ("left", "center"))]
        assert figure.get_suptitle()
        assert any(titles[1:])
        labelled = [axes for axes in figure.axes if axes.axison]
        assert any(axes.get_xlabel() for axes in labelled)


def test_the_moment_of_fixing_is_marked(runs: Path) -> None:
    figure = next(iter(plot(collect([runs]).frame, "alphas").values()))
    panel = figure.axes[1]
    assert panel.get_title() == "block02: global"
    marked = [line for line in panel.lines if list(line.get_xdata()) == [3, 3]]  # type: ignore[arg-type]
    assert len(marked) == 1


def test_the_heat_map_counts_the_runs(runs: Path) -> None:
    figure = plot(collect([runs]).frame, "architecture")["architecture"]
    axes = figure.axes[0]
    assert axes.get_title("left") == "pmpl (ablation): 2 seeds"
    share = np.asarray(axes.images[0].get_array())
    assert share.shape == (3, 17)
    assert set(share.sum(0)) == {1.0}
    assert share[0, 0] == share[1, 0] == 0.5  # none with seed 0, avg3 with seed 1


def test_choices_of_several_kinds_have_a_heat_map_each(tmp_path: Path) -> None:
    chosen = {"block01.groups": "g2", "block01.enhancer": "max3", "block02.groups": "g1", "block02.enhancer": "max3"}
    write_run(tmp_path, 0.9, strategy="random", architecture=chosen)
    figure = plot(collect([tmp_path]).frame, "architecture")["architecture"]
    groups, enhancers = figure.axes[:2]
    assert groups.get_title(loc="left").endswith("groups: 1 seed")
    assert [tick.get_text() for tick in groups.get_yticklabels()] == ["g1", "g2"]
    assert [tick.get_text() for tick in enhancers.get_yticklabels()] == ["max3"]
    assert groups.images[0].get_array().tolist() == [[0, 1], [1, 0]]
    assert enhancers.images[0].get_array().tolist() == [[1, 1]]


def test_series_differ_in_more_than_colour() -> None:
    looks = [(s["color"], str(s["linestyle"]), s["marker"]) for s in map(series, range(64))]
    assert len(set(looks)) == 64
    assert len({look[1:] for look in looks[:8]}) == 8


def test_a_figure_that_no_run_has_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path)
    frame = collect([tmp_path]).frame
    with pytest.raises(RecordError, match="no π"):
        plot(frame, "alphas")
    with pytest.raises(OptionError, match="did you mean 'curves'"):
        plot(frame, "curve")
    with pytest.raises(RecordError, match="no finished run"):
        plot(frame[:0], "curves")


def test_the_report_stands_alone(runs: Path, tmp_path: Path) -> None:
    write_run(runs, 0.5, seed=0, dataset="<img src=http://example.com/x.png>:Data")
    found = collect([runs])
    path = report(found.frame, tmp_path / "out", [Problem(Path("broken"), "damaged: <b>")])
    content = path.read_text(encoding="utf-8")
    assert [p.name for p in path.parent.iterdir()] == ["index.html"]
    addresses = re.findall(r"(?:src|href)=[\"']?([^\"' >]{1,12})", content)
    assert {a for a in addresses if not a.startswith(("data:", "#"))} <= {"http://examp"}  # in the escaped name only
    assert "<img src=http" not in content
    assert "<script" not in content
    assert "url(" not in content
    assert "for seed in 0 1; do nasbench run --space mbv2_metapool --strategy pmpl" in content
    assert "Table 3: all three, PMPL" in content
    assert "damaged: &lt;b&gt;" in content
    assert "torch" in content[content.index('id="environment"') :]
    for image in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", content):
        ElementTree.parse(BytesIO(base64.b64decode(image)))


@pytest.mark.skipif(chromium() is None, reason="chromium is not installed")
def test_the_report_in_a_browser(runs: Path, real: Path, tmp_path: Path) -> None:
    path = report(collect([runs, real]).frame, tmp_path / "out")
    for width in (390, 1200):
        page = visit(path.as_uri(), tmp_path / f"profile{width}", width)
        assert len(page.images) == 5
        assert all(image["complete"] and image["width"] > 0 and image["alt"] for image in page.images)
        assert [r for r in page.requests if not r.startswith("data:")] == [path.as_uri()]
        assert page.errors == []
        assert page.overflow <= 0
        assert page.screenshot.startswith(b"\x89PNG")


def test_compare(runs: Path) -> None:
    by_name = {Path(p).name: p for p in collect([runs]).frame["path"]}
    fixed, pmpl = (next(p for n, p in by_name.items() if s in n) for s in ("fixed_seed0", "pmpl_seed1"))
    table = compare(fixed, pmpl)
    rows = {(row["part"].value, row["what"].value): row for row in table.rows}
    assert rows["result", "top-1"]["delta"].value == "+10.00 %"
    assert (rows["config", "strategy"]["a"].value, rows["config", "strategy"]["b"].value) == ("fixed", "pmpl")
    assert rows["config", "strategy_options.rho"]["a"].value is None
    assert ("config", "dataset") not in rows
    assert rows["architecture", LABELS[0]]["b"].value == "avg3"
    assert "Same environment." in table.notes
    with pytest.raises(RecordError, match="nowhere"):
        compare(fixed, "nowhere")


app = typer.Typer(pretty_exceptions_enable=False)
for _command in (commands.table, commands.plot, commands.report, commands.compare):
    app.command()(_command)


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_commands(runs: Path, tmp_path: Path) -> None:
    shown = call("table", "table3", runs)
    assert shown.exit_code == 0
    assert "all three, PMPL" in shown.stdout
    placed = call("table", "table1", runs, "--placement", "enhancer", "--format", "csv")
    assert "MaxPool" in placed.stdout
    assert "LiftDownPool" not in placed.stdout
    output = tmp_path / "deep" / "table.csv"
    assert call("table", "table3", runs, "--format", "csv", "--output", output).exit_code == 0
    assert output.read_text() == call("table", "table3", runs, "--format", "csv").stdout
    assert call("table", "pivot", runs, "--columns", "seed", "--format", "md").stdout.count("|") > 9
    assert len(call("plot", runs, "--what", "curves", "--output", tmp_path / "f").stdout.splitlines()) == 2
    assert (
        "rho"
        in call("compare", *sorted(runs.iterdir())[:2]).stdout + call("compare", *sorted(runs.iterdir())[::3]).stdout
    )
    damaged = runs / "damaged"
    damaged.mkdir()
    (damaged / "config.yaml").write_text("[]")
    named = call("table", "enhancers", runs)
    assert named.exit_code == 0
    assert f"skipped {damaged}: config" in named.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("table", "table9", "."), "unknown table 'table9'"),
        (("table", "table3", ".", "--format", "pdf"), "unknown format 'pdf'"),
        (("table", "table1", ".", "--placement", "behind"), "unknown placement 'behind'"),
        (("table", "table3", ".", "--placement", "enhancer"), "--placement enhancer is for table1"),
        (("table", "pivot", "--run"), "--run trains the rows of table1"),
        (("plot", "nowhere"), "no finished run in nowhere"),
        (("plot", "nowhere", "--what", "pie"), "unknown figure 'pie'"),
        (("report", "nowhere"), "no finished run in nowhere"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], message: str) -> None:
    failed = call(*words)
    assert isinstance(failed.exception, NasbenchError)
    assert message in str(failed.exception)
    assert "\n" not in str(failed.exception)


def test_what_is_missing_is_trained_and_a_failure_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nasbench import pipeline

    asked: list[RunConfig] = []

    def fake(config: RunConfig, out: Path) -> None:
        asked.append(config)
        if config.strategy_options.get("choice") == "global" and config.seed == 1:
            raise RuntimeError("out of memory")
        choice = config.strategy_options.get("choice", "none")
        given = config.model_dump(exclude={"strategy_options", "space"})
        if config.strategy != "fixed":
            given["strategy_options"] = dict(config.strategy_options)
        write_run(out, 0.5 + 0.01 * config.seed, architecture={"local": "avg3"}.get(choice, choice), **given)

    monkeypatch.setattr(pipeline, "run", fake)
    out = tmp_path / "runs"
    words = ("table", "table3", "--run", "--seeds", "2", "--dataset", "digits", "--preset", "quick", "--out", out)
    first = call(*words)
    assert len(asked) == 14
    assert "[1/14] no enhancer, seed 0" in first.stderr
    assert "50.50 ± " in first.stdout
    assert isinstance(first.exception, RecordError)
    assert "global everywhere, seed 1: RuntimeError: out of memory" in str(first.exception)
    monkeypatch.setattr(pipeline, "run", lambda config, out: fake(config.model_copy(update={"seed": 0}), out))
    call(*words)
    assert len(asked) == 15  # the failed one alone


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nasbench import pipeline

    path = write_run(tmp_path, space_options={"candidates": "ablation"})
    (path / "status.json").write_text('{"state": "interrupted", "stages": {}}')
    where: list[Path] = []
    monkeypatch.setattr(pipeline, "run", lambda config, out: where.append(out))
    call("table", "table3", "--run", "--seeds", "1", "--out", tmp_path)
    assert where == [path] + [tmp_path] * 6


def test_the_commands_import_nothing_heavy() -> None:
    heavy = "{'torch', 'pandas', 'matplotlib', 'scipy', 'nni', 'numpy'}"
    code = f"import sys, nasbench.results.commands; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
