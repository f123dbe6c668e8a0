"""The last map at each resolution of a network, among all that its modules give."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from mfkd.taps.record import SAME_MAP, Visit, map_size
from mfkd.types import TapSpec

Size = tuple[int, int]

_POOLED = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
"""They bring a map to the size that the head wants, even by repeating cells."""


class _Map(NamedTuple):
    spec: TapSpec
    size: Size
    visit: Visit

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]


def last_maps(visits: Sequence[Visit], num_classes: int) -> list[tuple[TapSpec, Size]]:
    """Where to read the last map at each resolution, with its (h, w), front first.

    Args:
        visits: from `record`.
        num_classes: K; maps of class scores count only where there are no others.
    """
    maps = _maps(_body(visits, num_classes)) or _maps(visits)
    maps = [inner for inner in maps if not any(_beyond(inner, block) for block in visits)]
    kept = [inner for inner in maps if not _inside_transition(inner, maps)]
    sizes = {one.cells for one in kept}
    kept = [one for one in maps if one in kept or one.cells not in sizes]
    return [(kept[place].spec, kept[place].size) for place in falling([one.size for one in kept])]


def falling(sizes: Sequence[Size]) -> list[int]:
    """Places of the last map at each resolution, walking back from the end, in rising order.

    Resolutions differ where one has twice the cells of the next or more: a convolution without padding
    takes a border away and makes no new one.
    """
    kept: list[int] = []
    for place in reversed(range(len(sizes))):
        height, width = sizes[place]
        if not kept or height * width >= 2 * sizes[kept[0]][0] * sizes[kept[0]][1]:
            kept.insert(0, place)
    return kept


def _body(visits: Sequence[Visit], num_classes: int) -> Sequence[Visit]:
    """The visits before a classifier that is a convolution."""
    weighted = [place for place, visit in enumerate(visits) if any(True for _ in visit.module.parameters(False))]
    last = weighted[-1] if weighted else len(visits)
    if weighted and isinstance(visits[last].module, nn.Conv2d) and visits[last].gave[1:2] == (num_classes,):
        return visits[:last]
    return visits


def _maps(visits: Sequence[Visit]) -> list[_Map]:
    maps = []
    for visit in visits:
        spec, size = visit.spec(""), map_size(visit.gave, visit.image)
        useful = len(visit.gave) == 4 and visit.gave[0] == 1 and not isinstance(visit.module, (*SAME_MAP, *_POOLED))
        if useful and spec is not None and size is not None and size != (1, 1):  # pooled: no picture any more
            maps.append(_Map(spec, size, visit))
    return maps


def _beyond(inner: _Map, block: Visit) -> bool:
    """Whether a map lies in a block but is larger or smaller than what that gets and gives.

    Such are windows, attention matrices, tables of relative positions and branches that pool.
    """
    if not inner.spec.path.startswith(block.path + "."):
        return False
    got, gave = map_size(block.got, block.image), map_size(block.gave, block.image)
    if got is None or gave is None or gave == (1, 1):
        return False
    ends = sorted((got[0] * got[1], gave[0] * gave[1]))
    return not ends[0] <= inner.cells <= ends[1]


def _inside_transition(inner: _Map, maps: Sequence[_Map]) -> bool:
    """Whether a map lies in a block that shrinks the picture by one step and works on there.

    What such a block computes before it shrinks is a part of the next stage (the first convolution of a
    strided bottleneck, an expansion), not the last map of this one. Plain sequences are no blocks.
    """
    levels = sorted({one.cells for one in maps}, reverse=True)
    for block in maps:
        if type(block.visit.module) is nn.Sequential or not inner.spec.path.startswith(block.spec.path + "."):
            continue
        if levels.index(inner.cells) + 1 == levels.index(block.cells) and any(
            other.cells == block.cells
            and other.spec.path.startswith(block.spec.path + ".")
            and any(True for _ in other.visit.module.parameters(recurse=False))
            for other in maps
        ):
            return True
    return False
