"""Arguments that several commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from mfkd.config import RunConfig
    from mfkd.pipeline import Plan

RECIPE_HELP = (
    "A recipe (YAML file or the name of a shipped one), then [bold]key=value[/] overrides "
    "such as [cyan]train.epochs=30 student.model=resnet8[/]. Default: the embedded digits."
)
EPILOG = "All keys: [cyan]mfkd run --keys[/]. Ready recipes: [cyan]mfkd run --recipes[/]."

Words = Annotated[
    list[str] | None, typer.Argument(metavar="[RECIPE] [KEY=VALUE]...", help=RECIPE_HELP, show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def config_from(words: Sequence[str] | None) -> "RunConfig":
    """The recipe that the words name, with their overrides."""
    from mfkd.config import load_config

    recipe: str | None = None
    overrides = list(words or ())
    if overrides and ("=" not in overrides[0] or Path(overrides[0]).is_file()):
        recipe = overrides.pop(0)
    return load_config(recipe or "digits", overrides)


def plan_from(words: Sequence[str] | None) -> "Plan":
    """The same with its data read and defaults filled in."""
    from mfkd.pipeline import open_plan

    return open_plan(config_from(words))


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table, or a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"
