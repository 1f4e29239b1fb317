"""What a part's constructor says of its options: also the comments that stand with them in the source."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nasbench import registry
from nasbench.errors import NasbenchError, OptionError, unknown
from nasbench.presets import PRESETS, resolve_config

# What annotations mean to a reader, in this order.
VALUES = (
    (r" \| None", ""),
    (r"Annotated\[\w+, Range\(ge=([\d.]+), le=([\d.]+)\)\]", r"\1 to \2"),
    (r"\w*\.?Literal\[(.*)\]", r"\1"),
    (r"\b(Count|Whole|int)\b", "whole number"),
    (r"\b(Positive|NonNegative|Rate|float)\b", "number"),
    (r"\b(Fraction|Share)\b", "0 to 1"),
    (r"\bWidth\b", "0.05 to 8"),
    (r"\b(Candidates|Gates)\b", "a set's name, or names"),
    (r"\bRule\b", "'fit', 'original'"),
    (r"\bJoin\b", "'branch_first', 'input_first'"),
    (r"\bUndecided\b", "'cheapest', 'largest_pi'"),
    (r"\bstr\b", "text"),
    (r"list\[(.*)\]", r"\1s"),
    (r"\bbool\b", "true or false"),
    (r"\|", "or"),
)


@dataclass(frozen=True)
class PartOption:
    """An option of a part."""

    name: str
    value: str  # what may be given, in words; empty where the part does not say
    default: str  # as Python writes it; `required` where there is none
    text: str  # what the source says of it
    origin: str  # the class or function that takes it, `module.Class`


def kinds_of(name: str) -> list[str]:
    """The kinds under which a part is known: of a registered name all that have it, of `module:Class` its own.

    Raises OptionError: there is no such part.
    """
    if ":" not in name:
        known = {kind: registry.entries(kind) for kind in registry.GROUPS}
        found = [kind for kind in known if name in known[kind]]
        if not found:
            raise OptionError(unknown("part", name, sorted({part for parts in known.values() for part in parts})))
        return found
    for kind in registry.BASES:
        try:
            registry.load(kind, name)
        except OptionError as e:
            reason = e
        else:
            return [kind]
    raise reason


def options_of(kind: str, name: str) -> list[PartOption]:
    """The options that a user may give to a part, its bases' behind its own. Raises OptionError: no such part."""
    found: dict[str, PartOption] = {}
    for function in registry.constructors(registry.load(kind, name)):
        source = dict(_said(function))
        origin = f"{function.__module__}.{function.__qualname__}".removesuffix(".__init__")
        for option, parameter in inspect.signature(function).parameters.items():
            if option == "self" or option in registry.OWNED[kind] or parameter.kind not in registry.NAMED:
                continue
            value, text = source.get(option, ("", ""))
            default = "required" if parameter.default is parameter.empty else repr(parameter.default)
            found.setdefault(option, PartOption(option, value, default, text, origin))
    return list(found.values())


def presets_of(kind: str, name: str) -> dict[str, dict[str, Any]]:
    """Preset → the options that it gives other values than their defaults, where all else is as nobody asked."""
    found = {}
    for preset in PRESETS:
        try:
            plain = registry.complete(kind, name, {})
            of_preset = getattr(resolve_config({kind: name, "preset": preset}), f"{kind}_options")
        except NasbenchError:  # a required option
            continue
        found[preset] = {option: value for option, value in of_preset.items() if plain.get(option) != value}
    return found


def _said(function: Any) -> Iterator[tuple[str, tuple[str, str]]]:
    """Name of each parameter, its annotation in words, and the comments above it and on its lines."""
    try:
        lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    except (OSError, TypeError):
        return
    tree: Any = ast.parse("\n".join(lines)).body[0]
    for parameter in (*tree.args.args, *tree.args.kwonlyargs) if isinstance(tree, ast.FunctionDef) else ():
        first = parameter.lineno - 1
        while first and lines[first - 1].strip().startswith("#"):
            first -= 1
        comments = [line.partition("#")[2].strip() for line in lines[first : parameter.end_lineno] if "#" in line]
        value = ast.unparse(parameter.annotation) if parameter.annotation else ""
        for pattern, word in VALUES:
            value = re.sub(pattern, word, value)
        yield parameter.arg, (value, " ".join(comments))
