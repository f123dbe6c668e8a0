"""Finds the stages of a network that declares no taps, in what dry runs tell.

Stages of a pyramid are the last maps at each resolution; those of an isotropic network, whose maps all
have one size, are the ends of the three thirds of its depth.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from mfkd.taps.own import Own
from mfkd.taps.pyramid import falling, last_maps
from mfkd.taps.record import Visit
from mfkd.taps.rows import block_rows, token_rows
from mfkd.types import TapSpec


class Found(NamedTuple):
    """A tap and why it was chosen."""

    spec: TapSpec
    reason: str


def discover(
    visits: Sequence[Visit], num_classes: int, own: Sequence[Own] = (), classifier: str | None = None
) -> list[Found]:
    """Stages `stage1..N` in the order of the network, and `penultimate` where the head gets a vector.

    Args:
        visits: from `record`.
        num_classes: K of its logits.
        own: maps that the network calls its own, which then are the only ones to choose from.
        classifier: path of the head, where the network declares it; else it is its last linear layer of K outputs.
    """
    stages = _own_stages(own) or _token_stages(visits) or _map_stages(visits, num_classes)
    named = [
        Found(replace(found.spec, name=f"stage{number}"), found.reason) for number, found in enumerate(stages, start=1)
    ]
    return [*named, *_penultimate(visits, num_classes, classifier)]


def choose(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, str]]:
    """Which of a network's own maps are stages, by their sizes, and why; places in rising order."""
    count = len(sizes)
    if count >= 3 and len(set(sizes)) == 1:
        return [(end, f"end of third {third} of {count} equal maps") for third, end in enumerate(thirds(count), 1)]
    kept = {place: f"last own map at {_text(sizes[place])}" for place in falling(sizes)}
    while len(kept) < min(3, count):  # too few sizes for three taps
        rest = [place for place in range(count) if place not in kept]
        place = rest[len(rest) // 2]
        kept[place] = f"own map {place + 1} of {count}, {_text(sizes[place])}"
    return sorted(kept.items())


def thirds(depth: int) -> list[int]:
    """The last of each third of `depth` places, counted from 0."""
    return [-(-third * depth // 3) - 1 for third in (1, 2, 3)]


def _own_stages(own: Sequence[Own]) -> list[Found]:
    return [Found(own[place].spec, reason) for place, reason in choose([one.size for one in own])]


def _token_stages(visits: Sequence[Visit]) -> list[Found]:
    rows = token_rows(visits)
    if len({spec.grid for row in rows for spec in row}) < 2:
        return _ends(rows)
    blocks = [spec for row in rows for spec in row]
    grids = [spec.grid or (1, 1) for spec in blocks]
    return [Found(blocks[place], f"last tokens of {_text(grids[place])}") for place in falling(grids)]


def _map_stages(visits: Sequence[Visit], num_classes: int) -> list[Found]:
    stages = [Found(spec, f"last map at {_text(size)}") for spec, size in last_maps(visits, num_classes)]
    return stages if len(stages) >= 3 else _ends(block_rows(visits)) or stages


def _ends(rows: Sequence[Sequence[TapSpec]]) -> list[Found]:
    longest = max(rows, key=len, default=())
    depth = len(longest)
    if depth < 3:
        return []
    return [
        Found(longest[end], f"end of third {third} of {depth} equal blocks")
        for third, end in enumerate(thirds(depth), 1)
    ]


def _penultimate(visits: Sequence[Visit], num_classes: int, classifier: str | None) -> list[Found]:
    for visit in reversed(visits):
        head = isinstance(visit.module, nn.Linear) and visit.gave[1:] == (num_classes,)
        if len(visit.got) == 2 and (head if classifier is None else visit.path == classifier):
            spec = TapSpec("penultimate", visit.path, visit.got[1], side="input", layout="vector")
            return [Found(spec, "input of the classifier")]
    return []


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
