import resource
from pathlib import Path

import pytest

MOST = 3 << 30
"""Bytes that a test may ask for beyond what the process has; more is refused, and then fails as a MemoryError."""


@pytest.fixture(autouse=True)
def little_memory():
    limits = resource.getrlimit(resource.RLIMIT_AS)
    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + MOST, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
