import pytest
from PIL import Image

from mfkd.cli.words import config_from, default_recipe
from mfkd.errors import MfkdError
from mfkd.pictures import image_files


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        ([], "digits"),
        (["train.epochs=2"], "digits"),
        (["data.name=digits"], "digits"),
        (["data.fraction=0.5"], "digits"),
        (["data.name=folder:photos"], "images"),
        (["train.epochs=2", "data.name=cifar100"], "images"),
        (["data={name: cifar100}"], "images"),
    ],
)
def test_the_digits_recipe_is_for_the_digits(words, recipe):
    assert default_recipe(words) == recipe


def test_own_data_inherit_neither_seeds_nor_budget_nor_folder():
    own = config_from(None, ["data.name=folder:photos", "train.epochs=2"])
    assert (own.seeds, own.out, own.teacher_training().epochs) == ((0,), "runs/images", 2)
    assert config_from("digits", ["data.name=folder:photos"]).seeds == config_from(None, []).seeds


def test_an_override_may_be_longer_than_the_name_of_a_file():
    weights = {f"m{number}": {"weight": number} for number in range(40)}
    assert config_from(None, [f"method={weights}"]).method == weights


def test_a_word_too_long_for_a_file_is_refused_like_any_other(tmp_path):
    long = "x" * 300
    with pytest.raises(
        MfkdError, match=r"^unknown recipe 'x+ \.\.\. x+'; known: .* a path to a YAML file is welcome too\.$"
    ):
        config_from(long, [])
    with pytest.raises(MfkdError, match=r"^recipe \S+/x+ cannot be read: File name too long; check its permissions\.$"):
        config_from(str(tmp_path / long), [])
    with pytest.raises(MfkdError, match=r"^image x+ does not exist; give image files, or folders of them\.$"):
        image_files([long])


def test_images_are_found_at_any_depth_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.png", "a/deep/1.PNG", "a/note.txt", "c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name, format="png") if "note" not in name else (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in image_files([tmp_path])]
    assert found == ["a/deep/1.PNG", "b/2.png", "c.jpg"]
