"""The methods and their options as rows, read from where they are written."""

import inspect
import sys

from mfkd.errors import UnknownNameError
from mfkd.methods import METHODS
from mfkd.validation import describe


def overview() -> list[dict[str, str]]:
    """One row a method: its name, its idea in a sentence and its paper, from the head of its module."""
    rows = []
    for name, (method, _) in METHODS.items():
        head = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "").splitlines()
        rows.append(
            {
                "method": name,
                "idea": head[0].partition(": ")[2].rstrip("."),
                "paper": " ".join(_section(head, "Paper:")),
            }
        )
    return rows


def options(name: str) -> list[dict[str, str]]:
    """One row an option of a method: its name, default and meaning, from the method's config.

    Raises:
        UnknownNameError: no such method, with the nearest ones.
    """
    if name not in METHODS:
        raise UnknownNameError("method", name, METHODS)
    return [
        {"option": key, "default": default, "meaning": meaning} for key, default, meaning in describe(METHODS[name][1])
    ]


def _section(lines: list[str], title: str) -> list[str]:
    """The lines of one entry, such as `Paper:`, whose later lines are indented."""
    found: list[str] = []
    for line in lines:
        if line.startswith(title):
            found.append(line.removeprefix(title).strip())
        elif found and not line.startswith(" "):
            break
        elif found:
            found.append(line.strip())
    return found
