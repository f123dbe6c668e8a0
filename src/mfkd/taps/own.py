"""The maps that a network of timm calls its own, and the modules at which they can be read.

`forward_intermediates` gives the maps as pictures (B, C, h, w), whatever layout the network works in, and
`forward_features` the last one; neither says where they come from, and `feature_info` only in part. So
the network runs once more, and what its modules give and get is compared with those maps.
"""

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mfkd.taps.match import Matches, readings
from mfkd.taps.probe import InputShape, dry_run
from mfkd.taps.record import map_layout
from mfkd.types import TapSpec


class Own(NamedTuple):
    """One of the network's own maps, and where to read it."""

    spec: TapSpec
    size: tuple[int, int]
    final: bool


def own_maps(model: nn.Module, input_shape: InputShape) -> list[Own]:
    """The own maps of a network of timm, in its order; empty for any other network.

    Left out are maps of 1 x 1, and those that no module gives or gets in the order of the picture (tokens
    in the order of windows). The last one is what `forward_features` gives, or what becomes that by a norm
    or an activation alone.

    Args:
        model: looked at for `forward_intermediates`, `forward_features` and `feature_info`.
        input_shape: (C, H, W) of its images.
    """
    own: Any = getattr(model, "forward_intermediates", None)
    features: Any = getattr(model, "forward_features", None)
    if not (own and features) or "intermediates_only" not in inspect.signature(own).parameters:
        return []
    with dry_run(model, input_shape) as zeros:
        # Noise, since all maps of a black image may be alike in a network that was never trained.
        image = torch.randn(zeros.shape, generator=torch.Generator().manual_seed(0)).to(zeros)
        maps = [picture.clone() for picture in own(image, intermediates_only=True)]  # activations in place may follow
        final = _picture(features(image), maps, input_shape)
        with Matches(model, maps if final is None else [*maps, final]) as matches:
            model(image)
    last = len(maps) - 1
    numbers = list(range(len(maps)))
    if final is not None and not matches.made_by_norm(last, last + 1):
        if final.shape[2:] == maps[last].shape[2:]:
            numbers.pop()  # the final one stands at its place
        numbers.append(last + 1)
    named = _named(model, len(maps))
    found: list[Own] = []
    for number in numbers:
        size = matches.maps[number].shape[2:]
        spec = matches.choose(number, named[number], [own.spec for own in found])
        if spec is not None and size.numel() > 1:
            found.append(Own(spec, (size[0], size[1]), number > last))
    return found


def _named(model: nn.Module, count: int) -> list[str]:
    """The module that `feature_info` names for each of `count` maps, "" where none, and one more."""
    info: Any = getattr(model, "feature_info", ())
    info = list(getattr(info, "info", info))
    names = [row.get("module", "") for row in info] if len(info) == count else [""] * count
    return [*names, ""]


def _picture(final: Any, maps: Sequence[Tensor], input_shape: InputShape) -> Tensor | None:
    """What `forward_features` gave, as (1, C, h, w); None where it is no map."""
    if not isinstance(final, Tensor):
        return None
    if final.ndim == 4:
        layout = map_layout(tuple(final.shape), input_shape[1:])
        return None if layout is None else final if layout == "nchw" else final.permute(0, 3, 1, 2)
    shape = (1, final.shape[-1], *maps[-1].shape[2:])
    return next((picture for _, picture in readings(final, TapSpec("", "", 0), shape)), None)
