"""The journal of a cache that is being built: which chunks are on the disk, with their checksums."""

import re
from pathlib import Path

from mfkd.teacher.manifest import DIGEST, Manifest

JOURNAL = "journal"
_LINE = re.compile(rf"(\d+) (\d+)((?: [0-9a-f]{{{2 * DIGEST}}})+) (\d+\.\d+)\n")

Unit = tuple[int, int]
"""View and chunk."""
Done = dict[Unit, tuple[str, ...]]
"""What is on the disk: for each chunk its checksums, one a tensor, and the seconds that it took."""


def units(manifest: Manifest) -> list[Unit]:
    """Every chunk, view by view."""
    return [(view, chunk) for view in range(manifest.views) for chunk in range(manifest.chunks)]


def journalled(folder: Path, manifest: Manifest) -> Done:
    """What the journals of an unfinished folder say is on the disk; a torn line says nothing."""
    found: Done = {}
    for path in folder.glob(f"{JOURNAL}-*"):
        for text in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            match = _LINE.fullmatch(text)
            if match is None:
                continue
            unit, sums = (int(match[1]), int(match[2])), match[3].split()
            if unit[0] < manifest.views and unit[1] < manifest.chunks and len(sums) == len(manifest.names):
                found[unit] = (*sums, match[4])
    return found


def line(unit: Unit, found: tuple[str, ...]) -> str:
    """An entry, with its line feed."""
    return f"{unit[0]} {unit[1]} {' '.join(found)}\n"
