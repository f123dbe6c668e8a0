"""The user's code that a network is built by, copied into its export so that nothing else is needed."""

import ast
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from mfkd.files import write_text
from mfkd.models.trust import VARIABLE, Watched, remember, watched
from mfkd.train.student import Card

ENTRY = "mfkd_network.py"
"""Stands in an export for a factory in a package: a file of a package alone finds none of its neighbours."""


def with_code(folder: Path, card: Card) -> Card:
    """Copy the code of a user's network that is no installed package.

    Args:
        folder: of the export.
        card: names the network as it was trained.

    Returns:
        The card, which now names a file beside the weights.
    """
    source, _, factory = card.model.rpartition(":")
    module = Path(*source.split("."))  # in the working folder
    if source and not module.is_dir() and Path(f"{source}.py").is_file():
        source = f"{source}.py"
    if source.endswith(".py"):
        file = Path(source).expanduser().resolve()
        _copy([Path(file.name)], file.parent, folder)
        return replace(card, model=f"{file.name}:{factory}")
    if not source or not any(file.is_file() for file in (module.with_suffix(".py"), module / "__init__.py")):
        return card
    _copy(sorted(Path(module.parts[0]).rglob("*.py")), Path.cwd(), folder)
    entry = f"from {source} import {factory}\n"
    write_text(folder / ENTRY, entry)
    _trust(entry, factory)
    return replace(card, model=f"{ENTRY}:{factory}")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A block in which the code of an export is not taken from where the network was trained."""
    path, here = list(sys.path), Path.cwd()
    own = any(folder.rglob("*.py"))
    kept = {name: module for name, module in sys.modules.items() if own and _lies_in(here, name, module)}
    for name in kept:
        del sys.modules[name]
    sys.path[:] = [entry for entry in path if not own or Path(entry).resolve() != here]
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.update(kept)


def _lies_in(folder: Path, name: str, module: ModuleType) -> bool:
    """Whether a module was imported from a folder itself, and not from, say, a virtual environment there."""
    top, told = name.partition(".")[0], vars(module)
    files = [told.get("__file__"), *(told.get("__path__") or ())]  # a package without __init__.py has only the second
    places = (folder / top, folder / f"{top}.py")
    return top != "mfkd" and any(Path(file).is_relative_to(place) for file in files if file for place in places)


def _trust(text: str, factory: str) -> None:
    """Enter what mfkd wrote itself into the user's list; what it imports is watched as before.

    It is read from elsewhere, for the very file that a user names vouches for all that it imports.
    """
    if os.environ.get(VARIABLE) == "1":  # this once, and no longer
        return
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, ENTRY)
        write_text(file, text)
        with watched(str(file), factory, file.parent) as who:
            Watched(file.stem, str(file), who).get_code(file.stem)  # noted, and not run
        remember()


def _copy(names: Sequence[Path], home: Path, folder: Path) -> None:
    """Copy files below `home` into another folder, with those that they import from there."""
    waiting, copied = list(names), set[Path]()
    while waiting:
        name = waiting.pop()
        if name in copied:
            continue
        copied.add(name)
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(home / name, target)
        waiting += _neighbours(home / name, home)


def _neighbours(path: Path, home: Path) -> list[Path]:
    """Python files in the same folder that a file imports, whole packages included."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError):  # Python cannot import it either
        return []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    modules = [home / f"{name}.py" for name in sorted(names)]
    packages = [file for name in sorted(names) for file in sorted((home / name).rglob("*.py"))]
    return [file.relative_to(home) for file in [*modules, *packages] if file.is_file()]
