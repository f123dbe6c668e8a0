"""Finds the stages of a network that declares no taps, in what one dry run recorded.

Stages of a pyramid are the last maps at each resolution; those of an isotropic token network, whose
maps all have one size, are the ends of the three thirds of its depth.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from mfkd.taps.record import Visit
from mfkd.types import TapSpec

_SAME_MAP = (nn.Dropout, nn.Identity, nn.Softmax)
"""Modules that give no map of their own; after Softmax and Dropout stand square attention matrices."""


class Found(NamedTuple):
    """A tap and why it was chosen."""

    spec: TapSpec
    reason: str


class _Map(NamedTuple):
    spec: TapSpec
    size: tuple[int, int]
    visit: Visit

    @property
    def cells(self) -> int:
        return self.size[0] * self.size[1]


def discover(model: nn.Module, visits: Sequence[Visit], num_classes: int) -> list[Found]:
    """Stages `stage1..N` in the order of the network, and `penultimate` where the head is linear.

    Args:
        model: looked at for timm's `feature_info` and `num_prefix_tokens` only.
        visits: from `record`.
        num_classes: K of its logits.
    """
    stages = _depth_thirds(model, visits) or _feature_info(model, visits) or _last_maps(visits)
    named = [
        Found(replace(found.spec, name=f"stage{number}"), found.reason) for number, found in enumerate(stages, start=1)
    ]
    return [*named, *_penultimate(visits, num_classes)]


def _depth_thirds(model: nn.Module, visits: Sequence[Visit]) -> list[Found]:
    blocks = _token_blocks(visits)
    prefix = getattr(model, "num_prefix_tokens", None)
    specs = [spec for visit in blocks if (spec := visit.spec("", prefix if isinstance(prefix, int) else None))]
    if len(specs) < 3 or len(specs) != len(blocks):
        return []
    depth = len(specs)
    ends = [-(-third * depth // 3) - 1 for third in (1, 2, 3)]
    return [
        Found(specs[end], f"end of third {third} of {depth} equal blocks") for third, end in enumerate(ends, start=1)
    ]


def _token_blocks(visits: Sequence[Visit]) -> list[Visit]:
    """The longest row of sibling modules of one class that give token maps (1, N, C) of one shape."""

    def kind(visit: Visit) -> tuple[Any, ...]:
        return visit.path.rpartition(".")[0], type(visit.module), visit.gave

    rows: dict[tuple[Any, ...], list[Visit]] = {}
    for visit in visits:
        # A block keeps the shape and has parts; layers inside blocks, such as norms, have none.
        if len(visit.gave) == 3 and visit.gave == visit.got and any(True for _ in visit.module.children()):
            rows.setdefault(kind(visit), []).append(visit)
    longest = max(rows.values(), key=len, default=[])
    shapes = {visit.gave for row in rows.values() if len(row) > 1 for visit in row}
    return longest if len(shapes) == 1 else []  # several shapes are a pyramid of tokens


def _feature_info(model: nn.Module, visits: Sequence[Visit]) -> list[Found]:
    info: Any = getattr(model, "feature_info", ())
    info = getattr(info, "info", info)
    if not isinstance(info, list | tuple) or not all(isinstance(row, dict) for row in info):
        return []
    by_path = {visit.path: visit for visit in visits}
    wanted = [by_path[row["module"]] for row in info if row.get("module") in by_path]
    maps = _falling(_maps(wanted)) if len(wanted) == len(info) else []
    return [Found(chosen.spec, f"feature_info of timm, {_text(chosen)}") for chosen in maps]


def _last_maps(visits: Sequence[Visit]) -> list[Found]:
    maps = _maps(visit for visit in visits if not isinstance(visit.module, _SAME_MAP))
    kept = [chosen for chosen in maps if not _inside_transition(chosen, maps)]
    sizes = {chosen.cells for chosen in kept}
    kept = [chosen for chosen in maps if chosen in kept or chosen.cells not in sizes]
    return [Found(chosen.spec, f"last map at {_text(chosen)}") for chosen in _falling(kept)]


def _maps(visits: Iterable[Visit]) -> list[_Map]:
    maps = []
    for visit in visits:
        spec = visit.spec("") if len(visit.gave) == 4 and visit.gave[0] == 1 else None
        if spec is not None:
            size = visit.gave[2:] if spec.layout == "nchw" else visit.gave[1:3]
            if size != (1, 1):  # pooled: no picture any more
                maps.append(_Map(spec, (size[0], size[1]), visit))
    return maps


def _falling(maps: Sequence[_Map]) -> list[_Map]:
    """The last map at each size, walking back from the end, so that sizes strictly fall."""
    kept: list[_Map] = []
    for chosen in reversed(maps):
        if not kept or chosen.cells > kept[0].cells:
            kept.insert(0, chosen)
    return kept


def _inside_transition(inner: _Map, maps: Sequence[_Map]) -> bool:
    """Whether a map lies in a block that shrinks the picture by one step and works on there.

    What such a block computes before it shrinks is a part of the next stage (the first convolution of a
    strided bottleneck, an expansion), not the last map of this one. Plain sequences are no blocks.
    """
    levels = sorted({chosen.cells for chosen in maps}, reverse=True)
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


def _penultimate(visits: Sequence[Visit], num_classes: int) -> list[Found]:
    for visit in reversed(visits):
        if isinstance(visit.module, nn.Linear) and len(visit.gave) == 2 and visit.gave[1] == num_classes:
            spec = TapSpec("penultimate", visit.path, visit.got[1], side="input", layout="vector")
            return [Found(spec, "input of the classifier")]
    return []


def _text(chosen: _Map) -> str:
    return f"{chosen.size[0]} x {chosen.size[1]}"
