"""What is installed, and from where it can be used."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from pip._vendor import tomli

import nasbench

ROOT = Path(__file__).parent.parent
FOLDERS = {"nasbench": "nasbench", "spaces": "nasbench/spaces", "strategies": "nasbench/strategies"}
FOLDERS |= {"evaluators": "nasbench/evaluators", "benchmarks": "nasbench/benchmarks"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tracked sources."""
    source = tmp_path_factory.mktemp("source")
    for name in (*FOLDERS, "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(source)], check=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed in it."""
    site = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    return site


def test_the_listed_packages_are_the_folders() -> None:
    listed = set(tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = set()
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder)
            found.add(".".join([*package.split("/"), *inner.parts]))
    assert listed == found


def test_the_wheel_holds_every_source_file_and_nothing_else(wheel: Path) -> None:
    inside = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = set()
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                expected.add(f"{package}/{path.relative_to(ROOT / folder)}")
    assert inside == expected
    assert "nasbench/py.typed" in inside


def imported_from(code: str, cwd: Path, site: Path | None = None) -> str:
    # -S -s would hide PyTorch: a path set in the program puts the folder before the environment's own copy.
    program = "import sys\n" + (f"sys.path.insert(1, {str(site)!r})\n" if site else "") + code
    done = subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_every_module_of_the_wheel_imports(wheel: Path, installed: Path, tmp_path: Path) -> None:
    modules = [
        n[:-3].replace("/", ".").removesuffix(".__init__")
        for n in zipfile.ZipFile(wheel).namelist()
        if n.endswith(".py") and not n.endswith("__main__.py")
    ]
    code = (
        "import warnings; warnings.filterwarnings('ignore')\nimport nni.nas.strategy, importlib\n"
        f"for m in {modules!r}: importlib.import_module(m)\n"
        "import nasbench.spaces.mbv2_metapool as m; print(m.__file__)"
    )
    assert imported_from(code, tmp_path, installed).startswith(str(installed))


def test_the_wheel_works_with_the_source_tree_as_current_folder(installed: Path) -> None:
    """`python -m nasbench` there finds ./nasbench first, beside which the other folders lie."""
    code = (
        f"sys.path.insert(0, {str(ROOT)!r})\nimport nasbench.registry\n"
        "print(nasbench.registry._find_spec('nasbench.spaces.mbv2_metapool').origin)"
    )
    assert imported_from(code, ROOT, installed) == str(ROOT / "spaces" / "mbv2_metapool.py")


def test_the_editable_install_works_elsewhere(tmp_path: Path) -> None:
    code = "import nasbench.registry\nprint(nasbench.registry._find_spec('nasbench.strategies.pmpl').origin)"
    assert imported_from(code, tmp_path) == str(ROOT / "strategies" / "pmpl.py")


def test_a_folder_called_spaces_does_not_shadow_ours(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").write_text("raise SystemExit('a stranger')")
    code = "import nasbench.spaces\nprint(nasbench.spaces.__name__)"
    assert imported_from(code, tmp_path) == "nasbench.spaces"


@pytest.mark.parametrize("name", ["tests", "nasbench", "docs", "experiments", "pyproject"])
def test_nothing_else_of_the_source_tree_is_in_the_package(name: str) -> None:
    code = f"import importlib.util, nasbench\nprint(importlib.util.find_spec('nasbench.{name}'))"
    assert imported_from(code, ROOT) == "None"


def test_the_package_imports_nothing_but_itself() -> None:
    heavy = "{'torch', 'nni', 'pandas', 'numpy', 'matplotlib', 'pydantic', 'rich', 'typer', 'yaml'}"
    code = (
        f"import sys\nbefore = set(sys.modules)\nimport nasbench\nprint(sorted({heavy} & (set(sys.modules) - before)))"
    )
    assert imported_from(code, ROOT) == "[]"


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    version = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert nasbench.__version__ == version
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == version
    assert f"## {version} ({cited['date-released']})" in (ROOT / "CHANGELOG.md").read_text()
