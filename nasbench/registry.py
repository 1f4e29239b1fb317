"""From names to factories: ours and third parties' come from entry points, anyone's own class by `module:Class`."""

import ast
import contextlib
import importlib
import inspect
import json
import sys
import traceback
import typing
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from itertools import accumulate
from pathlib import Path
from typing import Any

from nasbench.config import GIVEN
from nasbench.errors import NasbenchError, OptionError, unknown
from nasbench.options import check as check_option

GROUPS = {
    "space": "nasbench.spaces",
    "strategy": "nasbench.strategies",
    "evaluator": "nasbench.evaluators",
    "dataset": "nasbench.datasets",
}
# Packages that parts of others ask for, in a version that they do not say → our extra that brings it.
EXTRAS = {"tianshou": "rl"}
# What every part of a kind derives from; importing it takes seconds.
BASES = {
    "space": "nni.nas.nn.pytorch:ModelSpace",
    "strategy": "nni.nas.strategy:Strategy",
    "evaluator": "nni.nas.evaluator:Evaluator",
    "dataset": "pytorch_lightning:LightningDataModule",
}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
# What the framework says to a part itself; no option of a user's. Spaces have several names for the same.
CLASSES_NAMES = ("num_classes", "num_labels", "n_classes")
SIZE_NAMES = ("image_size", "input_size", "img_size")
OWNED = {
    "space": (*CLASSES_NAMES, *SIZE_NAMES),
    "strategy": ("seed",),
    "evaluator": ("dataset", "data", "stage", "epochs", "device", "devices", "nodes", "precision", "checkpoints"),
    "dataset": (
        *("data_root", "image_size", "batch_size", "train_images", "stage", "workers", "download", "seed"),
        *("skip_broken", "normalisation"),
    ),
}


@cache
def entries(kind: str) -> dict[str, EntryPoint]:
    """Entry points of all registered names of a kind (`space`, `strategy`, `evaluator` or `dataset`), by name."""
    return {e.name: e for e in sorted(entry_points(group=GROUPS[kind]), key=lambda e: e.name)}


def summaries(kind: str) -> dict[str, str]:
    """The first docstring line, if any, of every registered class of a kind, by name, read without importing it."""
    return {name: _first_docstring_line(entry) for name, entry in entries(kind).items()}


_trusted: ContextVar[bool] = ContextVar("trusted", default=True)


@contextlib.contextmanager
def trusting(trust: bool) -> Iterator[None]:
    """Within, import what is not registered, or refuse to: names that a stranger wrote down are not to be trusted."""
    token = _trusted.set(trust)
    try:
        yield
    finally:
        _trusted.reset(token)


def load(kind: str, name: str) -> Any:
    """Import the class behind a registered name or `package.module:Class`; the current folder is searched last.

    Raises OptionError: there is no such name, module or class, it is no such part, or is not to be trusted.
    """
    if ":" in name:
        found = imported(kind, name)
    elif name in entries(kind):
        found = entries(kind)[name].load()
    else:
        known = [*entries(kind), *([GIVEN] if kind == "strategy" else [])]
        raise OptionError(unknown(kind, name, known) + "; your own class is given as package.module:Class")
    module, _, of_kind = BASES[kind].partition(":")
    base = getattr(importlib.import_module(module), of_kind)
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise OptionError(f"{kind} {name!r} is no {module.partition('.')[0]} {base.__name__}")
    return found


def imported(kind: str, name: str) -> Any:
    """Import what `package.module:attribute` names, which runs that module's code; else OptionError."""
    if not _trusted.get():
        raise OptionError(
            f"{kind} {name!r} is not registered, and using it runs the code of that module: allow it by --trust "
            "(in Python trust=True)"
        )
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
        raise OptionError(f"{kind} {name!r}: importing {module_name} failed: {describe_exception(e)}") from e
    if not hasattr(module, attribute):
        public = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise OptionError(unknown(f"class or function in {module_name}", attribute, public))
    return getattr(module, attribute)


def declared(factory: Any, what: str, default: Any) -> Any:
    """What a part declares beside its constructor, see `nasbench.contracts`; `default` where it declares nothing."""
    return getattr(factory, what, default)


def preset(kind: str, name: str, which: str, common: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a part has in a preset: of its `presets`, or of its class method `preset_options`.

    The latter gets what the preset says of every run (`common`) and what this run has (`settings`).
    """
    factory = load(kind, name)
    scaled = declared(factory, "preset_options", None)
    options = scaled(which, common, settings) if scaled else declared(factory, "presets", {}).get(which, {})
    taken = parameters(factory)  # a class derived from another may take fewer options, and has its presets
    open_ended = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return {name: value for name, value in options.items() if open_ended or name in taken}


def words(kind: str, name: str, options: Mapping[str, Any]) -> dict[str, str]:
    """What the label of a run says of a part's options (its static method `words`, by default nothing)."""
    return dict(declared(load(kind, name), "words", lambda options: {})(options))


def searches(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a strategy with these options trains anything (its static method `searches`, by default always)."""
    return bool(declared(load("strategy", name), "searches", lambda options: True)(options))


def complete(kind: str, name: str, options: Mapping[str, Any], settle: bool = True) -> dict[str, Any]:
    """Every option of a part with its value, defaults included, as plain values in the order of the constructor.

    With `settle` a class method of that name of the part puts values in the place of those that depend on others.
    Raises OptionError: unknown option, wrong type, value out of range, or no plain value.
    """
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    factory = load(kind, name)
    given = check_options(kind, name, factory, options)
    found: dict[str, Any] = {}
    for option, parameter in parameters(factory).items():
        if option in given:
            found[option] = given.pop(option)
        elif option not in OWNED[kind] and parameter.default is not parameter.empty and _named(parameter):
            # What no user could give as this option is no default to write down, e.g. an object.
            with contextlib.suppress(OptionError):
                found |= check_options(kind, name, factory, {option: parameter.default})
    found |= given
    found = declared(factory, "settle", dict)(found) if settle else found
    plain: dict[str, Any] = {}
    for option, value in found.items():
        try:
            plain[option] = to_jsonable_python(value)
            json.dumps(plain[option], allow_nan=False)
        except (PydanticSerializationError, ValueError) as e:
            plain.pop(option, None)
            if option in options:
                raise OptionError(f"{kind} {name!r}: option {option}={value!r} is no finite plain value") from e
    return plain


def _named(parameter: inspect.Parameter) -> bool:
    return parameter.kind in NAMED


def parameters(factory: Any) -> dict[str, inspect.Parameter]:
    """The named options that a class or function takes, also behind NNI's wrappers.

    A constructor with `**kwargs` hands them on: the options of its base class count too, none of them required.
    """
    found: dict[str, inspect.Parameter] = {}
    for function in constructors(factory):
        taken = {n: p for n, p in inspect.signature(function).parameters.items() if n != "self"}
        own = not found
        found = {n: p for n, p in found.items() if p.kind is not p.VAR_KEYWORD}
        for n, p in taken.items():
            optional = own or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) or p.default is not p.empty
            found.setdefault(n, p if optional else p.replace(default=None))
    return found


def build(kind: str, name: str, options: Mapping[str, Any], **context: Any) -> Any:
    """Build a registered or imported class with the options that a user gave, converted to the annotated types.

    The context (classes, image size, seed …) is passed on where the class takes it. Raises OptionError: unknown option,
    wrong type, value out of range, or a failing constructor.
    """
    factory = load(kind, name)
    given = check_options(kind, name, factory, options)
    accepted = parameters(factory)
    given = {k: v for k, v in context.items() if k in accepted} | given
    missing = [n for n, p in accepted.items() if p.default is p.empty and _named(p) and n not in given]
    if missing:
        raise OptionError(f"{kind} {name!r} needs the option {', '.join(missing)}: give it as {missing[0]}=VALUE")
    try:
        return factory(**given)
    except NasbenchError as e:
        raise type(e)(f"{kind} {name!r}: {e}") from e
    except Exception as e:
        raise OptionError(f"{kind} {name!r} could not be built: {describe_exception(e)}") from e


def build_dataset(name: str, data: Mapping[str, Any], **context: Any) -> Any:
    """Build a data set of its own options and `RunConfig.data_options`, see `build`; nothing is read yet."""
    own = {k: v for k, v in data.items() if k not in OWNED["dataset"]}
    return build("dataset", name, own, **{k: v for k, v in data.items() if k not in own}, **context)


def check_options(kind: str, name: str, factory: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the names of options and convert their values to the annotated types; OptionError where that fails."""
    from pydantic import ConfigDict, TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    accepted = parameters(factory)
    named = [n for n, p in accepted.items() if _named(p) and n not in OWNED[kind]]
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    hints = _hints(factory)
    checked = {}
    for option, value in options.items():
        if option in OWNED[kind]:
            raise OptionError(f"{kind} {name!r}: {option} is not given as an option; the run's own settings tell it")
        if option not in named and not open_ended:
            raise OptionError(unknown(f"option of {kind} {name!r}", option, named))
        checked[option] = value
        if option in named and option in hints:
            hint = hints[option]
            try:
                plain = inspect.isclass(hint) and (issubclass(hint, (str, Path)) or hasattr(hint, "model_config"))
                adapter = TypeAdapter(hint, config=None if plain else ConfigDict(arbitrary_types_allowed=True))
                checked[option] = adapter.validate_python(value)
            except ValidationError as e:
                first = e.errors()[0]
                own = first.get("ctx", {}).get("error")
                reason = str(own) if isinstance(own, NasbenchError) else first["msg"].lower()
                raise OptionError(f"{kind} {name!r}: option {option}={value!r}: {reason}") from e
            except PydanticUserError:
                pass  # an annotation that pydantic cannot read is left to the class itself
            try:
                check_option(option, hint, checked[option])
            except OptionError as e:
                raise OptionError(f"{kind} {name!r}: {e}") from e
    return checked


def describe_exception(error: BaseException) -> str:
    """One line that says what a foreign exception was and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split()) or "no message"
    extra = next((extra for package, extra in EXTRAS.items() if package in text), "")
    hint = f'; pip install "nasbench[{extra}]" brings it' if extra and isinstance(error, ImportError) else ""
    return f"{type(error).__name__}: {text}{where}{hint}"


def constructors(factory: Any) -> Iterator[Any]:
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
    for function in constructors(factory):
        # Annotations of strangers may name what is only imported for type checking.
        with contextlib.suppress(Exception):
            hints = {**typing.get_type_hints(function, include_extras=True), **hints}
    return hints


def _find_spec(module: str) -> ModuleSpec | None:
    """Like importlib.util.find_spec, but imports no parent package."""
    path: Any = None
    spec: ModuleSpec | None = None
    for name in accumulate(module.split("."), "{}.{}".format):
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
