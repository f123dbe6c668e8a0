"""Images that are trained on and tested on alike.

Shapes: N images; C, H, W channels, height, width.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mfkd.data.remember import remembered
from mfkd.data.sets import MemorySplit, Split
from mfkd.pictures import Encoded

HEAD = 4096  # bytes that tell most images of one size apart


def overlap(train: Split, test: Split, place: Path | None) -> list[str]:
    """One line for each image of `test` that is in `train` too, to the byte of its file, or to the pixel in memory.

    Of files the sizes are compared first, then the first bytes of those of one size, then the rest of those that
    begin alike; what was found is remembered in `place`, if there is one.
    """
    if isinstance(train, MemorySplit) or isinstance(test, MemorySplit):
        if not (isinstance(train, MemorySplit) and isinstance(test, MemorySplit)):
            return []
        pairs = _pairs(_pixels(train), _pixels(test))
        return [f"test row {int(test.rows[two])} = training row {int(train.rows[one])}" for one, two in pairs]

    def find() -> list[str]:
        names = [[_name(*named) for named in zip(s.paths, s.rows.tolist(), strict=True)] for s in (train, test)]
        return [f"{names[1][two]} = {names[0][one]}" for one, two in _same_files(train.paths, test.paths)]

    if place is None or not any(isinstance(path, Path) for path in test.paths):
        return find()
    return [str(line) for line in remembered(place, f"overlap {len(train)}", [*train.paths, *test.paths], find)]


def _pixels(split: MemorySplit) -> dict[int, Hashable]:
    shape = str(tuple(split.images.shape[1:])).encode()
    return {
        number: hashlib.blake2b(image.tobytes() + shape, digest_size=16).digest()
        for number, image in enumerate(split.images.cpu().numpy())
    }


def _same_files(train: Sequence[Encoded], test: Sequence[Encoded]) -> list[tuple[int, int]]:
    keys: tuple[dict[int, Hashable], dict[int, Hashable]] = ({}, {})
    chosen = list(range(len(train))), list(range(len(test)))
    with ThreadPoolExecutor(8) as pool:  # waiting for the disk
        for look in (_size, _head, _whole):
            keys = tuple(  # type: ignore[assignment]
                dict(zip(numbers, pool.map(_careful(look), (side[n] for n in numbers)), strict=True))
                for numbers, side in zip(chosen, (train, test), strict=True)
            )
            both = set(keys[0].values()) & set(keys[1].values())
            chosen = tuple([n for n, key in side.items() if key in both] for side in keys)  # type: ignore[assignment]
    return _pairs(*({n: side[n] for n in numbers} for side, numbers in zip(keys, chosen, strict=True)))


def _pairs(train: dict[int, Hashable], test: dict[int, Hashable]) -> list[tuple[int, int]]:
    """(first position in train, position in test) of equal keys, by the position in test."""
    first: dict[Hashable, int] = {}
    for number, key in train.items():
        first.setdefault(key, number)
    return [(first[key], number) for number, key in test.items() if key in first]


def _careful(look: Callable[[Encoded], Hashable]) -> Callable[[Encoded], Hashable]:
    def looked(source: Encoded) -> Hashable:
        try:
            return look(source)
        except OSError:  # whoever reads the image will tell; it equals nothing
            return object()

    return looked


def _size(source: Encoded) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _head(source: Encoded) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD]
    with source.open("rb") as file:
        return file.read(HEAD)


def _whole(source: Encoded) -> bytes:
    if isinstance(source, bytes):
        return hashlib.blake2b(source, digest_size=16).digest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def _name(source: Encoded, row: int) -> str:
    return f"row {row}" if isinstance(source, bytes) else str(source)
