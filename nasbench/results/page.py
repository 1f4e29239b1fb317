"""Pages that need nothing but themselves: no script, no network; readable on a phone, in the dark and printed."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render(template: str, **content: Any) -> str:
    """A page.

    Args:
        template: file name of one of this folder's, which extends `page.html`.
        **content: its values. What is no `Markup` is escaped; halves of characters, which no file can hold, become `?`.
    """
    from jinja2 import Environment, FunctionLoader

    pages = Environment(loader=FunctionLoader(_source), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(**content).encode("utf-8", "replace").decode("utf-8")


def _source(name: str) -> str:
    return files("nasbench.results").joinpath(name).read_text(encoding="utf-8")
