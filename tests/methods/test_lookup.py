import pytest

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.methods.lookup import map_shapes
from mfkd.types import TapSpec

SPECS = {"front": TapSpec("front", "a", 2, shape=(2, 4, 4)), "new": TapSpec("new", "b", 2)}


def test_shapes_in_the_order_asked(make_context):
    context = make_context()
    assert map_shapes("teacher", context.teacher, ["bottom", "front"]) == [(8, 2, 2), (4, 8, 8)]


def test_a_mapping_may_find_a_tap_when_it_is_asked_for():
    class Lazy(dict):
        def __missing__(self, name):
            return TapSpec(name, name, 7, shape=(7, 1, 1))

    assert map_shapes("student", Lazy(), ["layer1.0"]) == [(7, 1, 1)]


def test_refusals():
    with pytest.raises(UnknownNameError, match=r"unknown student tap 'frnt'; did you mean front\? `mfkd taps MODEL`"):
        map_shapes("student", SPECS, ["frnt"])
    with pytest.raises(ShapeError, match=r"teacher tap 'new' must be a map \(C, H, W\), got None; `mfkd taps MODEL`"):
        map_shapes("teacher", SPECS, ["new"])
