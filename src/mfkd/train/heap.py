"""Memory of the C library that is freed and taken again in each update, on the CPU.

By default glibc hands large blocks back to the system as soon as they are freed, and takes fresh ones, which the
system has to clear, page by page: thousands of page faults an update. docs/performance.md tells what that costs.
"""

import ctypes
import os
import sys
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
KEPT = 2**31 - 1  # bytes, the largest that `mallopt` takes
OWN = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which a user says himself how memory is to be kept."""


def keep() -> bool:
    """Let this process keep what it frees; `release` hands it back.

    Returns:
        False where nothing was changed: the C library is another one, or the user has said what it is to do.
    """
    library = _glibc()
    if library is None or any(os.environ.get(name) for name in OWN):
        return False
    return bool(library.mallopt(MMAP_THRESHOLD, KEPT) and library.mallopt(TRIM_THRESHOLD, KEPT))


def release() -> bool:
    """Hand what is free back to the system, once.

    Returns:
        False where the C library is another one.
    """
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)
    return library is not None


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process if it is glibc."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") and hasattr(library, "mallopt") else None
