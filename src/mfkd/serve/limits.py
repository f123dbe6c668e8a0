"""What the service takes at most."""

import os
from dataclasses import dataclass, field


def _cores() -> int:
    return min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Limits:
    """What one service takes at most.

    Args:
        size: of one picture, in bytes; 10 MB is a photograph of a telephone in its best quality.
        pixels: of one picture once it is decoded; each takes 4 bytes of memory and more, whatever the file has.
        at_once: predictions at the same time, each with its share of the processor's cores.
        waiting: requests beyond these that are held; the next one is sent away.
        seconds: that a picture may take to arrive.
    """

    size: int = 10_000_000
    pixels: int = 50_000_000
    at_once: int = field(default_factory=_cores)
    waiting: int = 256
    seconds: float = 30.0

    @property
    def threads(self) -> int:
        """Of one prediction."""
        return max(1, (os.cpu_count() or 1) // self.at_once)
