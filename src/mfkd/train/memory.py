"""The most memory that a training holds: of the device, or of the whole process where that is the CPU."""

import ctypes
import gc
import resource
import sys
from pathlib import Path

import torch

STATUS, MARKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
NEAR = 16 * 2**20  # bytes that a process may take between two looks at it


def begin(device: torch.device) -> bool:
    """Count from now on; what the process has freed goes back to the system first, where the C library can do so.

    Returns:
        False where the system does not let a process do so (other than Linux, and many containers): then the
        count goes from the start of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc; training a teacher, or asking it, may leave hundreds of megabytes in its pools
        trim(0)
    try:
        MARKS.write_text("5", encoding="ascii")  # resets VmHWM
        return _status("VmHWM") - _status("VmRSS") < NEAR  # some take the request and do nothing
    except (OSError, LookupError):
        return False


def peak(device: torch.device) -> int:
    """Bytes held at most since `begin`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak()


def process_peak() -> int:
    """Bytes that this process has held at most."""
    try:  # getrusage knows of what held the memory before this program was started, too
        return _status("VmHWM")
    except (OSError, LookupError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> int:
    """One of the sizes that the system tells of this process, in bytes."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise LookupError(name)
