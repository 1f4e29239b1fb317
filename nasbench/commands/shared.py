"""Options that several commands have, and those of a run, which are made from `RunConfig`."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from rich.console import Console

from nasbench.config import KINDS, RunConfig
from nasbench.errors import OptionError
from nasbench.limits.levers import AUTO
from nasbench.presets import OPTIONAL, layer
from nasbench.progress import Display

DEFAULT_RUNS = Path("runs")  # where `nasbench run` puts records

Runs = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RUNS]...", help="Records, packs, or folders with either at any depth; by default runs."),
]
Records = Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Records, or folders with records.")]
OneRecord = Annotated[Path, typer.Argument(help="Folder of a run, or FILE.records.xz/NAME of one in a pack.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON as the last line of stdout.")]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run the code of modules that records name: for spaces that are not registered.")
]
Format = Annotated[str, typer.Option("--format", help="rich, md, latex, csv, html or json.")]
Output = Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")]
Width = Annotated[float | None, typer.Option(help="Width multiplier; short for -p width=…")]
Candidates = Annotated[
    str | None,
    typer.Option(help="Candidates of a choice: a set's name or names with commas; short for -p candidates=…"),
]
Port = Annotated[
    int | None, typer.Option(min=1024, max=65534, help="Port of NNI's portal; by default the first free one from 8080.")
]
Host = Annotated[
    str, typer.Option(help="Where the portal listens: 127.0.0.1, or 0.0.0.0 for every interface. It has no password.")
]
StopAfter = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="End before this time is over, e.g. 55m, 2h or 90s; nasbench resume goes on."),
]
Verbose = Annotated[
    bool | None,
    typer.Option("--verbose/--quiet", "-v/-q", help="What the libraries log, too; or nothing but results and errors."),
]

NONE = "none"  # how a setting is given that is to have no value
# Names beside, or in the place of, those that follow from the fields.
NAMES = {
    "architecture": ("--choice", "--architecture"),
    "limits": ("--limit",),
    **{f"{kind}_options": (f"-{letter}", f"--{kind}-option") for kind, letter in zip(KINDS, "psed", strict=True)},
}


def seconds(time: str | None) -> float | None:
    """A time such as `90s`, `55m` or `1.5h`, in seconds. Raises OptionError: it is none."""
    if time is None:
        return None
    try:
        found = float(time[:-1]) * {"s": 1, "m": 60, "h": 3600}[time[-1:]]
    except (KeyError, ValueError):
        found = 0.0
    if not 0 < found < float("inf"):
        raise OptionError(f"{time!r} is no time: say 90s, 55m or 2h, for instance")
    return found


def _option(name: str) -> Any:
    """The annotation of the option of one of the fields of `RunConfig`; it is `None` where it is not given."""
    field = RunConfig.model_fields[name]
    kinds = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else (field.annotation,)
    kind: Any = next(k for k in kinds if k is not NoneType)
    names = NAMES.get(name, (f"--{name.replace('_', '-')}",))
    if get_origin(kind) is dict:
        return Annotated[list[str] | None, typer.Option(*names, metavar="NAME=VALUE", help=field.description)]
    if name in OPTIONAL:
        words = (NONE, AUTO) if name == "image_size" else (NONE,)

        def parser(word: str) -> Any:
            return word if word in words else kind(word)

        metavar = "|".join((kind.__name__.upper(), *words))
        return Annotated[Any, typer.Option(*names, parser=parser, metavar=metavar, help=field.description)]
    return Annotated[
        (kind if kind in (bool, int, float, Path) else str) | None, typer.Option(*names, help=field.description)
    ]


def display(verbose: bool | None) -> Display:
    """Where a run shows its progress, by option `Verbose`."""
    return Display(Console(stderr=True, highlight=False, quiet=verbose is False), verbose=bool(verbose))


SpaceOptions = _option("space_options")


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Put an option for every field of `RunConfig` in the place of a command's `**settings`."""
    *own, _ = inspect.signature(command).parameters.values()
    hints, kind = get_type_hints(command, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    taken = [inspect.Parameter(n, kind, default=None, annotation=_option(n)) for n in RunConfig.model_fields]
    taken += [parameter.replace(kind=kind, annotation=hints[parameter.name]) for parameter in own]
    command.__annotations__ = {**{parameter.name: parameter.annotation for parameter in taken}, "return": None}
    command.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return command


def merge(given: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the command line's options (NAME=VALUE, and what is not `None`) over settings; OptionError as `pairs`."""
    told = {name: value for name, value in settings.items() if value is not None}
    for name in (*(f"{kind}_options" for kind in KINDS), "limits"):
        if not isinstance(given.get(name) or {}, Mapping):
            raise OptionError(f"{name} must be a mapping of names to values, not {given[name]!r}")
        if name in told:
            told[name] = pairs(name, told[name])
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in told.items()}
    return layer(given, {name: None if name in OPTIONAL and value == NONE else value for name, value in plain.items()})


def pairs(what: str, words: Iterable[str] | None) -> dict[str, Any]:
    """Options that were given as NAME=VALUE, the value in YAML. Raises OptionError: a word is none of these."""
    found = {}
    for word in words or ():
        name, sign, value = word.partition("=")
        if not sign or not name:
            raise OptionError(f"{what.replace('_', ' ')} must be given as NAME=VALUE, not {word!r}")
        try:
            found[name] = yaml.safe_load(value)
        except yaml.YAMLError as e:
            raise OptionError(f"{word!r}: the value is not YAML") from e
    return found


def short(width: float | None, candidates: str | None) -> list[str]:
    """The options of a space that have names of their own, as NAME=VALUE."""
    promoted = {"width": width, "candidates": candidates}
    return [f"{name}={value}" for name, value in promoted.items() if value is not None]
