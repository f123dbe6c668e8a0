"""What a page consists of, as plain values; `page` turns them into HTML."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Table:
    """Rows of figures; the first column is the head of each row.

    Args:
        caption: what it shows.
        columns: heads.
        rows: cells.
        left: so many first columns are text and stand left, the others are figures.
        folded: whether it opens on demand; the caption is its handle then.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A figure, drawn for light and for dark paper.

    Args:
        name: of its file.
        title: above it.
        alt: what it shows, for those who do not see it.
        light: SVG.
        dark: SVG.
        caption: below it.
        wide: whether it takes the whole width.
    """

    kind: ClassVar[str] = "picture"
    name: str
    title: str
    alt: str
    light: bytes
    dark: bytes
    caption: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Image:
    """A small picture.

    Args:
        source: data URI.
        alt: what it shows.
        label: below it; "" leaves it out.
        pixels: whether its few pixels are to be seen as squares.
    """

    source: str
    alt: str
    label: str = ""
    pixels: bool = False


@dataclass(frozen=True)
class Card:
    """A few images that belong together."""

    title: str
    text: str
    images: Sequence[Image]


@dataclass(frozen=True)
class Cards:
    """Several of them."""

    kind: ClassVar[str] = "cards"
    title: str
    cards: Sequence[Card]


@dataclass(frozen=True)
class ImageTable:
    """Images in rows and columns; an empty cell is None.

    Args:
        title: above it.
        text: below the title.
        columns: heads.
        rows: head of the row, and its images.
        beside: an image that stands beside all of it.
    """

    kind: ClassVar[str] = "images"
    title: str
    text: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Image | None]]]
    beside: Image | None = None


Block = Text | Table | Picture | Cards | ImageTable


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Tile:
    """A figure in large type, with what it is above and more about it below."""

    label: str
    value: str
    more: str = ""
    accent: bool = False


@dataclass(frozen=True)
class Page:
    """A whole page.

    Args:
        title: its heading.
        kicker: a line above the heading.
        asked: sentences on what was asked.
        gained: sentences on what came out.
        tiles: the figures that matter most.
        warnings: what a reader must not overlook.
        first: figures of the first screen.
        sections: everything else.
        foot: last line.
    """

    title: str
    kicker: str
    asked: Sequence[str]
    gained: Sequence[str]
    tiles: Sequence[Tile] = ()
    warnings: Sequence[str] = ()
    first: Sequence[Picture] = ()
    sections: Sequence[Section] = field(default_factory=list)
    foot: str = ""

    @property
    def pictures(self) -> list[Picture]:
        """All figures of the page."""
        found = [block for section in self.sections for block in section.blocks if isinstance(block, Picture)]
        return [*self.first, *found]
