"""Building knowledge on disk, so that a kill at any moment costs a second of work and nothing else.

A chunk is written, flushed to the disk, and only then named in a journal with its checksums. A new
start believes the journal where the checksums still hold, and computes all other chunks anew; since
the images that go through the teacher together are always the same ones, the arrays come out the
same to the byte, whoever computed which part.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mfkd.errors import CacheError
from mfkd.files import locked, sweep, write_atomic, write_text
from mfkd.teacher.journal import JOURNAL, Done, Unit, journalled, line, units
from mfkd.teacher.manifest import (
    CHECKSUMS,
    MANIFEST,
    STORED,
    Manifest,
    check_same,
    completed,
    digest,
    read_manifest,
)
from mfkd.teacher.store import digest_on_disk

LOCK = "lock"
FLUSH_EVERY = 1.0  # seconds of work that a kill may cost
SPARE = 64 << 20  # bytes that stay free on the disk


@contextmanager
def alone(folder: Path, wait: bool = True) -> Iterator[None]:
    """Keep other builders out of a folder; the system drops the lock of a process that dies.

    Raises:
        CacheError: another process builds there, and `wait` is False.
    """
    busy = CacheError(f"knowledge cache {folder} is being built by another process; wait for its end.")
    with locked(folder / LOCK, busy, -1 if wait else 0):
        yield


def check(folder: Path, manifest: Manifest) -> int:
    """Refuse a folder that cannot be filled, and write nothing.

    Args:
        folder: need not exist; may hold this very knowledge, finished or not.
        manifest: what it is to hold.

    Returns:
        Bytes that are free on its disk.

    Raises:
        CacheError: the folder holds something else, or the disk has too little room.
    """
    if (folder / MANIFEST).exists():
        found = read_manifest(folder)
        check_same(folder, found.fields, manifest.fields)
        if not found.complete and found.names != manifest.names:
            raise CacheError(
                f"knowledge cache {folder} is not finished and is to hold {', '.join(found.names)}, not "
                f"{', '.join(manifest.names)} alone; finish it with the command that began it, or choose another "
                "place with cache.folder."
            )
    check_place(folder)
    return room(folder, manifest)


def check_place(folder: Path) -> None:
    """Refuse a folder that holds something else than a cache, or is none.

    Raises:
        CacheError: names what is there.
    """
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file; choose another place with cache.folder.")
    if folder.is_dir() and not (folder / MANIFEST).exists():
        others = sorted(path.name for path in folder.iterdir() if path.name != LOCK and not path.name.startswith("."))
        if others:
            raise CacheError(
                f"{folder} holds {others[0]} and is no knowledge cache; choose another place with cache.folder."
            )


def room(folder: Path, manifest: Manifest) -> int:
    """Bytes that are free on the disk of a folder, which need not exist.

    Raises:
        CacheError: too few for what is still to be written.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    needed = manifest.total - sum(_allocated(folder / manifest.file(name)) for name in manifest.names)
    if needed > 0 and needed + SPARE > free:
        raise CacheError(
            f"knowledge cache {folder} takes {needed / 1e6:,.0f} MB, and the disk has {free / 1e6:,.0f} MB free; "
            "lower cache.views, or choose another disk with cache.folder."
        )
    return free


def begin(folder: Path, manifest: Manifest) -> Done | None:
    """Make a folder ready to be filled, or to be filled further; call it under `alone`.

    Args:
        folder: empty, or left by an earlier start.
        manifest: what it is to hold.

    Returns:
        The chunks that are there already; None if the folder is complete.

    Raises:
        CacheError: as `check`; nothing is written then.
    """
    check(folder, manifest)
    sweep(folder)
    refuse_links(folder)
    if (folder / MANIFEST).exists():
        manifest = read_manifest(folder)
        if manifest.complete:
            return None
    else:
        manifest.save(folder)
    for name in manifest.names:
        _reserve(folder / manifest.file(name), manifest.size(name))
    done = {
        unit: found
        for unit, found in journalled(folder, manifest).items()
        if all(digest_on_disk(folder, manifest, n, *unit) == s for n, s in zip(manifest.names, found, strict=False))
    }
    # Under a name of its own, since the last line of a killed process may be torn.
    write_text(folder / f"{JOURNAL}-0", "".join(line(*entry) for entry in done.items()))
    for path in folder.glob(f"{JOURNAL}-*"):
        if path.name != f"{JOURNAL}-0":
            path.unlink()
    return done


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which a file is a link: what is written there would change a file elsewhere.

    A folder in the place of a file is refused too.
    """
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            raise CacheError(f"knowledge cache {folder}: {path.name} is a link to somewhere else; remove it.")
        if path.is_dir():
            raise CacheError(f"knowledge cache {folder}: {path.name} is a folder, which no cache has; remove it.")


class Writer:
    """One process's part of the building.

    Args:
        folder: made ready by `begin`.
        manifest: what it holds.
        rank: number of this process; each has a journal of its own.
    """

    def __init__(self, folder: Path, manifest: Manifest, rank: int = 0) -> None:
        self.manifest = manifest
        self._files = [(folder / manifest.file(name)).open("r+b") for name in manifest.names]
        self._journal = (folder / f"{JOURNAL}-{rank + 1}").open("a", encoding="utf-8")
        self._pending: list[str] = []
        self._flushed = self._begun = time.monotonic()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.flush()
        finally:
            self._journal.close()
            for file in self._files:
                file.close()

    def write(self, unit: Unit, tensors: Mapping[str, Tensor]) -> None:
        """Store one chunk.

        Args:
            unit: view and chunk.
            tensors: (B, *S) of the chunk's images, for every tensor of the manifest.

        Raises:
            CacheError: a value that the storage cannot hold, or a write that failed.
        """
        storage = self.manifest.fields["storage"]
        contents = []
        for name in self.manifest.names:
            kept = tensors[name].to(STORED[storage][0])
            if not kept.isfinite().all():
                more = "; use cache.dtype=bfloat16." if tensors[name].isfinite().all() else " before it is stored."
                raise CacheError(f"knowledge {name} has values that are not finite in {storage}{more}")
            contents.append(kept.cpu().flatten().view(torch.uint8).numpy().tobytes())
        try:
            for name, file, content in zip(self.manifest.names, self._files, contents, strict=True):
                file.seek(self.manifest.span(name, *unit)[0])
                file.write(content)
        except OSError as error:
            raise _unwritable(error) from None
        now = time.monotonic()
        self._pending.append(line(unit, (*map(digest, contents), f"{now - self._begun:.4f}")))
        self._begun = now
        if now - self._flushed > FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Bring what was written to the disk, then name it in the journal."""
        try:
            for file in self._files:
                file.flush()
                os.fsync(file.fileno())
            self._journal.write("".join(self._pending))
            self._journal.flush()
            os.fsync(self._journal.fileno())
        except OSError as error:
            raise _unwritable(error) from None
        self._pending.clear()
        self._flushed = time.monotonic()


def finish(folder: Path) -> Manifest:
    """Declare a folder complete once every process has written its part.

    Raises:
        CacheError: a chunk is missing.
    """
    manifest = read_manifest(folder)
    done = journalled(folder, manifest)
    missing = [unit for unit in units(manifest) if unit not in done]
    if missing:
        raise CacheError(f"knowledge cache {folder} lacks {len(missing)} chunks; start the same command again.")
    checksums = b"".join(bytes.fromhex(text) for unit in units(manifest) for text in done[unit][:-1])
    write_atomic(folder / CHECKSUMS, lambda file: file.write(checksums))
    manifest = completed(manifest, sum(float(found[-1]) for found in done.values()), checksums)
    manifest.save(folder)
    for path in folder.glob(f"{JOURNAL}-*"):
        path.unlink()
    return manifest


def remove(folder: Path) -> int:
    """Delete a cache, finished or not; nothing but its own files. Readers that have it open keep it until they end.

    Returns:
        Bytes that are free again.

    Raises:
        CacheError: no cache there, or one that is being built.
    """
    known = [folder / MANIFEST, folder / CHECKSUMS, *folder.glob("[0-9]*.bin"), *folder.glob(f"{JOURNAL}-*")]
    if not (folder / MANIFEST).exists():
        raise CacheError(f"{folder} holds no knowledge cache; nothing was removed.")
    refuse_links(folder)
    with alone(folder, wait=False):
        freed = sum(_allocated(path) for path in known)
        for path in known:  # the manifest first, so that nobody opens what is half gone
            path.unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
    return freed


def _unwritable(error: OSError) -> CacheError:
    return CacheError(f"knowledge cache cannot be written: {error.strerror}; free space and start again.")


def _reserve(path: Path, size: int) -> None:
    """Take the whole room now, so that a full disk is no surprise later."""
    try:
        with path.open("ab") as file:
            os.truncate(path, size)
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise _unwritable(error) from None


def _allocated(path: Path) -> int:
    """Bytes that a file takes on the disk."""
    if not path.exists():
        return 0
    found = path.stat()
    return getattr(found, "st_blocks", -(-found.st_size // 512)) * 512
