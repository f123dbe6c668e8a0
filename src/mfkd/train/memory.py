"""The most memory that a training holds: of the device, or of the whole process where that is the CPU."""

import resource
import sys
from pathlib import Path

import torch

STATUS, MARKS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin(device: torch.device) -> None:
    """Count from now on. Without Linux's way to do so on the CPU, from the start of the process."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif MARKS.exists():
        try:
            MARKS.write_text("5", encoding="ascii")  # resets VmHWM
        except OSError:  # sandboxes forbid it
            return


def peak(device: torch.device) -> int:
    """Bytes held at most since `begin`."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else process_peak()


def process_peak() -> int:
    """Bytes that this process has held at most."""
    if STATUS.exists():  # getrusage knows of what held the memory before this program was started, too
        line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return 1024 * int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
