"""The manifest of knowledge on disk: what it belongs to, what it holds, and where in the folder it lies.

A folder holds `manifest.json`, one raw array `0.bin`, `1.bin`, ... for each tensor, in rows of
(view, image), and `checksums.bin`.

Shapes: V views; N images; *S shape of a tensor for one image.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, TypeAdapter, ValidationError

from mfkd.errors import CacheError, MfkdError
from mfkd.files import read_json, write_json
from mfkd.validation import differences, first_fault

FORMAT = 1
CHUNK = 128
"""Images that go through the teacher together, have one checksum, and are lost together by a kill."""
MANIFEST, CHECKSUMS = "manifest.json", "checksums.bin"
DIGEST = 8  # bytes of a chunk's checksum
STORED = {
    "float16": (torch.float16, torch.int16),
    "bfloat16": (torch.bfloat16, torch.int16),
    "float32": (torch.float32, torch.int32),
}
"""`cache.dtype` to the dtype, and to the integers of the same size that carry it, since numpy knows no bfloat16."""


@dataclass(frozen=True)
class Manifest:
    """What a folder of knowledge is.

    Args:
        fields: the fingerprint: everything that the knowledge depends on, as plain values; of these
            `views`, `storage` (a key of `STORED`), `data.images` and `tensors` (name to `shape` and
            origin) also say how it lies on disk.
        chunk: images a chunk.
        complete: whether every chunk is there.
        seconds: time that the building took.
        checksums: digest of `checksums.bin`; "" until complete.
    """

    fields: Mapping[str, Any]
    chunk: PositiveInt = CHUNK
    complete: bool = False
    seconds: FiniteFloat = 0.0
    checksums: str = ""

    @property
    def views(self) -> int:
        """V."""
        return int(self.fields["views"])

    @property
    def images(self) -> int:
        """N."""
        return int(self.fields["data"]["images"])

    @property
    def names(self) -> list[str]:
        """Of the tensors, in the order of their files."""
        return list(self.fields["tensors"])

    @property
    def chunks(self) -> int:
        """Chunks a view; the last one may be smaller."""
        return -(-self.images // self.chunk)

    @property
    def hash(self) -> str:
        """Sixteen hex digits over the fingerprint; the name of the folder, unless the recipe gives one."""
        return digest(json.dumps(self.fields, sort_keys=True).encode())

    def shape(self, name: str) -> tuple[int, ...]:
        """*S of a tensor."""
        return tuple(self.fields["tensors"][name]["shape"])

    def stride(self, name: str) -> int:
        """Bytes an image of a tensor."""
        return math.prod(self.shape(name)) * STORED[self.fields["storage"]][0].itemsize

    def size(self, name: str) -> int:
        """Bytes of a tensor's file."""
        return self.views * self.images * self.stride(name)

    @property
    def total(self) -> int:
        """Bytes of all tensors."""
        return sum(self.size(name) for name in self.names)

    def span(self, name: str, view: int, chunk: int) -> tuple[int, int]:
        """Offset and length in bytes of a chunk in a tensor's file."""
        first = chunk * self.chunk
        count = min(self.chunk, self.images - first)
        return (view * self.images + first) * self.stride(name), count * self.stride(name)

    def file(self, name: str) -> str:
        """A tensor's file."""
        return f"{self.names.index(name)}.bin"

    def save(self, folder: Path) -> None:
        """Write it, atomically, with a digest of itself."""
        # In the order of the tensors, which the names of the files follow.
        values = {**vars(self), "fields": dict(self.fields)}
        write_json(folder / MANIFEST, {"format": FORMAT, **values, "digest": digest(json.dumps(values).encode())})


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, complete or not.

    Raises:
        CacheError: none there, damaged, or of another format.
    """
    if not (folder / MANIFEST).is_file():
        raise CacheError(f"{folder} holds no knowledge cache; make one with `mfkd cache build`.")
    try:
        values = dict(read_json(folder / MANIFEST))
    except (MfkdError, TypeError, ValueError):
        raise damaged(folder, "manifest.json cannot be read") from None
    made = values.pop("format", None)
    if made != FORMAT:
        raise CacheError(
            f"knowledge cache {folder} differs in format: {made!r} there, {FORMAT} here; "
            f"remove it with `mfkd cache remove {folder}` and build it anew."
        )
    if values.pop("digest", None) != digest(json.dumps(values).encode()):
        raise damaged(folder, "manifest.json does not fit its own digest")
    try:
        found = Manifest(**values)
        TypeAdapter(Manifest).validate_python(values)
        _Fields.model_validate(found.fields)
    except (TypeError, ValidationError) as error:
        reason = first_fault(error) if isinstance(error, ValidationError) else "other keys"
        raise damaged(folder, f"manifest.json does not say what it holds ({reason})") from None
    return found


class _Tensor(BaseModel):
    shape: list[PositiveInt]


class _Images(BaseModel):
    images: PositiveInt


class _Fields(BaseModel):
    """Of the fingerprint, what says how the knowledge lies on disk."""

    views: PositiveInt
    storage: Literal["float16", "bfloat16", "float32"]
    data: _Images
    tensors: Annotated[dict[str, _Tensor], Field(min_length=1)]


def check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse knowledge that belongs to something else; it may hold more tensors than are wanted.

    Raises:
        CacheError: names the first field that differs.
    """
    tensors = {name: found["tensors"].get(name) for name in wanted["tensors"]}
    difference = next(differences(dict(found, tensors=tensors), dict(wanted)), None)
    if difference is not None:
        key, old, new = difference
        raise CacheError(
            f"knowledge cache {folder} belongs to another run: {key} is {old!r} there and {new!r} here; "
            f"remove it with `mfkd cache remove {folder}`, or choose another place with cache.folder."
        )


def find(root: Path, wanted: Manifest) -> Path:
    """The folder below `root` for this knowledge: its own, else a complete one that holds more tensors."""
    own = root / wanted.hash
    if (own / MANIFEST).exists() or not root.is_dir():
        return own
    for folder in sorted(path.parent for path in root.glob(f"*/{MANIFEST}")):
        try:
            manifest = read_manifest(folder)
            check_same(folder, manifest.fields, wanted.fields)
        except CacheError:
            continue
        if manifest.complete:
            return folder
    return own


def completed(manifest: Manifest, seconds: float, checksums: bytes) -> Manifest:
    """The manifest of a folder in which every chunk is there."""
    return replace(manifest, complete=True, seconds=seconds, checksums=digest(checksums))


def digest(content: bytes | memoryview) -> str:
    """Sixteen hex digits over bytes."""
    return hashlib.blake2b(content, digest_size=DIGEST).hexdigest()


def damaged(folder: Path, what: str) -> CacheError:
    """The refusal of a folder whose content cannot be trusted."""
    return CacheError(
        f"knowledge cache {folder} is damaged: {what}; remove it with `mfkd cache remove {folder}` and build it anew."
    )
