import pytest
from pydantic import ValidationError

from mfkd.errors import ConfigError
from mfkd.methods.base import Context
from mfkd.methods.pairs import PairsConfig, paired, stages
from mfkd.types import TapSpec


def taps(*names):
    return {name: TapSpec(name, name, 1, shape=(1, 1, 1)) for name in names}


RESNET = taps("stem", "stage1", "stage1.pre", "stage2", "stage2.pre", "penultimate", "front", "bottom")
VGG = taps("stage1", "stage2", "stage3", "penultimate", "front", "bottom")
SEVERAL = taps("teacher1.stage1", "teacher1.bottom", "teacher2.bottom")


def pairs(student=RESNET, teacher=VGG, pre=False, **options):
    return paired("it", PairsConfig(**options), Context(student, teacher, num_classes=2), pre)


def test_stages_in_the_order_of_the_network_without_stem_alias_or_vector():
    assert stages("it", RESNET) == ["stage1", "stage2"]
    assert stages("it", taps(*(f"stage{n}" for n in range(1, 12))))[-1] == "stage11"


def test_the_map_before_the_activation_where_there_is_one():
    assert stages("it", RESNET, pre=True) == ["stage1.pre", "stage2.pre"]
    assert stages("it", VGG, pre=True) == ["stage1", "stage2", "stage3"]
    assert pairs(pre=True) == [("stage1.pre", "stage2"), ("stage2.pre", "stage3")]


def test_pairs_are_made_from_the_last_stage_backwards():
    assert pairs() == [("stage1", "stage2"), ("stage2", "stage3")]
    assert pairs(VGG, RESNET) == [("stage2", "stage1"), ("stage3", "stage2")]
    assert pairs(VGG, VGG) == [(f"stage{n}", f"stage{n}") for n in (1, 2, 3)]


def test_named_taps_are_taken_as_they_are():
    named = {"student_taps": ("bottom", "stem"), "teacher_taps": ("front", "bottom")}
    assert pairs(**named) == [("bottom", "front"), ("stem", "bottom")]
    assert pairs(**named, pre=True) == pairs(**named)


def test_taps_of_one_side_meet_the_last_stages_of_the_other():
    assert pairs(student_taps=("front",)) == [("front", "stage3")]
    assert pairs(teacher_taps=("bottom",)) == [("stage2", "bottom")]


def test_several_teachers_need_named_taps():
    named = pairs(
        teacher=SEVERAL, student_taps=("front", "bottom"), teacher_taps=("teacher1.bottom", "teacher2.bottom")
    )
    assert named == [("front", "teacher1.bottom"), ("bottom", "teacher2.bottom")]
    with pytest.raises(ConfigError) as refusal:
        pairs(teacher=SEVERAL)
    assert str(refusal.value) == (
        "it compares the stages of one teacher, got taps teacher1.bottom, teacher1.stage1, teacher2.bottom; "
        "name the taps of one, such as teacher_taps: [teacher1.bottom]."
    )
    with pytest.raises(ConfigError, match=r"got taps a0, a1, a2, a3, a4, a5 \.\.\.; name"):
        stages("it", taps(*(f"a{n}" for n in range(9))))


def test_refusals():
    with pytest.raises(ConfigError, match="it compares maps in pairs, got 2 student_taps and 1 teacher_taps; name as"):
        pairs(student_taps=("front", "bottom"), teacher_taps=("bottom",))
    three = ("stem", "front", "bottom")
    with pytest.raises(ConfigError, match=r"it was given 3 taps on one side, but the other network has 2 stages; name"):
        pairs(teacher_taps=three)
    with pytest.raises(ConfigError, match="given 3 taps on one side, but the other network has 2 stages"):
        pairs(VGG, RESNET, student_taps=three)
    with pytest.raises(ValidationError, match=r"student_taps\n.*at least 1 item"):
        PairsConfig(student_taps=())
