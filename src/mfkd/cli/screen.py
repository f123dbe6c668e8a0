"""Results on stdout, everything else on stderr; text from outside is never read as markup."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 200  # columns of a table that no terminal limits


def is_first() -> bool:
    """Whether this is the one process that speaks, as the launcher says."""
    return int(os.environ.get("RANK", "0")) == 0


def say(text: str) -> None:
    """One line of progress, on stderr."""
    if is_first():
        Console(stderr=True).print(Text(text), soft_wrap=True, highlight=False)


def complain(text: str) -> None:
    """The line with which a command ends that cannot go on, on stderr."""
    Console(stderr=True).print(Text("mfkd: ", "bold red") + Text(text, ""), soft_wrap=True, highlight=False)


def tell(text: str, style: str = "") -> None:
    """One line of a result."""
    if is_first():
        _out().print(Text(text, style), soft_wrap=True)


def dump(value: Any) -> None:
    """A result as JSON."""
    if is_first():
        print(json.dumps(value, indent=1), flush=True)  # noqa: T201 - rich would wrap it


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str] | None], left: int = 1, fixed: int = 1
) -> None:
    """A result as a table.

    Args:
        title: stands above it.
        columns: heads.
        rows: cells; None draws a line.
        left: so many first columns are text and stand left, the others are figures.
        fixed: so many first columns are never wrapped.
    """
    tell(title, "bold")
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        shown.add_column(
            Text(column),
            justify="left" if position < left else "right",
            overflow="fold",
            no_wrap=position < fixed,
        )
    for row in rows:
        if row is None:
            shown.add_section()
        else:
            shown.add_row(*map(Text, row))
    if is_first():
        _out().print(shown)


def files(*paths: Path, quiet: bool = False) -> None:
    """The last line of a command: where its files are; on stderr where stdout is for a machine."""
    (say if quiet else tell)(f"Files: {', '.join(map(str, paths))}")


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def duration(seconds: float) -> str:
    """A time as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _out() -> Console:
    wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=PIPED_WIDTH if wide else None, highlight=False)
