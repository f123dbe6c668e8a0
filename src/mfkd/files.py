"""Files that are either whole or not there: temporary name, flush, rename."""

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, BinaryIO

from mfkd.errors import MfkdError


def write_atomic(path: Path, write: Callable[[BinaryIO], object], before: Callable[[], object] = lambda: None) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place in one step.

    Args:
        path: of the file.
        write: gets the temporary one.
        before: called once that is on the disk, before it takes its place.

    Raises:
        MfkdError: the folder cannot be written or the disk is full; the earlier file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        before()
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):  # the folder may be no folder
            temporary.unlink()


@contextmanager
def locked(path: Path, busy: MfkdError, patience: float = -1.0) -> Iterator[None]:
    """Keep other processes out while the block runs; the system drops the lock of a process that dies.

    Args:
        path: of the lock file; its folder is made.
        busy: raised where another process has it.
        patience: seconds to wait for that one; below 0 for ever.

    Raises:
        MfkdError: `busy`, or the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, timeout=patience)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise busy from None
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    try:
        yield
    finally:
        lock.release()


def sweep(folder: Path) -> None:
    """Delete the files that killed processes left half written below a folder; call it where nobody else writes.

    A folder of such a name stays, with all in it: an export may be at work there.
    """
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not fnmatch(name, ".*.tmp")]
        for name in files:
            if fnmatch(name, ".*.tmp"):
                Path(place, name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically; what it names of files whose names are not UTF-8 keeps their bytes."""
    write_atomic(path, lambda file: file.write(text.encode(errors="surrogateescape")))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; a number that JSON cannot hold is refused."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError:
        raise MfkdError(f"cannot write {path}: a value in it is NaN or infinite, which JSON cannot hold.") from None
    write_text(path, text + "\n")


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]], columns: Iterable[str]) -> None:
    """Write rows as CSV atomically; a value that a row lacks stays empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path) -> Any:
    """Read JSON; a damaged file is an MfkdError that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MfkdError(f"{path} does not exist; is {path.parent} a finished run folder?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise MfkdError(f"cannot read {path}: {error}; delete it and run again.") from None


def read_object(path: Path, *needed: str) -> dict[str, Any]:
    """Read a JSON object with at least these keys; MfkdError if it is missing, damaged or foreign."""
    value = read_json(path)
    if not isinstance(value, dict) or (missing := [name for name in needed if name not in value]):
        lacks = f"it has no {', '.join(missing)}" if isinstance(value, dict) else "it is no mapping"
        raise MfkdError(f"{path} was not written by mfkd ({lacks}); delete it and run again.")
    return value


def sha256(path: Path) -> str:
    """Digest of a file's content; "" where there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _unwritable(path: Path, error: OSError) -> MfkdError:
    return MfkdError(f"cannot write {path}: {error.strerror or error}; free space or choose another folder with out=.")
