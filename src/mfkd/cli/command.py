"""Help that reads as one would write it by hand."""

import inspect
import re
from typing import Any

import typer
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from mfkd.cli import screen

INTERRUPTED = 130  # 128 + SIGINT, the shell's custom


def prose(text: str) -> str:
    """A docstring as help: paragraphs on one line each, `code` coloured, everything else as it stands."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(re.sub(r"`([^`]+)`", r"[cyan]\1[/]", escape(" ".join(p.split()))) for p in paragraphs)


def examples(rows: dict[str, str]) -> str:
    """An epilog of commands with what each does."""
    width = max(map(len, rows))
    lines = [
        f"[dim]$[/] [cyan]{escape(row)}[/]{' ' * (width - len(row))}  {escape(rows[row])}".rstrip() for row in rows
    ]
    return "\n".join(["Examples:", *lines])


class _Plain:
    """Leaves Python's types and typer's braces out of the help."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            shown = param.metavar if param.param_type_name == "option" else None
            vars(param)["display_type_rich"] = lambda ctx, shown=shown: shown  # noqa: ARG005
        return params

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        pieces: list[str] = super().collect_usage_pieces(ctx)  # type: ignore[misc]
        return [piece.translate({ord("{"): None, ord("}"): None}) for piece in pieces]


class Command(_Plain, TyperCommand):
    """One command."""


class Group(_Plain, TyperGroup):
    """All commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; Ctrl-C ends it with a line and no traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # outside of a training, which ends in its own way
            screen.complain("stopped.")
            raise typer.Exit(INTERRUPTED) from None
