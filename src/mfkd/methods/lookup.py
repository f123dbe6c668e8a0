"""Find the taps that a method's options name."""

from collections.abc import Mapping, Sequence

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.types import TapSpec


def tap_shape(side: str, specs: Mapping[str, TapSpec], name: str) -> tuple[int, ...] | None:
    """The shape of a named tap, without the batch; None where it was not measured.

    Args:
        side: "student" or "teacher", for the message.
        specs: taps of that side by name and alias.
        name: tap wanted.

    Raises:
        UnknownNameError: a name that the network does not declare.
    """
    try:  # not `in`, so that a mapping may find module paths when they are asked for
        return specs[name].shape
    except KeyError:
        raise UnknownNameError(f"{side} tap", name, specs, "`mfkd taps MODEL` lists them.") from None


def map_shapes(side: str, specs: Mapping[str, TapSpec], names: Sequence[str]) -> list[tuple[int, int, int]]:
    """The (C, H, W) of each named tap.

    Args:
        side: "student" or "teacher", for the message.
        specs: taps of that side by name and alias.
        names: taps wanted.

    Raises:
        UnknownNameError: a name that the network does not declare.
        ShapeError: a tap that is not a map, or was not measured.
    """
    shapes = []
    for name in names:
        shape = tap_shape(side, specs, name)
        if shape is None or len(shape) != 3:
            raise ShapeError(
                f"{side} tap {name!r} must be a map (C, H, W), got {shape}; `mfkd taps MODEL` lists shapes."
            )
        shapes.append((shape[0], shape[1], shape[2]))
    return shapes
