"""From names to factories: ours and third parties' come from entry points, anyone's own class by `module:Class`."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from nasbench.errors import NasbenchError, OptionError, unknown

GROUPS = {
    "space": "nasbench.spaces",
    "strategy": "nasbench.strategies",
    "evaluator": "nasbench.evaluators",
    "dataset": "nasbench.datasets",
}

Init = TypeVar("Init", bound=Callable[..., None])


@cache
def entries(kind: str) -> dict[str, EntryPoint]:
    """All registered names of a kind.

    Args:
        kind: `space`, `strategy`, `evaluator` or `dataset`.

    Returns:
        Entry points by name, in alphabetical order.
    """
    return {e.name: e for e in sorted(entry_points(group=GROUPS[kind]), key=lambda e: e.name)}


def summaries(kind: str) -> dict[str, str]:
    """The first docstring line of every registered class of a kind, read without importing it.

    Args:
        kind: see `entries`.

    Returns:
        Name → summary; empty where there is no docstring or no source.
    """
    return {name: _first_docstring_line(entry) for name, entry in entries(kind).items()}


def load(kind: str, name: str) -> Any:
    """Import the class (or function) behind a name.

    Args:
        kind: see `entries`.
        name: a registered name, or `package.module:Class`; the current folder is searched last.

    Raises:
        OptionError: when there is no such name, module or class.
    """
    if ":" not in name:
        entry = entries(kind).get(name)
        if entry is None:
            raise OptionError(unknown(kind, name, entries(kind)) + "; your own class is given as package.module:Class")
        return entry.load()
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as e:
        raise OptionError(
            f"{kind} {name!r}: there is no module {e.name!r} (looked on sys.path and in {Path.cwd()})"
        ) from e
    except Exception as e:
        raise OptionError(f"{kind} {name!r}: importing {module_name} failed: {blame(e)}") from e
    if not hasattr(module, attribute):
        public = [n for n, v in vars(module).items() if inspect.isclass(v) and not n.startswith("_")]
        raise OptionError(unknown(f"class in {module_name}", attribute, public))
    return getattr(module, attribute)


def parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """The named options that a class or function takes, also behind NNI's wrappers.

    A constructor with `**kwargs` hands them on: the options of its base class count too, none of them required.
    """
    found: dict[str, inspect.Parameter] = {}
    for function in _functions(factory):
        taken = {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}
        own = not found
        found = {n: p for n, p in found.items() if p.kind is not p.VAR_KEYWORD}
        for n, p in taken.items():
            optional = own or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty
            found.setdefault(n, p if optional else p.replace(default=None))
    return found


def takes_options_of(base: Any) -> Callable[[Init], Init]:
    """Let a constructor's `**options` stand for the options of its base class, by name and type.

    So the options of both can be looked up, checked and passed on as if the constructor named them all.

    Args:
        base: the class that `**options` are handed to.
    """

    def decorate(init: Init) -> Init:
        signature = inspect.signature(init)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        taken = {p.name for p in own}
        inherited = [
            p.replace(kind=p.KEYWORD_ONLY)
            for p in parameters(base).values()
            if p.name not in taken and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        init.__signature__ = signature.replace(parameters=[*own, *inherited])  # type: ignore[attr-defined]
        init.__annotations__ = {**_hints(base), **init.__annotations__}
        return init

    return decorate


def build(kind: str, name: str, options: Mapping[str, Any], **context: Any) -> Any:
    """Build a registered or imported class with the options that a user gave.

    Args:
        kind: see `entries`.
        name: see `load`.
        options: the user's options; every one must be known, and is converted to the annotated type.
        **context: what the caller knows (classes, image size, seed …); passed on where the class takes it.

    Raises:
        OptionError: unknown option, wrong type, value out of range, or a failing constructor.
    """
    factory = load(kind, name)
    if not callable(factory):
        raise OptionError(f"{kind} {name!r} is not a class or function")
    given = check_options(kind, name, factory, options)
    accepted = parameters(factory)
    given = {k: v for k, v in context.items() if k in accepted} | given
    missing = [
        n
        for n, p in accepted.items()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and n not in given
    ]
    if missing:
        raise OptionError(f"{kind} {name!r} needs the option {', '.join(missing)}: give it as {missing[0]}=VALUE")
    try:
        return factory(**given)
    except NasbenchError as e:
        raise type(e)(f"{kind} {name!r}: {e}") from e
    except Exception as e:
        raise OptionError(f"{kind} {name!r} could not be built: {blame(e)}") from e


def check_options(kind: str, name: str, factory: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the names of options and convert their values to the annotated types.

    Raises:
        OptionError: naming the option and the nearest valid name, or the type that was expected.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    accepted = parameters(factory)
    named = [n for n, p in accepted.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    hints = _hints(factory)
    checked = {}
    for option, value in options.items():
        if option not in named:
            if not open_ended:
                raise OptionError(unknown(f"option of {kind} {name!r}", option, named))
            checked[option] = value
            continue
        checked[option] = value
        if option in hints:
            hint = hints[option]
            try:
                plain = inspect.isclass(hint) and (issubclass(hint, (str, Path)) or hasattr(hint, "model_config"))
                adapter = TypeAdapter(hint, config=None if plain else ConfigDict(arbitrary_types_allowed=True))
                checked[option] = adapter.validate_python(value)
            except ValidationError as e:
                first = e.errors()[0]
                raise OptionError(f"{kind} {name!r}: option {option}={value!r}: {first['msg'].lower()}") from e
            except PydanticUserError:
                pass  # an annotation that pydantic cannot read is left to the class itself
    return checked


def blame(error: BaseException) -> str:
    """One line that says what a foreign exception was and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}{where}"


def _functions(factory: Any) -> Iterator[Any]:
    """The function itself; of a class its constructor, and those to which that hands its `**kwargs` on."""
    plain = getattr(factory, "__wrapped__", factory)  # nni.trace hides the signature behind (*args, **kwargs) …
    if not inspect.isclass(plain):
        yield plain
        return
    for cls in plain.__mro__:  # … and so does NNI's ModelSpace, which keeps the constructor that was written
        written = cls.__dict__.get("_init_wrapped") or cls.__dict__.get("__init__")
        if written is None or getattr(written, "__module__", "") == "nni.nas.nn.pytorch.base":
            continue
        yield written
        if all(p.kind is not p.VAR_KEYWORD for p in inspect.signature(written).parameters.values()):
            return


def _hints(factory: Any) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for function in _functions(factory):
        # Annotations of strangers may name what is only imported for type checking.
        with contextlib.suppress(Exception):
            hints = {**typing.get_type_hints(function, include_extras=True), **hints}
    return hints


def _find_spec(module: str) -> ModuleSpec | None:
    """Like importlib.util.find_spec, but imports no parent package."""
    path: Any = None
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        name = ".".join(parts[:depth])
        loaded = sys.modules.get(name)
        if isinstance(loaded, types.ModuleType) and hasattr(loaded, "__path__"):
            path, spec = loaded.__path__, loaded.__spec__
            continue
        found = (finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((s for s in found if s is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def _first_docstring_line(entry: EntryPoint) -> str:
    spec = _find_spec(entry.module)
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return ""
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == entry.attr:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return ""
