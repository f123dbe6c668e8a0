from dataclasses import replace

import pytest

from mfkd.errors import ShapeError, UnknownNameError
from mfkd.methods.relations import tap_width


def test_width_of_maps_and_vectors(make_context):
    taps = make_context().student
    assert tap_width("student", taps, "front") == 2 * 8 * 8
    assert tap_width("student", taps, "penultimate") == 4


def test_taps_of_several_teachers_are_offered(make_context):
    taps = {f"teacher{number}.{name}": spec for number in (1, 2) for name, spec in make_context().teacher.items()}
    with pytest.raises(UnknownNameError, match=r"unknown teacher tap 'penultimate'; did you mean teacher\d\.penul"):
        tap_width("teacher", taps, "penultimate")
    assert tap_width("teacher", taps, "teacher2.penultimate") == 8


def test_a_tap_without_shape_is_refused(make_context):
    taps = {"front": replace(make_context().student["front"], shape=None)}
    with pytest.raises(ShapeError, match=r"student tap 'front' has no measured shape; find the taps with"):
        tap_width("student", taps, "front")
