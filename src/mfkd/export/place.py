"""Where an export goes: it is filled beside its place, and takes it once it is whole."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mfkd.errors import ConfigError, MfkdError
from mfkd.train.interrupt import Interrupted, stop_at_once

RESULT = "export.json"


@contextmanager
def filled(folder: Path, force: bool) -> Iterator[Path]:
    """A block that fills a folder, which takes its place at the end, or is gone where the block fails.

    Args:
        folder: the place, as the user names it; where it is a link, what it leads to is replaced.
        force: replace an earlier export there.

    Yields:
        The folder to fill.

    Raises:
        ConfigError: something else is there, or an earlier export without `force`.
        MfkdError: the place cannot be written.
        Interrupted: after SIGTERM or SIGUSR1.
    """
    place = folder.resolve()
    _clear(place)
    _check(folder, place, force)
    part = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    with stop_at_once(f"stopped; {folder} is as it was before."):
        try:
            with _writable(folder):
                part.mkdir(parents=True)
            yield part
            with _writable(folder):
                _put(part, place)
        except Exception as error:
            stopped = _stopped(error)
            if stopped is None:
                raise
            raise stopped from None
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _clear(place: Path) -> None:
    """Remove what killed exports left beside their place; an earlier one that was on its way out comes back."""
    with suppress(OSError):
        for path in list(place.parent.iterdir()):
            found = re.fullmatch(rf"\.{re.escape(place.name)}\.(\d+)\.(tmp|old)", path.name)
            if found is None or _runs(int(found[1])):
                continue
            if found[2] == "old" and not place.exists():
                path.rename(place)
            shutil.rmtree(path, ignore_errors=True)


def _runs(pid: int) -> bool:
    """Whether another process of this number is there; in containers each may have the number of the last one."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return pid != os.getpid()


def _check(folder: Path, place: Path, force: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir() or (any(place.iterdir()) and not (place / RESULT).exists()):
        raise ConfigError(f"{folder} is there and no export; choose another folder with --out.")
    if not force and any(place.iterdir()):
        raise ConfigError(f"{folder} holds an export; replace it with --force, or choose another folder with --out.")
    if Path.cwd().is_relative_to(place):
        raise ConfigError(f"{folder} is where you are, and would be replaced; choose another folder with --out.")


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MfkdError(f"cannot write {folder}: {error.strerror}; choose another folder with --out.") from None


def _put(part: Path, place: Path) -> None:
    """Put the finished folder in place; an earlier one goes only once it is out of the way."""
    old = place.with_name(f".{place.name}.{os.getpid()}.old")
    try:
        with suppress(FileNotFoundError):
            place.rename(old)
        part.rename(place)
    except BaseException:  # a signal in between, too
        with suppress(OSError):
            old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _stopped(error: BaseException | None) -> Interrupted | None:
    """The signal behind an error: it may come while a library runs that makes an error of its own of everything."""
    while error is not None and not isinstance(error, Interrupted):
        error = error.__cause__ or error.__context__
    return error
