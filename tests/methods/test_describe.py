"""The methods as rows, read from their own files."""

import pytest

from mfkd.errors import UnknownNameError
from mfkd.methods import METHODS
from mfkd.methods.describe import options, overview


def test_overview_comes_from_the_heads_of_the_files():
    rows = {row["method"]: row for row in overview()}
    assert list(rows) == list(METHODS)
    assert rows["kd"] == {
        "method": "kd",
        "idea": "the student's tempered class probabilities follow the teacher's",
        "paper": "Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531",
    }


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_an_idea_and_a_paper_with_a_link(name):
    row = next(row for row in overview() if row["method"] == name)
    assert len(row["idea"]) > 20
    assert not row["idea"].endswith(".")
    assert "https://" in row["paper"].split()[-1]


def test_paper_over_two_lines_is_joined():
    paper = next(row["paper"] for row in overview() if row["method"] == "mfkd")
    assert paper.endswith("2023, https://doi.org/10.1371/journal.pone.0285901")
    assert "Deviates" not in paper


def test_options_have_defaults_as_one_writes_them():
    rows = {row["option"]: row for row in options("mfkd")}
    assert rows["student_taps"]["default"] == "[front, middle, bottom]"
    assert rows["size"]["default"] == "null"
    assert rows["kind"] == {
        "option": "kind",
        "default": "attention",
        "meaning": "attention, concat, topdown, static: how maps are fused",
    }
    assert all(row["meaning"] for row in rows.values())


def test_unknown_method_is_refused():
    with pytest.raises(UnknownNameError) as caught:
        options("mfk")
    assert str(caught.value) == "unknown method 'mfk'; did you mean mfkd?"
