"""The recipes, and the plans of `mfkd bench`, that come with mfkd."""

import re
from pathlib import Path

from mfkd.errors import UnknownNameError


def recipe_names() -> list[str]:
    """The recipes that come with mfkd, without their ending."""
    return _names(plans=False)


def plan_names() -> list[str]:
    """The plans that come with mfkd, without their ending."""
    return _names(plans=True)


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe, given as `digits`, `digits.yaml` or `recipes/digits.yaml`.

    Raises:
        UnknownNameError: no such recipe.
    """
    return _path("recipe", name, recipe_names())


def plan_path(name: str) -> Path:
    """The file of a shipped plan, given in the same ways.

    Raises:
        UnknownNameError: no such plan.
    """
    return _path("plan", name, plan_names())


def _path(kind: str, name: str, known: list[str]) -> Path:
    stem = Path(name).name.removesuffix(".yaml")
    if stem not in known:
        raise UnknownNameError(kind, name, known, "a path to a YAML file is welcome too.")
    return _folder() / f"{stem}.yaml"


def _names(plans: bool) -> list[str]:
    """A plan is told by its key `methods`, which no recipe has."""
    found = _folder().glob("*.yaml")
    return sorted(
        path.stem for path in found if bool(re.search(r"^methods:", path.read_text("utf-8"), re.MULTILINE)) == plans
    )


def _folder() -> Path:
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"  # in a checkout
