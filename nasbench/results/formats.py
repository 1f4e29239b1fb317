import base64
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from nasbench.errors import OptionError, unknown
from nasbench.results.cells import Table
from nasbench.terminal import plain_table

SIGNS = "pm times div ge le approx rightarrow cdot"
LETTERS = "Delta Sigma alpha beta gamma zeta eta theta kappa lambda pi rho sigma"
LATEX = {
    "\\": r"\textbackslash{}",
    **{c: "\\" + c for c in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "✓": r"\checkmark{}",
    "’": "'",
    "“": "``",
    "”": "''",
    "²": r"$^2$",
    "−": "$-$",
    **{sign: rf"$\{name}$" for sign, name in zip("±×÷≥≤≈→·", SIGNS.split(), strict=True)},
    **{letter: rf"$\{name}$" for letter, name in zip("ΔΣαβγζηθκλπρσ", LETTERS.split(), strict=True)},
}


def render(table: Table, how: str) -> str:
    """A table as `md`, `latex`, `csv`, `html` or `json`. Raises OptionError: unknown format."""
    if how not in FORMATS:
        raise OptionError(unknown("format", how, ("rich", *FORMATS)))
    return FORMATS[how](table)


def rich(table: Table) -> RenderableType:
    """A table for the terminal; narrower than its `grid` needs, it would lose digits."""
    notes = [Text(note, style="dim") for note in table.notes]
    return Group(Text(table.caption, style="bold"), "", grid(table), *([""] if notes else []), *notes)


def grid(table: Table) -> RichTable:
    """The rows and columns of a table for the terminal."""
    drawn = plain_table()
    for column in table.columns:
        drawn.add_column(Text(column.header.replace("paper ", "paper\n")), justify=column.align, vertical="bottom")
    for i in range(len(table.rows)):
        if i in table.rules:
            drawn.add_row()
        bold = ["best" in table.cell(i, c.key).marks for c in table.columns]
        drawn.add_row(*(Text(t, style="bold" if b else "") for t, b in zip(table.texts(i), bold, strict=True)))
    return drawn


def markdown(table: Table) -> str:
    """A table as GitHub's Markdown, its caption above and its notes below."""
    lines = [f"**{_md(table.caption)}**", "", "| " + " | ".join(_md(c.header) for c in table.columns) + " |"]
    rules = {"left": ":--", "center": ":-:", "right": "--:"}
    lines.append("|" + "|".join(rules[c.align] for c in table.columns) + "|")
    for i in range(len(table.rows)):
        lines.append("| " + " | ".join(_emphasised(table, i, _md, "**{}**")) + " |")
    if table.notes:
        lines += ["", *(f"- {_md(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A LaTeX float with booktabs; its first line names the packages that it needs."""
    sides = "".join(c.align[0] for c in table.columns)
    lines = [
        r"% needs \usepackage{booktabs,amssymb,graphicx} and \usepackage[T1]{fontenc}",
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{_tex(table.caption)}}}",
        rf"\label{{tab:{table.name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{sides}@{{}}}}",
        r"\toprule",
        " & ".join(_stacked(c.header, side) for c, side in zip(table.columns, sides, strict=True)) + r" \\",
        r"\midrule",
    ]
    for i in range(len(table.rows)):
        if i in table.rules:
            lines.append(r"\midrule")
        lines.append(" & ".join(_emphasised(table, i, _tex, r"\textbf{{{}}}")) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}}"]
    if table.notes:
        lines += ["", r"\smallskip\raggedright", " ".join(_tex(note) for note in table.notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def data_uri(content: bytes, kind: str) -> str:
    """A picture of a kind such as `png` as it stands in a page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def render_page(template: str, **content: Any) -> str:
    """A template with these values, what is no `Markup` escaped; halves of characters, which no file holds, are `?`."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("nasbench.results", "")
    pages = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(**content).encode("utf-8", "replace").decode("utf-8")


def _emphasised(table: Table, row: int, markup: Callable[[str], str], bold: str) -> list[str]:
    """The texts of a row in some markup, the best set in bold."""
    texts = zip(table.columns, map(markup, table.texts(row)), strict=True)
    return [bold.format(text) if "best" in table.cell(row, column.key).marks else text for column, text in texts]


def _md(content: str) -> str:
    return content.replace("|", "\\|").replace("\n", " ").replace("*", "\\*")


def _stacked(header: str, align: str) -> str:
    """A column's header on several lines, so that wide tables need not be shrunk much."""
    lines = header.replace("paper ", "paper\n").replace(" (", "\n(").split("\n")
    stacked = r" \\ ".join(map(_tex, lines))
    return rf"\shortstack[{align}]{{{stacked}}}" if len(lines) > 1 else stacked


def _tex(content: str) -> str:
    # Beyond Latin letters LaTeX's standard encoding knows nothing.
    return "".join(LATEX.get(c, c if ord(c) < 0x180 else "?") for c in content)


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": markdown,
    "latex": latex,
    "csv": lambda table: table.frame().to_csv(index=False, lineterminator="\n"),  # without caption and notes
    "html": lambda table: render_page("table.html", table=table) + "\n",  # in its own scrolling box, to stand in a page
    "json": lambda table: json.dumps(asdict(table), ensure_ascii=False, indent=2) + "\n",
}
