"""The documents as a site, and the commands of the tutorials, as a reader types them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nasbench.commands import COMMANDS

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_nothing_is_fetched_and_every_link_leads_somewhere(site: Path) -> None:
    pages = [path for path in site.rglob("*.html") if path.name != "404.html"]
    assert len(pages) > 20
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r'<(script|img|iframe)[^>]* src="(https?:)?//|<link[^>]*rel="stylesheet"[^>]*//', text), (
            page
        )
        for link in re.findall(r'(?:href|src)="([^"#?]+)', text):
            if not link.startswith(("http:", "https:", "mailto:", "data:")):
                assert (page.parent / link).exists(), (page, link)


def test_the_reference_has_every_command_and_every_option_of_parts(site: Path) -> None:
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f'id="{name}"' in commands for name in COMMANDS)
    assert "--stop-after" in commands
    options = (site / "reference" / "options.html").read_text(encoding="utf-8")
    for name in ("mbv2_metapool", "pmpl", "supernets", "undecided", "balance", "meta_fraction", "crop_scale"):
        assert name in options
    python = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert "nasbench.api.run" in python


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of what a page shows as code."""
    return FENCE.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def follow(page: str, folder: Path) -> list[str]:
    """Write the files that a page shows, and run its commands, in order; returns what each printed."""
    printed = []
    environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "MPLBACKEND": "agg"}
    for language, text in blocks(page):
        name = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if name:
            (folder / name[1]).write_text(text, encoding="utf-8")
        elif language == "sh" and not text.startswith("pip install"):
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            printed.append(done.stdout + done.stderr)
    return printed


@pytest.mark.slow
def test_the_tutorial_on_parts(tmp_path: Path) -> None:
    assert len(follow("tutorials/extend.md", tmp_path)) == 6


@pytest.mark.slow
def test_the_tutorial_on_receptive_fields(tmp_path: Path) -> None:
    first, *_, last = follow("tutorials/receptive_field.md", tmp_path)
    shown = next(text for language, text in blocks("tutorials/receptive_field.md") if language == "text")
    for line in shown.splitlines()[1:5]:  # the decisions, which do not hang on the last bits
        label, candidate, *_, odds = line.split()
        assert re.search(rf"{label}\s+{candidate}\s.*evidence", first), first
        assert odds == "1"
    assert "κ" in last


@pytest.mark.slow
def test_the_notebook_runs_and_finds_what_it_shows(tmp_path: Path) -> None:
    notebook = json.loads((ROOT / "docs" / "tutorials" / "receptive_field.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in shown if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2
    (table,) = (c for c in cells if "truth[label]" in "".join(c["source"]))
    before = "\n".join("".join(cell["source"]) for cell in cells[: cells.index(table)])
    after = "\n".join("".join(cell["source"]) for cell in cells[cells.index(table) + 1 :])
    imports, _, frame = "".join(table["source"]).partition("pd.DataFrame(")
    program = f"{before}\n{imports}\nprint(pd.DataFrame({frame}.loc[:'tile4.enhancer'].to_string())\n{after}\n"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.startswith("tile")}
    kept = {line.split()[0]: line.split()[1:] for line in "".join(shown_text(table)).splitlines()[1:]}
    assert len(told) == 4
    assert told == {label: kept[label] for label in told}
    assert all(words[1:] == ["True", "True", "True"] for words in told.values())


def shown_text(cell: dict[str, Any]) -> list[str]:
    """What a cell of the notebook showed, as plain text."""
    (output,) = cell["outputs"]
    found: list[str] = output["data"]["text/plain"]
    return found


@pytest.mark.slow
def test_the_tutorial_on_comparisons(tmp_path: Path, real_data: Path) -> None:
    dry, sweep, *_ = follow("tutorials/compare.md", tmp_path)
    assert "6" in dry
    assert len(list((tmp_path / "study").glob("*/result.json"))) == 6, sweep


@pytest.mark.slow
def test_the_tutorial_on_photos(tmp_path: Path) -> None:
    data = os.environ.get("NASBENCH_DATA")
    if not data or not Path(data, "trashnet").is_dir():
        pytest.skip("NASBENCH_DATA has no photos")
    for kind in sorted(Path(data, "trashnet").iterdir()):
        (tmp_path / "photos" / kind.name).mkdir(parents=True)
        for photo in sorted(kind.glob("*.jpg"))[:20]:
            shutil.copy(photo, tmp_path / "photos" / kind.name)
    (weights,) = Path(data).rglob("mobilenet_v2*.safetensors")
    shutil.copy(weights, tmp_path / "mobilenet_v2.safetensors")
    printed = follow("tutorials/photos.md", tmp_path)
    assert "memory" in printed[0]
    assert (tmp_path / "photos.onnx").is_file()
    assert "glass" in printed[-1]
