"""Which code of a network may be run: what the user named himself, now or before. Of what files name, he decides."""

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType
from typing import BinaryIO

from mfkd.errors import ConfigError, MfkdError
from mfkd.files import locked, sha256, write_atomic

PLACE = "~/.cache/mfkd/trusted"
"""Code that the user named on this machine: a digest a line, `SHA256:factory` where it was named, then its path."""
VARIABLE = "MFKD_TRUST_CODE"

_SEEN: dict[str, Path] = {}  # what the user's own words ran in this process, by the keys of the list
_NAMED: set[Path] = set()  # files that he named in it
_USER, _VOUCHED = "", "\0"
_WHO: ContextVar[str] = ContextVar("who", default=_USER)


@contextmanager
def named_by(who: str | Path, trust_code: bool = False) -> Iterator[None]:
    """A block whose networks are named by a file that may come from others, not by the user.

    Args:
        who: the file, for the message.
        trust_code: the user vouches for what it names.
    """
    token = _WHO.set(_VOUCHED if trust_code or os.environ.get(VARIABLE) == "1" else str(who))
    try:
        yield
    finally:
        _WHO.reset(token)


def own(models: Iterable[str]) -> None:
    """Note that the user himself named these networks, so that what is trained of them loads in this process."""
    for model in models if _WHO.get() == _USER else ():
        source, _, factory = model.rpartition(":")
        is_file = source.endswith(".py")
        path = _file(source, Path.cwd()) if is_file or all(map(str.isidentifier, source.split("."))) else None
        if path is not None:
            _NAMED.add(path)
            _allow(f"{sha256(path)}:{factory}", path, _USER)


def remember(models: Iterable[str] = ()) -> None:
    """Enter the code that the user's own words named in this process into his list, where there is a home for it.

    Call it where a training starts.

    Args:
        models: names of its networks, see `own`.
    """
    own(models)
    if not _SEEN.keys() - _listed().keys():
        return
    with suppress(MfkdError, OSError, RuntimeError, NotImplementedError):  # a training needs no list
        place = Path(PLACE).expanduser()
        with locked(place.with_name(f".{place.name}.lock"), MfkdError("busy"), 10.0):
            lines = _listed() | {key: repr(str(path)) for key, path in _SEEN.items()}
            text = "".join(f"{key}  # {path}\n" for key, path in lines.items()).encode()

            def write(file: BinaryIO) -> None:
                os.fchmod(file.fileno(), 0o600)
                file.write(text)

            write_atomic(place, write)


def _listed() -> dict[str, str]:
    try:
        lines = Path(PLACE).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, RuntimeError, ValueError):
        return {}
    return {key.strip(): path.strip() for key, _, path in (line.partition("#") for line in lines) if key.strip()}


def _allow(key: str, path: Path, who: str) -> None:
    """Note what the user has run, or refuse what he has not.

    Raises:
        ConfigError: a file from others names code that is not in the list.
    """
    digest = key.partition(":")[0]
    if who == _USER:
        if digest:
            _SEEN[key] = path
    elif who != _VOUCHED and key not in _SEEN and key not in _listed():
        raise ConfigError(
            f"{who} names code that you have not named yourself, {path} (SHA-256 {digest or 'unknown'}); running it "
            f"may do anything. Look at it, then set {VARIABLE}=1 (in Python trust_code=True)."
        )


@contextmanager
def watched(source: str, factory: str, folder: Path) -> Iterator[str]:
    """A block that imports and calls a network's code, which is noted, or refused where it is from others.

    Watched are the code itself and all modules that do not come from where Python's packages are: neighbours may be
    other ones in another folder.

    Args:
        source: a module or the path of a file.
        factory: the name in it.
        folder: that is searched first.

    Yields:
        Who names it, for `Watched`.

    Raises:
        ConfigError: code that is named by a file from others, and not known.
    """
    who, path = _WHO.get(), _file(source, folder)
    if path is None and who not in (_USER, _VOUCHED) and not source.endswith(".py") and _spec(source.partition(".")[0]):
        _allow("", Path(source), who)  # something without a file
    if path is not None:
        who = _USER if path in _NAMED and who != _VOUCHED else who  # the very file that he named
        _allow(f"{sha256(path)}:{factory}", path, who)
        if who == _USER:
            _NAMED.add(path)
    finder = _Finder(who, [Path(entry).resolve() for entry in sys.path], folder)
    # The innermost block comes first, and all of them before Python's own look at the folders.
    place = next(i for i, one in enumerate(sys.meta_path) if one is PathFinder or isinstance(one, _Finder))
    sys.meta_path.insert(place, finder)
    try:
        yield who
    finally:
        sys.meta_path.remove(finder)


class Watched(SourceFileLoader):
    """Runs the very text that was allowed, and no compiled file that lies beside it."""

    def __init__(self, name: str, path: str, who: str) -> None:
        super().__init__(name, path)
        self.who = who

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - Python calls it
        """Compile the source."""
        text = self.get_data(self.path)
        _allow(hashlib.sha256(text).hexdigest(), Path(self.path), self.who)
        return self.source_to_code(text, self.path)


class _Finder(MetaPathFinder):
    """Finds modules as Python does, and gives those that are not installed to `Watched`."""

    def __init__(self, who: str, entries: Iterable[Path], folder: Path) -> None:
        self.who = who
        self.installed = [entry for entry in entries if not folder.is_relative_to(entry)]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """None where it is installed, or nowhere."""
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or not spec.has_location or spec.origin is None:
            return None
        file = Path(spec.origin).absolute()
        if any(one.is_relative_to(entry) for one in (file, file.resolve()) for entry in self.installed):
            return None
        if type(spec.loader) is SourceFileLoader:
            spec.loader = Watched(fullname, spec.origin, self.who)
        else:
            _allow(sha256(file), file, self.who)
        return spec


def _file(source: str, folder: Path) -> Path | None:
    """The file of a module, found without running anything; None where there is none."""
    if source.endswith(".py"):
        path = Path(source).expanduser().resolve()
        return path if path.exists() else None
    known = getattr(sys.modules.get(source), "__file__", None)
    if known is not None:
        return Path(known).resolve()
    top, *parts = source.split(".")
    spec = PathFinder.find_spec(top, [str(folder)]) or _spec(top)
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        top = f"{top}.{part}"
        spec = PathFinder.find_spec(top, spec.submodule_search_locations)
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


def _spec(top: str) -> ModuleSpec | None:
    with suppress(ValueError, ImportError):
        return find_spec(top)
    return None
