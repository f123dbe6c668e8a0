import pytest
from PIL import Image

from mfkd.cli.words import config_from, default_recipe
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


def test_images_are_found_at_any_depth_in_the_order_of_their_names(tmp_path):
    for name in ("b/2.png", "a/deep/1.PNG", "a/note.txt", "c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / name, format="png") if "note" not in name else (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in image_files([tmp_path])]
    assert found == ["a/deep/1.PNG", "b/2.png", "c.jpg"]
