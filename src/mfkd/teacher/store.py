"""Reading knowledge from disk by (view, position), and checking that it is whole.

A folder is made by `teacher.writing` and never changes once its manifest says that it is complete;
so readers take no lock, and one process may remove what others have mapped.

Shapes: V views; N images; B batch; *S shape of a tensor for one image.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mfkd.errors import CacheError
from mfkd.teacher.manifest import (
    CHECKSUMS,
    DIGEST,
    STORED,
    Manifest,
    check_same,
    damaged,
    digest,
    read_manifest,
)


class Store:
    """Complete knowledge, mapped into memory.

    What is checked here costs no time: manifest, sizes of the files, and the list of checksums;
    `verify` reads everything.

    Args:
        folder: where it lies.
        wanted: fingerprint that it must have; None takes any.

    Raises:
        CacheError: unfinished, damaged, truncated, or of another fingerprint.
    """

    def __init__(self, folder: Path, wanted: Mapping[str, Any] | None = None) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        manifest = self.manifest
        if wanted is not None:
            check_same(folder, manifest.fields, wanted)
        if not manifest.complete:
            raise CacheError(f"knowledge cache {folder} is unfinished; `mfkd cache build` goes on where it ended.")
        for name in manifest.names:
            path = folder / manifest.file(name)
            found = path.stat().st_size if path.is_file() else -1
            if found != manifest.size(name):
                state = "is missing" if found < 0 else f"has {found} bytes, expected {manifest.size(name)}"
                raise damaged(folder, f"{path.name} ({name}) {state}")
        if digest(self._listed) != manifest.checksums:
            raise damaged(folder, f"{CHECKSUMS} does not fit the manifest")

    @cached_property
    def _listed(self) -> bytes:
        path = self.folder / CHECKSUMS
        return path.read_bytes() if path.is_file() else b""

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        """(V, N, *S) by name; pages are read when they are touched, and shared by all processes."""
        manifest, carrier = self.manifest, STORED[self.manifest.fields["storage"]][1]
        return {
            name: np.memmap(
                self.folder / manifest.file(name),
                str(carrier).removeprefix("torch."),
                "r",
                shape=(manifest.views, manifest.images, *manifest.shape(name)),
            ).view(np.ndarray)
            for name in manifest.names
        }

    def read(self, name: str, view: int, positions: Tensor, pin: bool = False) -> Tensor:
        """Gather the rows of one view.

        Args:
            name: of the tensor.
            view: 0 to V - 1.
            positions: (B,) int64 on the CPU, positions in the training split.
            pin: put the result into page-locked memory, for a copy that the GPU need not wait for.

        Returns:
            (B, *S) on the CPU, in the dtype of the storage.
        """
        kind, carrier = STORED[self.manifest.fields["storage"]]
        rows = torch.empty((len(positions), *self.manifest.shape(name)), dtype=carrier, pin_memory=pin)
        # Clipping, which never happens, spares numpy a buffer.
        np.take(self._arrays[name][view], positions.numpy(), 0, out=rows.numpy(), mode="clip")
        return rows.view(kind)

    def verify(self) -> Iterator[int]:
        """Read everything and compare all checksums, chunk by chunk.

        Yields:
            Bytes read so far.

        Raises:
            CacheError: names the first chunk that differs.
        """
        manifest, done = self.manifest, 0
        listed = [self._listed[at : at + DIGEST].hex() for at in range(0, len(self._listed), DIGEST)]
        units = [(view, chunk) for view in range(manifest.views) for chunk in range(manifest.chunks)]
        for number, (view, chunk) in enumerate(units):
            own = listed[number * len(manifest.names) :][: len(manifest.names)]
            for name, expected in zip(manifest.names, own, strict=True):
                if digest_on_disk(self.folder, manifest, name, view, chunk) != expected:
                    first, last = chunk * manifest.chunk, min((chunk + 1) * manifest.chunk, manifest.images) - 1
                    raise damaged(self.folder, f"{name} of view {view}, images {first} to {last}, is corrupted")
                done += manifest.span(name, view, chunk)[1]
            yield done


def digest_on_disk(folder: Path, manifest: Manifest, name: str, view: int, chunk: int) -> str:
    """Checksum of a chunk as it lies on disk; "" where there is no such file."""
    offset, count = manifest.span(name, view, chunk)
    try:
        with (folder / manifest.file(name)).open("rb") as file:
            file.seek(offset)
            return digest(file.read(count))
    except OSError:
        return ""
