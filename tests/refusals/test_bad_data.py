"""Every kind of bad images and folders of them, as a person meets it who runs the command on them."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfkd.cli import main
from mfkd.config import DataConfig, load_config
from mfkd.data import FileSplit, load_data
from mfkd.errors import DataError
from mfkd.pipeline import claimed, train_student
from mfkd.plan import open_plan
from mfkd.records import RunRecord
from refusals.spoilt import BROKEN, SIZE, bomb, encoded, not_a_number, picture, write


@pytest.fixture
def images(place):
    """`images/`: two classes with four images to train on and two to test, all sound."""
    for number in range(12):
        split, name = ("train", "ab"[number % 2]) if number < 8 else ("test", "ab"[number % 2])
        folder = place / "images" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        picture(number).save(folder / f"{number}.png")
    return place / "images"


FOLDERS = {
    "empty class folder": (
        lambda root: [path.unlink() for path in (root / "train" / "a").iterdir()],
        "images/train/a holds no image; fill the class or remove its folder from every split.",
    ),
    "one class": (
        lambda root: [(root / split / "b").rename(root / f"{split}-b") for split in ("train", "test")],
        "images/train has 1 class folders, expected two or more.",
    ),
    "no class": (
        lambda root: [(root / split / n).rename(root / f"{split}-{n}") for split in ("train", "test") for n in "ab"],
        "images/train has 0 class folders, expected two or more.",
    ),
    "class names that differ": (
        lambda root: (root / "test" / "b").rename(root / "test" / "c"),
        "images: train/ and test/ differ in the classes b, c; give both the same.",
    ),
    "no test images": (
        lambda root: (root / "test").rename(root / "tset"),
        "images has no val/ or test/; expected train/ and val/ or test/, each with a folder a class, or "
        "data.test_fraction=0.2 for class folders alone.",
    ),
    "zero bytes": (
        lambda root: write(root / "train" / "a" / "0.png", b""),
        f"images/train/a/0.png cannot be read as an image (cannot identify image file 'the file'){BROKEN}",
    ),
    "no image": (
        lambda root: write(root / "train" / "a" / "0.png", b"<html>not found</html>"),
        f"images/train/a/0.png cannot be read as an image (cannot identify image file 'the file'){BROKEN}",
    ),
    "truncated": (
        lambda root: write(root / "test" / "b" / "9.png", encoded(9)[:120]),
        f"images/test/b/9.png cannot be read as an image (image file is truncated){BROKEN}",
    ),
    "decompression bomb": (
        lambda root: write(root / "train" / "a" / "0.png", bomb()),
        "images/train/a/0.png cannot be read as an image (Image size (3600000000 pixels) exceeds limit of 178956970 "
        f"pixels, could be decompression bomb DOS attack.){BROKEN}",
    ),
    "NaN": (
        lambda root: write(root / "train" / "a" / "n.tif", not_a_number()),
        f"images/train/a/n.tif cannot be read as an image (NaN or infinite values in it){BROKEN}",
    ),
    "sizes that differ": (
        lambda root: picture(0, size=16).save(root / "train" / "a" / "0.png"),
        "images has small images of 2 sizes, the longest side 16 px; bring them to one with data.resize=16, or another "
        "size.",
    ),
    "unlabelled images that cannot be read": (
        lambda root: ((root / "more").mkdir(), write(root / "more" / "x.jpg", b"x")),
        f"images/more/x.jpg cannot be read as an image (cannot identify image file 'the file'){BROKEN}",
        "data.unlabelled=images/more",
    ),
    "a class of which nothing can be read": (
        lambda root: [write(path, b"x") for path in (root / "train" / "a").iterdir()],
        "no training image of the class a of images can be read; repair some of its images, or remove the class from "
        "every split.",
        "data.unreadable=skip data.root=/proc/none",
    ),
    "a split of which nothing can be read": (
        lambda root: [write(path, b"x") for path in (root / "test").rglob("*.png")],
        "no image of the test split of images can be read; the first: images/test/a/10.png cannot be read as an image "
        "(cannot identify image file 'the file').",
        "data.unreadable=skip data.root=/proc/none",
    ),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_of_images(case, images, refused):
    spoil, text, *more = FOLDERS[case]
    spoil(images)
    assert refused("run", "data.name=folder:images", "train.batch_size=4", *" ".join(more).split()) == text


@pytest.mark.parametrize("folder", ["with a space", "bün/ß 猫", "a[bold]b"])
def test_any_folder_name_will_do(folder, images, place):
    (place / folder).parent.mkdir(parents=True, exist_ok=True)
    images.rename(place / folder)
    (place / folder / "train" / "a").rename(place / folder / "train" / "ä ö")
    (place / folder / "test" / "a").rename(place / folder / "test" / "ä ö")
    data = load_data(DataConfig(name=f"folder:{folder}"))
    assert (data.classes, len(data.train), len(data.test)) == (("b", "ä ö"), 8, 4)


def test_kinds_of_images_that_are_read_nonetheless(place):
    """CMYK, 16 bits, animated, palette, one bit: what a person sees is what the network sees."""
    expected = {}
    for split in ("train", "test"):
        for name, colour in {"cmyk.jpg": (255, 0, 0), "deep.png": (128,) * 3, "move.gif": (0, 0, 255)}.items():
            folder = place / "images" / split / name[0]
            folder.mkdir(parents=True)
            expected[name[0]] = colour
            if name == "cmyk.jpg":
                Image.new("CMYK", (SIZE, SIZE), (0, 255, 255, 0)).save(folder / name, quality=100)
            elif name == "deep.png":
                Image.fromarray(np.full((SIZE, SIZE), 128 << 8 | 200, np.uint16)).save(folder / name)
            else:
                frames = [Image.new("RGB", (SIZE, SIZE), colour), Image.new("RGB", (SIZE, SIZE), (9, 9, 9))]
                frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    data = load_data(DataConfig(name="folder:images"))
    assert not isinstance(data.train, FileSplit)
    for image, name in zip(data.train.images, sorted(expected), strict=True):
        assert np.abs(image.numpy().mean((1, 2)) - expected[name]).max() <= 2, name


def test_a_large_image_is_refused_when_it_is_read_and_the_run_goes_on_once_it_is_repaired(images):
    """Large images are read as they are needed: the line is the same, and the folder is there already."""
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        picture(number, size=100).save(path)
    broken = images / "train" / "b" / "7.png"
    whole = broken.read_bytes()
    write(broken, whole[:2000])
    words = ["data.name=folder:images", "data.image_size=16", "data.workers=0", "train.batch_size=4", "train.epochs=1"]
    plan = open_plan(load_config(None, [*words, "student.model=resnet8", "log.trackers=[]", "out=run"]))
    with (
        claimed(plan),
        pytest.raises(DataError, match=r"train/b/7.png cannot be read as an image \(image file is trunc"),
    ):
        train_student(plan, "alone", 0, None)
    write(broken, whole)
    with claimed(plan):
        assert train_student(plan, "alone", 0, None).metrics["n"] == 4


def test_what_was_left_out_and_what_is_tested_twice_is_told(images, place, monkeypatch, capsys):
    write(images / "train" / "a" / "0.png", b"")
    (images / "test" / "b" / "9.png").write_bytes((images / "train" / "b" / "1.png").read_bytes())
    words = ["data.name=folder:images", "data.unreadable=skip", "train.batch_size=4", "train.epochs=1", "out=run"]
    monkeypatch.setattr(sys, "argv", ["mfkd", "train", *words, "student.model=resnet8", "log.trackers=[]"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    line = "images/train/a/0.png cannot be read as an image (cannot identify image file 'the file')"
    notes = [
        "left out as unreadable (data.unreadable=skip): 1 image, all of them in unreadable.txt of the run folder: "
        f"{line}.",
        "1 of 4 test images are trained on too, so that the figures are too good: test row 3 = training row 4; take "
        "them out of one of the two.",
    ]
    out, err = capsys.readouterr()
    assert [text for text in err.splitlines() if text.startswith("Warning:")] == [f"Warning: {note}" for note in notes]
    assert [text for text in out.splitlines() if text.startswith("Note:")] == [f"Note: {note}" for note in notes]
    assert (place / "run" / "unreadable.txt").read_text() == f"{line}\n"
    record = RunRecord.load(place / "run" / "alone" / "seed-0" / "record.json")
    assert record.notes == notes
    assert record.metrics["n"] == 4


def test_a_name_that_is_not_utf8_is_told_and_kept_as_it_is(images, place, monkeypatch, capsys):
    name = b"images/train/a/caf\xe9.png"
    write(Path(os.fsdecode(name)), b"")
    words = ["data.name=folder:images", "data.unreadable=skip", "train.batch_size=4", "train.epochs=1", "out=run"]
    monkeypatch.setattr(sys, "argv", ["mfkd", "train", *words, "student.model=resnet8", "log.trackers=[]"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 0
    told = b" cannot be read as an image (cannot identify image file 'the file')\n"
    assert (place / "run" / "unreadable.txt").read_bytes() == name + told
    assert "1 image, all of them in unreadable.txt of the run folder" in capsys.readouterr().err
