"""Whether a user's word names something on the disk."""

import errno
from collections.abc import Callable
from pathlib import Path


def is_file(path: Path) -> bool:
    """Whether there is such a file; no error for a word that is too long to be a path."""
    return _asked(path.is_file)


def is_dir(path: Path) -> bool:
    """The same for a folder."""
    return _asked(path.is_dir)


def _asked(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # such as a folder that may not be read, which is told as it is
            raise
        return False
