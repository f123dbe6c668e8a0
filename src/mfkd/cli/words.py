"""Arguments that several commands share."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mfkd.errors import ConfigError
from mfkd.places import is_file

if TYPE_CHECKING:
    from mfkd.config import RunConfig
    from mfkd.plan import Plan

Recipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a shipped recipe ([cyan]mfkd run --recipes[/]). Default: digits, "
        "and images where data.name names other data.",
        show_default=False,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Changes to the recipe, such as [cyan]train.epochs=30[/] ([cyan]mfkd run --keys[/] lists all keys).",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def config_from(recipe: str | None, overrides: Iterable[str] | None) -> "RunConfig":
    """The recipe that the words name, with their overrides, in whatever order they come."""
    from mfkd.config import load_config

    words = [word for word in (recipe, *(overrides or ())) if word is not None]
    recipes = [word for word in words if "=" not in word or is_file(Path(word))]
    if len(recipes) > 1:
        raise ConfigError(
            f"got {' and '.join(map(repr, recipes))}, expected one recipe; "
            "whatever else there is must be key=value, such as train.epochs=30."
        )
    changes = [word for word in words if word not in recipes]
    return load_config(recipes[0] if recipes else default_recipe(changes), changes)


def default_recipe(overrides: Iterable[str]) -> str:
    """What is meant where no recipe is named: budget and seeds of the digits suit no other data."""
    for word in overrides:
        key, _, value = word.partition("=")
        if (key == "data.name" and value != "digits") or key == "data":
            return "images"
    return "digits"


def plan_from(recipe: str | None, overrides: Iterable[str] | None) -> "Plan":
    """The same with its data read and defaults filled in."""
    config = config_from(recipe, overrides)
    from mfkd.models.trust import own
    from mfkd.plan import open_plan

    plan = open_plan(config)
    own(plan.models)
    return plan


def image_shape(text: str) -> tuple[int, int, int]:
    """(C, H, W) of the option --input.

    Raises:
        ConfigError: something else than three counts.
    """
    sides = text.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ConfigError(f"--input: got {text!r}, expected channels x height x width, for example 3x32x32.")
    channels, height, width = map(int, sides)
    return channels, height, width
