"""A raw recipe: read from YAML, with `key=value` of the command line laid over it."""

from pathlib import Path
from typing import Any

from mfkd.errors import ConfigError, brief
from mfkd.plain import DEEPEST, LONGEST, parse


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file; tags that would build objects are refused."""
    try:
        with path.open(encoding="utf-8") as file:
            raw = parse(file.read(LONGEST + 1))
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"recipe {path} does not exist; `mfkd run --recipes` lists the ready ones.") from None
    except OSError as error:
        raise ConfigError(f"recipe {path} cannot be read: {error.strerror}; check its permissions.") from None
    except ValueError as error:  # an encoding that is not UTF-8 too
        raise ConfigError(f"recipe {path} is not valid YAML: {error}.") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"recipe {path} must hold a mapping of keys, got {type(raw).__name__}.")
    return raw


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key of `raw` in place; mappings below the first level are copied, not shared.

    Args:
        raw: the recipe so far.
        override: such as `train.epochs=30`; the value is read as YAML.

    Raises:
        ConfigError: no `key=value`, bad YAML, or a key below something that is no mapping.
    """
    key, separator, text = override.partition("=")
    parts = key.split(".")
    if not separator or not all(parts) or len(parts) > DEEPEST or not key.isprintable():
        raise ConfigError(f"override {brief(override)} is not of the form key=value, for example train.epochs=30.")
    try:
        value = parse(text)
    except ValueError:
        raise ConfigError(f"the value of override {brief(override)} is not valid YAML; quote it.") from None
    node = raw
    for depth, part in enumerate(parts[:-1], 1):
        inner = node.get(part)
        if not isinstance(inner, dict | None):
            below = ".".join(parts[depth:])
            advice = ""
            if part == "method" and isinstance(inner, str):
                advice = f"; name the methods with their options: method='{{{inner}: {{...}}}}'"
            raise ConfigError(
                f"{brief(override)}: {'.'.join(parts[:depth])} is {brief(inner)}, it has no key {below!r}{advice}."
            )
        node[part] = dict(inner or {})
        node = node[part]
    node[parts[-1]] = _number(value) if isinstance(value, str) else value


def _number(text: str) -> str | float:
    """YAML 1.1 reads 5e-4 as text; a person means a number."""
    try:
        return float(text) if text[:1] in "+-.0123456789" else text
    except ValueError:
        return text
