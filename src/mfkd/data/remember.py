"""What a look at every image has shown, kept so that the next start need not look again."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mfkd.errors import MfkdError
from mfkd.files import locked, read_json, write_json
from mfkd.pictures import Encoded

FOLDER = "checked"
"""Below `data.root`."""


def remembered(place: Path, what: str, sources: Sequence[Encoded], find: Callable[[], list[Any]]) -> list[Any]:
    """What `find` gave for these very images before, else what it gives now.

    Files are the same as long as their paths, sizes and times of change are. Of several processes one looks and the
    others wait. Where nothing can be written, nothing is remembered.

    Args:
        place: folder of what is remembered.
        what: the question.
        sources: image files, or encoded images.
        find: answers it, in values that JSON has.
    """
    key = hashlib.blake2b(what.encode(), digest_size=16)
    for source in sources:
        key.update(mark(source))
    path = place / f"{key.hexdigest()}.json"
    with ExitStack() as stack:
        with suppress(MfkdError):
            stack.enter_context(locked(path.with_suffix(".lock"), MfkdError("waits for ever")))
        found = _read(path)
        if found is None:
            found = find()
            with suppress(MfkdError):
                write_json(path, found)
    return found


def _read(path: Path) -> list[Any] | None:
    try:
        found = read_json(path)
    except MfkdError:
        return None
    return found if isinstance(found, list) else None


def mark(source: Encoded) -> bytes:
    """What tells an image from others, and from itself before a change: path, size and time, or its content."""
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=16).digest()
    try:
        found = source.stat()
    except OSError:
        return f"{source.absolute()}\0gone\n".encode(errors="surrogateescape")
    return f"{source.absolute()}\0{found.st_size}\0{found.st_mtime_ns}\n".encode(errors="surrogateescape")
