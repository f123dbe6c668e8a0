"""The methods as rows, read from their own files, and what each was seen to need."""

import pytest

from mfkd.errors import ConfigError, UnknownNameError
from mfkd.methods import METHODS
from mfkd.methods.base import Method, Preparation
from mfkd.methods.describe import cite, details, example, overview, shown, wants
from mfkd.types import Needs


@pytest.fixture(scope="module")
def rows():
    return {row["method"]: row for row in overview()}


def test_overview_comes_from_the_heads_of_the_files(rows):
    assert list(rows) == list(METHODS)
    assert rows["kd"] == {
        "method": "kd",
        "idea": "the student's tempered class probabilities follow the teacher's",
        "paper": "Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531",
        "weight": 1.0,
        "needs": ["logits"],
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_idea_and_a_paper_with_a_link(name, rows):
    assert len(rows[name]["idea"]) > 20
    assert not rows[name]["idea"].endswith(".")
    assert "https://" in rows[name]["paper"].split()[-1]
    assert rows[name]["needs"]
    assert "not known" not in rows[name]["needs"]


@pytest.mark.parametrize(
    ("name", "needs"),
    [
        ("crd", ["vector", "index", "all labels"]),
        ("simkd", ["map", "vector", "same classes", "teacher's classifier"]),
        ("catkd", ["map", "vector", "same classes", "teacher's classifier", "student's classifier"]),
        ("fsp", ["maps", "same widths", "stage before training"]),
        ("ofd", ["maps", "teacher's BatchNorm"]),
        ("tfkd", ["no teacher", "labels"]),
        ("dkd", ["logits", "labels"]),
        ("ft", ["map", "stage before training"]),
    ],
)
def test_needs_are_what_a_method_asks_for_or_refuses_to_go_without(name, needs, rows):
    assert rows[name]["needs"] == needs


class Picky(Method):
    def __init__(self, config, context):
        super().__init__()
        if context.labels is None or "stage9" not in context.student:
            raise ConfigError("needs stage9")


class Staged(Method):
    needs = Needs(teacher=("stage1", "stage2"), index=True)

    def __init__(self, config, context):
        super().__init__()

    def preparation(self):
        return Preparation(1, lambda *_: None, lambda: None, trains_student=True)


def test_method_that_refuses_the_example_is_told_so():
    assert wants(Picky).words == ("not known",)


def test_stage_is_told_with_what_it_trains():
    found = wants(Staged)
    assert found.words == ("maps", "index", "stage before training")
    assert (found.student, found.teacher) == ((), ("stage1", "stage2"))
    assert found.stage == "the student's own layers"


def test_details_tell_everything():
    found = details("mfkd")
    assert found["paper"].endswith("2023, https://doi.org/10.1371/journal.pone.0285901")
    assert "Deviates" not in found["paper"]
    assert found["deviates"].startswith("this follows the paper's abstract")
    assert found["student_taps"] == ["front", "middle", "bottom"]
    assert found["stage"] == "a part beside the teacher"
    assert details("kd")["stage"] == ""


def test_options_have_defaults_as_one_writes_them():
    rows = {row["option"]: row for row in details("mfkd")["options"]}
    assert rows["student_taps"]["default"] == "[front, middle, bottom]"
    assert rows["size"]["default"] == "null"
    assert rows["kind"] == {
        "option": "kind",
        "default": "static",
        "meaning": "static, attention, concat, topdown: how maps are fused",
    }
    assert all(row["meaning"] for row in rows.values())


def test_unknown_method_is_refused():
    with pytest.raises(UnknownNameError) as caught:
        details("mfk")
    assert str(caught.value).startswith("unknown method 'mfk'; did you mean mfkd")


@pytest.mark.parametrize(
    ("paper", "short"),
    [
        ("Tung and Mori, ICCV 2019, https://x.org/1", "Tung and Mori, ICCV 2019"),
        ('Yim, Joo, Bae and Kim, "A Gift", CVPR 2017, https://x.org/1', "Yim et al., CVPR 2017"),
        ('Jin, Wang and Lin, "Tf" (its part), CVPR 2020, https://x.org/1', "Jin et al. (its part), CVPR 2020"),
        ("", ""),
    ],
)
def test_short_reference(paper, short):
    assert cite(paper) == short


def test_example_lacks_what_is_taken_away():
    assert example(labels=None).labels is None
    assert example().labels.tolist() == [0, 1]
    assert {"stem", "stage2.pre", "bottom", "penultimate"} <= set(example().teacher)


def test_long_fractions_are_shortened_for_people():
    assert shown("0.08333333333333333") == "0.08333"
    assert shown("[0.125, 16384, 7.0e-05, a1]") == "[0.125, 16384, 7.0e-05, a1]"
