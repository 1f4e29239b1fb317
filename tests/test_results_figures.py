"""Receptive fields, figures, the report in a browser, and comparisons."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from browser import chromium, visit
from PIL import Image
from records import LABELS, NAMES, write_run
from torch import Tensor, nn

from nasbench.errors import OptionError, RecordError
from nasbench.presets import resolve_config
from nasbench.profile import last_map
from nasbench.record import TRIALS, Record
from nasbench.results.collect import Problem, collect
from nasbench.results.figures import WHAT, plot
from nasbench.results.formats import render
from nasbench.results.receptive_field import effective, effective_side, probe, theoretical
from nasbench.results.report import report
from nasbench.results.style import COLUMN, DPI, PAGE, encode, save, series
from nasbench.results.tables import BUILDERS, build, compare
from nasbench.spaces.operations.attention import SE, SK
from nasbench.spaces.operations.enhancers import enhancer
from nasbench.studies.metapooling import TABLES


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
        space = {"width": 0.05, "candidates": "ablation"}
        small = {"retrain_epochs": 1, "train_images": 40, "image_size": 8, "device": "cpu"}
        run(resolve_config({"architecture": choice, "space_options": space, **small}), folder)
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two searches and two fixed networks, with curves."""
    folder = tmp_path / "runs"
    for seed in (0, 1):
        write_run(folder, 0.8 + 0.01 * seed, seed=seed, space_options={"candidates": "ablation"})
        found = {label: NAMES[(i + seed) % 3] for i, label in enumerate(LABELS)}
        space = {"candidates": "ablation"}
        path = write_run(folder, 0.9, seed=seed, strategy="pmpl", architecture=found, steps=6, space_options=space)
        trials = [(1, 1, 0.5, 10, 100, "{}"), (2, 3, 0.7, 20, 200, json.dumps(found)), (3, 3, 0.6, 30, 300, "{}")]
        Record(path).write_csv(TRIALS, trials)
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
        _, last = last_map(net, image)
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
    conv = nn.Conv2d(3, 1, 3, padding=1, bias=False)
    weights = torch.tensor([[1.0, 2.0, 1.0], [2.0, -4.0, 2.0], [1.0, 0.01, 1.0]])
    conv.weight.data[:] = weights
    field = effective(Net(conv), 9)
    np.testing.assert_allclose(field[3:6, 3:6], weights.abs() / 4, rtol=1e-6)
    assert field.sum() == pytest.approx(float(weights.abs().sum()) / 4)
    assert effective_side(field) == pytest.approx(8**0.5)  # 0.01 / 4 is below Luo's threshold


class Absolute(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


def test_gradients_of_different_sign_do_not_cancel_over_the_inputs() -> None:
    conv = nn.Conv2d(3, 1, 3, padding=1, bias=False)
    nn.init.ones_(conv.weight)
    field = effective(Net(Absolute(), conv), 9)  # ± 1 at every pixel of the window, by the input's sign
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
    assert len(drawn) == {"alphas": 2, "trials": 2, "confusion": 4}.get(what, 1)
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
    assert panel.get_title() == "block02: avg3"  # as in architecture.json, whatever has the largest π
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


def test_a_notebook_shows_a_figure(runs: Path) -> None:
    figure: Any = plot(collect([runs]).frame, "tradeoff")["tradeoff"]
    picture, facts = figure._repr_png_()
    assert Image.open(BytesIO(picture)).width == round(DPI * COLUMN)
    assert facts == {"width": round(96 * COLUMN)}


def test_the_report_stands_alone(runs: Path, tmp_path: Path) -> None:
    strange = write_run(runs, 0.5) / "config.yaml"
    strange.write_text(
        strange.read_text().replace("dataset: digits", "dataset: <img src=http://example.com/x.png>:Data")
    )
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


def test_a_report_opens_with_what_was_found_and_says_how_sure_that_is(runs: Path, tmp_path: Path) -> None:
    page = report(collect([runs]).frame, tmp_path / "out").read_text(encoding="utf-8").partition("</style>")[2]
    text = " ".join(re.sub("<[^>]+>", " ", page).split())
    order = [text.index(words) for words in ("What was found none", "Class by class none", "Every run Every run.")]
    assert order == sorted(order)
    assert text.index("17 layers were fixed because one candidate led by ρ") < order[1]
    # 0.80 and 0.81: t(1) · s / √2 = 12.706 · 0.00707 / 1.414
    assert "Over 2 runs of this set-up it is 80.50 ± 6.35 %" in text
    # class 0 was never mistaken; of every other nine of ten are right, and the tenth is one lower
    classes = text[order[1] : text.index("pmpl (ablation) on digits", order[1])]
    assert re.search(r"1 10 90\.0 55\.5 99\.7 0 \(1\)", classes)
    assert classes.index(" 9 10 90.0") < classes.index(" 0 9 100.0 66.4 100.0 –")


class Ids(HTMLParser):
    """The ids of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name == "id"]


def test_no_id_stands_twice_in_a_report(runs: Path, tmp_path: Path) -> None:
    """One search over all eight candidates is a row of two forms of Table 1."""
    one = tmp_path / "one"
    write_run(one, strategy="pmpl", architecture=dict.fromkeys(LABELS, "max3"), steps=4)
    for folder in (one, runs):
        frame = collect([folder]).frame
        page = report(frame, tmp_path / "out").read_text(encoding="utf-8")
        ids = Ids(page).found
        assert len(ids) > 6
        assert len(set(ids)) == len(ids)
        labels = [re.findall(r"\\label{[^}]*}", render(build(name, frame), "latex")) for name in (*TABLES, *BUILDERS)]
        assert [len(found) for found in labels] == [1] * len(labels)
        assert len({found[0] for found in labels}) == len(labels)
        assert page.count("Table 1: Meta-Pooling<") <= 1
        assert "Table 1: Meta-Pooling; Table 1" not in page


def test_a_report_of_a_stranger_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    for kind, usual in (("space", "mbv2_metapool"), ("strategy", "pmpl"), ("evaluator", "classification")):
        path = write_run(tmp_path / kind, strategy="pmpl", architecture=dict.fromkeys(LABELS, "max3"), steps=4)
        written = (path / "config.yaml").read_text()
        (path / "config.yaml").write_text(written.replace(f"{kind}: {usual}", f"{kind}: stranger:Anything"))
        (path / "model.safetensors").write_bytes(b"")
        frame = collect([tmp_path / kind]).frame
        assert f"--{kind} stranger:Anything" in report(frame, tmp_path / "out").read_text()
        compare(path, path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(chromium() is None, reason="chromium is not installed")
def test_the_report_in_a_browser(runs: Path, real: Path, tmp_path: Path) -> None:
    path = report(collect([runs, real]).frame, tmp_path / "out")
    for width in (390, 1200):
        page = visit(path.as_uri(), tmp_path / f"profile{width}", width)
        assert len(page.images) == 11
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
    shown = {(texts[0], texts[1]): texts[2:] for texts in map(table.texts, range(len(table.rows)))}
    assert rows["result", "top-1"]["delta"].value == pytest.approx(0.1)
    assert shown["result", "top-1"] == ["80.00 %", "90.00 %", "+10.00 points"]
    assert shown["result", "M-adds"] == ["2.00 M", "2.00 M", "+0.00 M"]
    assert (rows["config", "strategy"]["a"].value, rows["config", "strategy"]["b"].value) == (None, "pmpl")
    assert (rows["config", "architecture"]["a"].value, rows["config", "architecture"]["b"].value) == ("none", None)
    assert rows["config", "strategy_options.rho"]["a"].value is None
    assert ("config", "dataset") not in rows
    assert rows["architecture", LABELS[0]]["b"].value == "avg3"
    assert "Same environment." in table.notes
    with pytest.raises(RecordError, match="nowhere"):
        compare(fixed, "nowhere")
