"""Pages of the site that are generated: the reference of commands and options, and documents from beside `docs/`."""

from __future__ import annotations

import inspect
import re
import typing
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.core import TyperArgument

from nasbench import registry
from nasbench.commands import COMMANDS
from nasbench.parts import options_of

ROOT = Path(__file__).parent.parent
BESIDE = {
    "experiments.md": "experiments/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
}
KINDS = {"space": "Spaces", "strategy": "Strategies", "evaluator": "Evaluators", "dataset": "Data sets"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {"reference/commands.md": commands(), "reference/options.md": options()}
    pages |= {name: (ROOT / path).read_text(encoding="utf-8") for name, path in BESIDE.items()}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=re.sub(r"\]\((\.\./)?docs/", "](", text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to documents beside `docs/` lead to their pages."""
    for name, path in BESIDE.items():
        markdown = markdown.replace(f"](../{path})", f"]({name})")
    return markdown


def commands() -> str:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", "What `nasbench COMMAND --help` says.", ""]
    for name in COMMANDS:
        module = import_module(f"nasbench.commands.{name}")
        single = typer.Typer(add_completion=False)
        single.command(cls=vars(module).get("Command"))(module.command)
        found = typer.main.get_command(single)
        with typer.Context(found, info_name=f"nasbench {name}") as context:
            usage = " ".join(found.get_usage(context).split()).removeprefix("Usage: ")
            lines += [f"## {name}", "", _text(found.help), "", f"```text\n{usage}\n```", ""]
            rows = [row for row in (_row(parameter, context) for parameter in found.params) if row]
        if rows:
            lines += ["| option | value | |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(parameter: Any, context: Any) -> str:
    if "--help" in parameter.opts:
        return ""
    names = [f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts)]
    shown = f"`{parameter.name.upper()}`" if isinstance(parameter, TyperArgument) else ", ".join(names)
    default = parameter.get_default(context)
    told = f" Default: `{default}`." if type(default) in (str, int, float) else ""
    value = "" if getattr(parameter, "is_flag", False) else f"`{parameter.metavar or _kind(parameter)}`"
    return f"| {shown} | {value} | {_text(getattr(parameter, 'help', ''))}{told} |"


def _kind(parameter: Any) -> str:
    found = parameter.type_descriptor.annotation
    while inner := [kind for kind in typing.get_args(found) if kind is not type(None)]:
        if not isinstance(inner[0], type) and typing.get_origin(inner[0]) is None:
            return " or ".join(map(str, inner))  # literals
        found = inner[0]
    return {"str": "text", "int": "number", "float": "number", "Path": "path"}.get(found.__name__, found.__name__)


def _text(text: str | None) -> str:
    return " ".join(inspect.cleandoc(text or "").split()).replace("|", "or")


def options() -> str:
    """Every registered part of this package with its options, as its constructor says them."""
    lines = [
        "# Parts and their options",
        "",
        "Options of a space go with `-p`, of a strategy with `-s`, of an evaluator with",
    ]
    lines += ["`-e` and of a data set with `-d`: `-s fixing=evidence`.", ""]
    for kind, title in KINDS.items():
        lines += [f"## {title}", ""]
        for name, entry in registry.entries(kind).items():
            if not entry.module.startswith("nasbench."):
                continue
            found = registry.load(kind, name)
            lines += [f"### {name}", "", inspect.getdoc(found) or "", ""]
            rows = [f"| `{o.name}` | {o.value} | `{o.default}` | {_text(o.text)} |" for o in options_of(kind, name)]
            if rows:
                lines += ["| option | value | default | |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def on_post_page(output: str, **_: Any) -> str:
    """Take out the one script that would be fetched; without it pages that are opened as files have no search."""
    return re.sub(r'<script src="https://unpkg[^>]*></script>', "", output)
