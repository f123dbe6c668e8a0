"""Size, crop, interpolation, statistics and class names: the recipe's, the student's or the usual."""

from pathlib import Path

import pytest
import torch

from mfkd.config import AugmentConfig, DataConfig
from mfkd.data import FileSplit, ImageData, MemorySplit, filled, load_data, preprocessed, train_loader
from mfkd.errors import ConfigError, DataError

OWN = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "image_size": 160, "crop": 0.9, "interpolation": "bicubic"}


def made(large, channels=3):
    labels = torch.tensor([0, 1])
    images = torch.zeros(2, channels, 8, 8, dtype=torch.uint8)
    split = FileSplit((Path("a"), Path("b")), labels, labels) if large else MemorySplit(images, labels, labels)
    half = (0.5,) * channels
    return ImageData("made", ("a", "b"), channels, (8, 8), half, half, 0, False, split, None, split, 2)


@pytest.mark.parametrize(
    ("options", "size", "side", "how"),
    [
        ({}, 224, 256, "bilinear"),
        ({"image_size": 64}, 64, 73, "bilinear"),  # 64 / 0.875 = 73.1
        ({"crop": 0.9, "interpolation": "bicubic"}, 224, 248, "bicubic"),  # 224 / 0.9 = 248.9, rounded down as in timm
        ({"crop": 224 / 249}, 224, 249, "bilinear"),
        ({"crop": 1.0}, 224, 224, "bilinear"),
        ({"resize": 300}, 224, 300, "bilinear"),
    ],
)
def test_large_images_get_what_the_recipe_says_or_the_usual(options, size, side, how):
    data = preprocessed(made(True), DataConfig(**options))
    assert (data.size, data.resize, data.interpolation) == ((size, size), side, how)


@pytest.mark.parametrize("side", range(224, 330))
def test_a_share_made_of_whole_pixels_gives_them_back(side):
    assert preprocessed(made(True), DataConfig(crop=224 / side)).resize == side


@pytest.mark.parametrize(
    ("large", "channels", "values", "expected"),
    [(True, 3, OWN["mean"], OWN["mean"]), (False, 3, OWN["mean"], OWN["mean"]), (False, 1, OWN["mean"], (0.2,)),
     (False, 1, (0.7,), (0.7,)), (False, 3, None, (0.5, 0.5, 0.5))],
)  # fmt: skip
def test_statistics_of_the_recipe_win_and_are_averaged_for_grey_images(large, channels, values, expected):
    data = preprocessed(made(large, channels), DataConfig(mean=values))
    assert data.mean == pytest.approx(expected)
    assert data.std == (0.5,) * channels


def test_open_keys_are_filled_from_the_network_and_those_of_the_recipe_win():
    assert filled(DataConfig(), made(True), OWN) == DataConfig(**OWN)
    told = DataConfig(mean=(0.5,) * 3, crop=0.8, image_size=96)
    assert filled(told, made(True), OWN) == told.model_copy(update={"std": OWN["std"], "interpolation": "bicubic"})
    assert filled(DataConfig(resize=300), made(True), OWN).crop is None  # the side is told already
    assert filled(DataConfig(), made(False), OWN) == DataConfig(mean=OWN["mean"], std=OWN["std"])
    assert filled(DataConfig(), made(True), {}) == DataConfig()


def test_filling_twice_changes_nothing():
    once = filled(DataConfig(), made(True), OWN)
    assert filled(once, made(True), {**OWN, "crop": 0.5}) == once
    data = preprocessed(made(True), once)
    assert vars(preprocessed(data, once)) == vars(data)


@pytest.mark.parametrize(
    ("large", "options", "text"),
    [
        (
            False,
            {"crop": 0.9},
            "data.crop=0.9 is for large images, and made has small ones; set data.crop=null.",
        ),
        (
            False,
            {"interpolation": "bicubic"},
            "data.interpolation=bicubic is for large images, and made has small ones; set data.interpolation=null.",
        ),
        (
            True,
            {"crop": 0.9, "resize": 300},
            "data.resize=300 and data.crop=0.9 both tell the shorter side before the crop; set one of them to null.",
        ),
        (
            True,
            {"resize": 100},
            "data.resize=100 is smaller than data.image_size=224, the crop taken out of it; "
            "set data.image_size=100 or less.",
        ),
        (
            True,
            {"mean": (0.5,)},
            "data.mean has 1 value, the images of made have 3 channels; give one value a channel.",
        ),
        (
            False,
            {"std": (0.5, 0.5)},
            "data.std has 2 values, the images of made have 3 channels; give one value a channel.",
        ),
    ],
)
def test_refusals(large, options, text):
    with pytest.raises(ConfigError) as error:
        preprocessed(made(large), DataConfig(**options))
    assert str(error.value) == text


def test_scale_is_refused_for_small_images():
    with pytest.raises(ConfigError) as error:
        train_loader(made(False), DataConfig(), AugmentConfig(scale=(0.5, 1)), batch_size=2, seed=0, device="cpu")
    assert str(error.value) == (
        "augment.scale and augment.ratio are for large images, and made has small ones; "
        "leave them out, and set augment.crop_padding instead."
    )


def names(path, lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


def test_class_names_come_from_a_file(tmp_path):
    wanted = ("zéro", "one two", *"23456789")
    data = load_data(
        DataConfig(class_names=names(tmp_path / "names.txt", [*wanted[:5], f" {wanted[5]} ", *wanted[6:], ""]))
    )
    assert data.classes == wanted
    (tmp_path / "marked.txt").write_text("\n".join(wanted), encoding="utf-8-sig")  # as editors on Windows write it
    assert load_data(DataConfig(class_names=str(tmp_path / "marked.txt"))).classes == wanted


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (list("abc"), "has 3 names, digits has 10 classes; write one name a line."),
        ([*"abcdefghijk"], "has 11 names, digits has 10 classes; write one name a line."),
        (list("abcdefghia"), "has the name 'a' twice; give each class its own."),
    ],
)
def test_class_names_that_do_not_fit_are_refused(tmp_path, lines, text):
    path = names(tmp_path / "names.txt", lines)
    with pytest.raises(DataError) as error:
        load_data(DataConfig(class_names=path))
    assert str(error.value) == f"data.class_names: {path} {text}"


def test_class_names_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        load_data(DataConfig(class_names=str(tmp_path / "none.txt")))
    assert str(error.value) == (
        f"data.class_names: {tmp_path / 'none.txt'} cannot be read (No such file or directory); give a text file."
    )
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(DataError, match=r"odd.txt cannot be read \(not UTF-8\); give a text file."):
        load_data(DataConfig(class_names=str(tmp_path / "odd.txt")))
