"""Counts what a process does to the files below a folder, and kills it at one of these moments; for forked children."""

import builtins
import io
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path


class Strike:
    """Stands in the way of every write, flush, rename and removal.

    Args:
        folder: whatever happens elsewhere is let through.
        at: number of the operation at which to die, from 0; None counts alone.

    Attributes:
        seen: (operation, path below the folder) of all so far.
    """

    def __init__(self, folder: Path, at: int | None = None) -> None:
        self.folder, self.at = folder.absolute(), at
        self.seen: list[tuple[str, str]] = []

    def install(self) -> None:
        """For good: the process is a child that ends soon."""
        for name in ("replace", "rename", "unlink", "remove", "mkdir", "truncate"):
            setattr(os, name, self._before(name, getattr(os, name), lambda path, *_: path))
        for name in ("fsync", "posix_fallocate"):
            setattr(
                os, name, self._before(name, getattr(os, name), lambda fd, *_: Path(f"/proc/self/fd/{fd}").readlink())
            )
        real = io.open
        strike = self

        class Writer(io.BufferedWriter):
            def write(self, data):
                half = memoryview(data)[: len(data) // 2]
                strike.hit("write", self.raw.name, lambda: (super(Writer, self).write(half), self.flush()))
                return super().write(data)

        class Random(io.BufferedRandom):
            def write(self, data):
                half = memoryview(data)[: len(data) // 2]
                strike.hit("write", self.raw.name, lambda: (super(Random, self).write(half), self.flush()))
                return super().write(data)

        def opened(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, closefd=True, opener=None):
            if isinstance(file, int) or not set(mode) & set("wax+") or strike.inside(file) is None:
                return real(file, mode, buffering, encoding, errors, newline, closefd, opener)
            strike.hit("open", file)
            raw = io.FileIO(os.fspath(file), mode.replace("b", "").replace("t", ""))
            made = Random(raw) if "+" in mode else Writer(raw)
            return made if "b" in mode else io.TextIOWrapper(made, encoding or "utf-8", errors, newline)

        io.open = builtins.open = opened

    def inside(self, path) -> str | None:
        """Name below the folder; None elsewhere."""
        try:
            return os.fspath(Path(os.fsdecode(path)).absolute().relative_to(self.folder))
        except ValueError:
            return None

    def hit(self, operation: str, path, tear: Callable[[], object] = lambda: None) -> None:
        """One operation is about to happen; `tear` does half of it."""
        name = self.inside(path)
        if name is None:
            return
        if len(self.seen) == self.at:
            tear()
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append((operation, re.sub(r"\.\d+\.tmp$", ".tmp", name)))  # without the process id

    def _before(self, name: str, real: Callable, which: Callable) -> Callable:
        def struck(*args, **kwargs):
            self.hit(name, which(*args))
            return real(*args, **kwargs)

        return struck
