import inspect

import pytest

from mfkd import errors
from mfkd.errors import ConfigError, MfkdError, UnknownNameError

METHODS = ("mfkd", "kd", "none")


@pytest.mark.parametrize(
    ("got", "known", "hint", "text"),
    [
        ("mkfd", METHODS, "", "unknown method 'mkfd'; did you mean mfkd or kd?"),
        ("zzz", METHODS, "", "unknown method 'zzz'; known: mfkd, kd, none."),
        ("zzz", METHODS, "see `mfkd methods`.", "unknown method 'zzz'; known: mfkd, kd, none. see `mfkd methods`."),
        ("zzz", map(str, range(24)), "", f"unknown method 'zzz'; known: {', '.join(map(str, range(24)))}."),
        ("zzz", map(str, range(25)), "", "unknown method 'zzz'"),
        ("zzz", map(str, range(25)), "see `mfkd methods`.", "unknown method 'zzz'; see `mfkd methods`."),
        ("zzz", (), "", "unknown method 'zzz'"),
    ],
)
def test_unknown_name_tells_the_nearest_or_all_or_the_hint(got, known, hint, text):
    assert str(UnknownNameError("method", got, known, hint)) == text


def test_unknown_name_keeps_its_parts_and_is_a_config_error():
    error = UnknownNameError("model", "resnet21", iter(["resnet20", "vgg8"]))
    assert (error.kind, error.got, error.known) == ("model", "resnet21", ("resnet20", "vgg8"))
    assert isinstance(error, ConfigError)


def test_at_most_three_names_are_offered():
    text = str(UnknownNameError("model", "resnet2", [f"resnet{n}" for n in (20, 21, 22, 23)]))
    assert text.count("resnet2") == 4
    assert text.count(" or ") == 2


def test_every_kind_is_an_mfkd_error_and_documented():
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == "mfkd.errors"]
    assert len(kinds) == 8
    assert all(issubclass(kind, MfkdError) and kind.__doc__ for kind in kinds)


def test_the_nearest_names_are_found_in_any_case():
    assert "did you mean ResNet50?" in str(UnknownNameError("model", "resnet50", ["vgg8", "ResNet50"]))
