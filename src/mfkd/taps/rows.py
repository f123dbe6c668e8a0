"""Rows of equal blocks, one after the other, of which isotropic networks consist."""

from collections.abc import Callable, Sequence
from typing import Any

from mfkd.taps.record import Visit
from mfkd.types import TapSpec


def token_rows(visits: Sequence[Visit]) -> list[list[TapSpec]]:
    """Rows of two or more blocks that give tokens (1, N, C), in the order of the network.

    Class tokens may join on the way.
    """
    return [row for row in _rows(visits, 3, lambda _, spec: (spec.grid, spec.channels)) if len(row) > 1]


def block_rows(visits: Sequence[Visit]) -> list[list[TapSpec]]:
    """Rows of blocks that give maps of one shape."""
    return _rows(visits, 4, lambda visit, _: visit.gave)


def _rows(visits: Sequence[Visit], axes: int, shape: Callable[[Visit, TapSpec], Any]) -> list[list[TapSpec]]:
    rows: dict[tuple[Any, ...], list[TapSpec]] = {}
    for visit in visits:
        # A block keeps the shape and has parts; layers inside blocks, such as norms, have none.
        if len(visit.gave) == axes and visit.gave == visit.got and any(True for _ in visit.module.children()):
            spec = visit.spec("")
            if spec is not None:
                key = (visit.path.rpartition(".")[0], type(visit.module), shape(visit, spec))
                rows.setdefault(key, []).append(spec)
    return list(rows.values())
