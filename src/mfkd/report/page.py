"""A page as one HTML file that asks for nothing from outside."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from mfkd.errors import ConfigError
from mfkd.report.images import uri
from mfkd.report.parts import Block, Page, Picture, Table

NARROW = 60
"""Widest table that may stand beside a figure, see `width`."""


def html(page: Page) -> str:
    """The whole file.

    Raises:
        ConfigError: Jinja is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError:
        raise ConfigError("mfkd report needs Jinja; run `pip install 'mfkd[report]'`.") from None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["runs"] = runs
    environment.filters["svg"] = lambda content: uri(content, "image/svg+xml")
    style = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    text: str = environment.get_template("page.html").render(page=page, style=style)
    return text


def runs(blocks: Sequence[Block]) -> list[tuple[str, list[Block]]]:
    """Neighbours of one kind together; figures and narrow tables are one kind, "grid", and stand side by side."""

    def kind(block: Block) -> str:
        narrow = isinstance(block, Table) and not block.folded and width(block) <= NARROW
        return "grid" if narrow or isinstance(block, Picture) else block.kind

    return [(name, list(group)) for name, group in groupby(blocks, key=kind)]


def width(table: Table) -> int:
    """Of a table, in signs: of each column the longest cell, and room between them; heads may wrap."""
    heads = [max(map(len, column.split()), default=0) for column in table.columns]
    longest = [max([head, *(len(row[place]) for row in table.rows)]) for place, head in enumerate(heads)]
    return min(longest[0], 16) + sum(longest[1:]) + 2 * len(longest)
