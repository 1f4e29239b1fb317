"""The Python in README and docs: every block passes mypy --strict, and runs where it can."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = {
    f"{path.stem.lower()}_{number}": code
    for path in DOCUMENTS
    for number, code in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")))
}
# These need a record or a file of the reader's, or train for minutes; what they call is run by other tests.
LONG = ("nasbench.load_model(", "nasbench.run(", "onnxruntime.InferenceSession(")


def test_no_block_is_overlooked() -> None:
    fences = [line for path in DOCUMENTS for line in path.read_text(encoding="utf-8").splitlines() if "```py" in line]
    assert len(fences) == len(BLOCKS) > 0


def test_every_block_has_types(tmp_path: Path) -> None:
    # As it is installed: the folders beside nasbench/ lie in it.
    package = tmp_path / "site" / "nasbench"
    package.mkdir(parents=True)
    beside = (ROOT / name for name in ("spaces", "strategies", "evaluators", "benchmarks"))
    for path in (*(ROOT / "nasbench").iterdir(), *beside):
        (package / path.name).symlink_to(path)
    blocks = tmp_path / "blocks"
    blocks.mkdir()
    for name, code in BLOCKS.items():
        (blocks / f"{name}.py").write_text(code, encoding="utf-8")
    settings = tmp_path / "mypy.ini"
    # NNI has no types, so its classes are Any.
    settings.write_text(
        f"[mypy]\nstrict = True\nmypy_path = {package.parent}\nplugins = pydantic.mypy\n"
        "[mypy-blocks.*]\ndisallow_subclassing_any = False\n[mypy-nni.*,onnxruntime.*]\nignore_missing_imports = True\n"
        "[mypy-nasbench.*]\nfollow_imports = silent\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--config-file", str(settings), "--cache-dir", str(ROOT / ".mypy_cache")),
            *("--package", "blocks"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name, code in BLOCKS.items() if not any(word in code for word in LONG)])
def test_a_quick_block_runs(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BLOCKS[name]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
