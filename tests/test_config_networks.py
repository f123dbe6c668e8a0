"""Keys of a recipe that concern networks and their weights."""

import pytest

from mfkd.config import load_config
from mfkd.errors import ConfigError


def test_the_students_head_is_kept_unless_it_is_reset():
    assert load_config(None).student.head == "keep"
    assert load_config(None, ["student.weights=w", "student.head=reset"]).student.head == "reset"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("student.head=reset", "head=reset is for a student that starts from a file; name it with student.weights"),
        ("student.head=tune", "student.head"),
        ("teacher.head=reset", "teacher.head"),
        ("student.options.num_classes=5", "num_classes is no option, the data tell it, and teacher.classes for a tea"),
        ("teacher.options.in_channels=1", "in_channels is no option, the data tell it; leave it out"),
        ("student.options.weights=w", "weights is no option, it has a key of its own beside options; leave it out"),
        ("student.options.name=x", "name is no option, it is the key model; leave it out"),
    ],
)
def test_what_is_refused(word, told):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [word])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
