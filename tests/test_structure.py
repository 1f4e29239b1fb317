"""What may import what: the graph that docs/design.md draws is the one that the sources have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pip._vendor import tomli

ROOT = Path(__file__).parent.parent
FOLDERS = {"nasbench": "nasbench", **{name: f"nasbench.{name}" for name in ("spaces", "strategies", "evaluators")}}
# A folder is one node; these of its modules and packages stand alone, because others may import them and not the rest.
ALONE = ("spaces.operations", "nni_bridge.log")
EVERYWHERE = "errors"  # imports nothing of ours, and is not drawn


@cache
def sources() -> dict[str, ast.Module]:
    """Name of every module of the product → its source."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = [part for part in path.relative_to(ROOT / folder).with_suffix("").parts if part != "__init__"]
            found[".".join([package, *inner])] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def imported(node: ast.AST) -> Iterator[str]:
    """What a module imports, in functions too, but not for type checking alone."""
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        children = iter(node.orelse)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
        return
    else:
        children = ast.iter_child_nodes(node)
    for child in children:
        yield from imported(child)


@cache
def modules() -> dict[str, set[str]]:
    """Module → those of ours that it imports."""
    found: dict[str, set[str]] = {}
    for name, tree in sources().items():
        found[name] = set()
        for target in imported(tree):
            while target and target not in sources():
                target = target.rpartition(".")[0]
            found[name] |= {target} - {"", "nasbench", name}
    return found


def node(module: str) -> str:
    """The node of the graph that a module belongs to."""
    inner = module.removeprefix("nasbench.")
    alone = next((name for name in ALONE if f"{inner}.".startswith(f"{name}.")), None)
    return alone or inner.partition(".")[0]


@cache
def graph() -> dict[str, set[str]]:
    """Node → those that it imports."""
    found: dict[str, set[str]] = {}
    for name, targets in modules().items():
        found.setdefault(node(name), set()).update(map(node, targets))
    left_out = ("nasbench", EVERYWHERE)
    return {name: targets - {name, EVERYWHERE} for name, targets in found.items() if name not in left_out}


@cache
def drawn() -> dict[str, set[str]]:
    """The graph in docs/design.md, in its order."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```imports\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = (line.partition("→") for line in block.splitlines())
    return {name.strip(): set(filter(None, targets.strip().split(" "))) for name, _, targets in lines}


def test_the_drawn_graph_is_that_of_the_imports() -> None:
    assert drawn() == graph()


def test_every_line_of_it_imports_only_what_stands_above() -> None:
    above: set[str] = set()
    for name, targets in drawn().items():
        assert targets <= above, name
        above.add(name)


@pytest.mark.parametrize(
    ("name", "never"),
    [
        ("spaces", {"strategies", "evaluators", "data", "pipeline"}),
        ("spaces.operations", {"spaces", "strategies", "evaluators", "data", "pipeline"}),
        ("strategies", {"spaces", "evaluators", "data", "pipeline"}),
        ("evaluators", {"spaces", "strategies", "data", "pipeline"}),
        ("results", {"pipeline", "nni_bridge", "follower"}),
    ],
)
def test_parts_do_not_know_each_other(name: str, never: set[str]) -> None:
    assert not graph()[name] & never


def test_reading_results_runs_nothing() -> None:
    """Not by way of others either."""
    reached, new = set[str](), {name for name in modules() if node(name) == "results"}
    while new:
        reached |= new
        new = set().union(*(modules()[name] for name in new)) - reached
    assert not {name for name in reached if node(name) in ("pipeline", "nni_bridge", "follower", "commands")}
    assert "nasbench.studies.plan" not in reached


def test_only_the_command_line_imports_commands() -> None:
    assert {name for name, targets in graph().items() if "commands" in targets} == {"cli"}


def test_no_file_is_long() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_code_asks_for_the_name_of_a_part() -> None:
    """What differs is a property of the class, or a fact in the record."""
    points = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    names = {name for group in points.values() for name in group} | {"fixed"}
    asked = []
    for module, tree in sources().items():
        if module == "nasbench.migrate":  # knows what version 1 of the record wrote, and that does not change any more
            continue
        for compared in (found for found in ast.walk(tree) if isinstance(found, ast.Compare)):
            for side in (compared.left, *compared.comparators):
                constants = side.elts if isinstance(side, (ast.Tuple, ast.List, ast.Set)) else [side]
                if any(isinstance(c, ast.Constant) and c.value in names for c in constants):
                    asked.append(f"{module}: {ast.unparse(compared)}")
    assert asked == []
