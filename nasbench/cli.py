"""The command line: which commands there are, and how they end. What they do stands in `nasbench.commands`."""

import ast
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from nasbench import __version__, commands
from nasbench.errors import NasbenchError
from nasbench.terminal import one_line, say


class LazyGroup(TyperGroup):
    """Imports a command when it is used; its line of help is read from its source."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of help."""
        return list(commands.COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Name and line of help of a command, which is all that a list of them shows."""
        return TyperCommand(cmd_name, help=_summary(cmd_name)) if cmd_name in commands.COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command itself, with the arguments that are left for it."""
        name, _, rest = super().resolve_command(ctx, args)
        module = import_module(f"{commands.__name__}.{name}")
        single = typer.Typer(add_completion=False)
        single.command(cls=vars(module).get("Command"))(module.command)
        return name, typer.main.get_command(single), rest


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"nasbench {__version__}")
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Neural architecture search for lightweight vision networks."""


def main() -> None:
    """Entry point: errors that a user can mend are one line on stderr and exit code 2."""
    try:
        code = app(standalone_mode=False) or 0
    except NasbenchError as e:
        say(f"error: {one_line(str(e))}")
        code = e.exit_code
    except KeyboardInterrupt:
        code = 130
    except Exception as e:
        # The errors of click, or of typer's copy of it, go by name.
        name = type(e).__name__
        if name == "Abort":
            code = 130
        elif name == "NoArgsIsHelpError":
            e.show()  # type: ignore[attr-defined]
            code = 2
        elif hasattr(e, "format_message"):
            say(f"error: {one_line(e.format_message())} (see --help)")
            code = 2
        else:
            raise
    sys.exit(code)


def _summary(name: str) -> str:
    source = Path(commands.__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
    found = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "command")
    return (ast.get_docstring(next(found)) or "").partition("\n")[0]
