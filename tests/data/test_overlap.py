"""Images on both sides of the line between training and test."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from mfkd.config import DataConfig
from mfkd.data import FileSplit, MemorySplit, load_data, overlap


def split(*values):
    """One image of 2 x 2 px for each value; rows count from 10."""
    images = torch.stack([torch.full((1, 2, 2), value, dtype=torch.uint8) for value in values])
    return MemorySplit(images, torch.zeros(len(values), dtype=torch.int64), 10 + torch.arange(len(values)))


def test_pixels_by_hand():
    assert overlap.overlap(split(1, 2, 3, 2), split(9, 2, 3), None) == [
        "test row 11 = training row 11",
        "test row 12 = training row 12",
    ]
    assert overlap.overlap(split(1, 2), split(3), None) == []


def files(root, *contents):
    root.mkdir(exist_ok=True)
    paths = []
    for number, content in enumerate(contents):
        paths.append(root / f"{number}.jpg")
        paths[-1].write_bytes(content)
    return FileSplit(tuple(paths), torch.zeros(len(paths), dtype=torch.int64), torch.arange(len(paths)))


def test_files_of_one_size_and_one_beginning_are_told_apart(tmp_path):
    head = bytes(overlap.HEAD)
    train = files(tmp_path / "train", b"abc", head + b"1", head + b"2", b"long and alone")
    test = files(tmp_path / "test", b"abd", head + b"2", b"short", b"abc")
    found = overlap.overlap(train, test, tmp_path / "known")
    assert [line.replace(f"{tmp_path}/", "") for line in found] == [
        "test/1.jpg = train/2.jpg",
        "test/3.jpg = train/0.jpg",
    ]


def test_files_are_read_once_until_one_changes(tmp_path, monkeypatch):
    train, test = files(tmp_path / "train", b"abc", b"x"), files(tmp_path / "test", b"abc", b"y")
    first = overlap.overlap(train, test, tmp_path / "known")
    assert len(first) == 1
    monkeypatch.setattr(overlap, "_same_files", lambda *_: pytest.fail("looked again"))
    assert overlap.overlap(train, test, tmp_path / "known") == first
    monkeypatch.undo()
    (tmp_path / "test" / "1.jpg").write_bytes(b"x")
    assert len(overlap.overlap(train, test, tmp_path / "known")) == 2


def test_a_file_that_is_gone_equals_nothing(tmp_path):
    train, test = files(tmp_path / "train", b"abc"), files(tmp_path / "test", b"abc")
    train.paths[0].unlink()
    assert overlap.overlap(train, test, tmp_path / "known") == []


def test_encoded_images_are_compared_too(tmp_path):
    train = FileSplit((b"abc", b"x"), torch.zeros(2, dtype=torch.int64), torch.arange(2))
    test = FileSplit((b"x",), torch.zeros(1, dtype=torch.int64), torch.arange(1))
    assert overlap.overlap(train, test, tmp_path) == ["row 0 = row 1"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [8, 100])
def test_a_note_counts_and_names_the_first_ten(tmp_path, size):
    random = np.random.default_rng(0)
    for name in "ab":
        for part, count in (("train", 12), ("test", 12)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{number:02}.png")
    config = DataConfig(name=f"folder:{tmp_path}", root=str(tmp_path / "home"))
    assert load_data(config).notes == []
    for number in range(11):
        shutil.copy(tmp_path / "test" / "a" / f"{number:02}.png", tmp_path / "train" / "a" / f"{number:02}.png")
    (note,) = load_data(config).notes
    assert note.startswith("11 of 24 test images are trained on too, so that the figures are too good: ")
    assert note.endswith(", ...; take them out of one of the two.")
    assert note.count(" = ") == 10
