"""The recipes that come with mfkd."""

from pathlib import Path

from mfkd.errors import UnknownNameError


def recipe_names() -> list[str]:
    """The recipes that come with mfkd, without their ending."""
    return sorted(path.stem for path in _recipes().glob("*.yaml"))


def recipe_path(name: str) -> Path:
    """The file of a shipped recipe, given as `digits`, `digits.yaml` or `recipes/digits.yaml`.

    Raises:
        UnknownNameError: no such recipe.
    """
    stem = Path(name).name.removesuffix(".yaml")
    if stem not in recipe_names():
        raise UnknownNameError("recipe", name, recipe_names(), "a path to a YAML file is welcome too.")
    return _recipes() / f"{stem}.yaml"


def _recipes() -> Path:
    installed = Path(__file__).parent / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "recipes"  # in a checkout
