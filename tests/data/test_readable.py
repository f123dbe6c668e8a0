"""Images that cannot be read are listed and left out, and what was found is remembered."""

import errno
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet as pq

from mfkd import pictures
from mfkd.config import DataConfig
from mfkd.data import FileSplit, load_data, readable
from mfkd.errors import DataError
from mfkd.pictures import UnreachedError


def fill(root, size=8):
    """Six sound images a class and split, of which the training ones 1 of a and 4 of b are spoilt."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    (root / "train" / "a" / "1.png").write_bytes(b"")
    whole = (root / "train" / "b" / "4.png").read_bytes()
    (root / "train" / "b" / "4.png").write_bytes(whole[: len(whole) - 60])
    return root


@pytest.fixture(params=[8, 100], ids=["in memory", "files"])
def root(request, tmp_path):
    return fill(tmp_path / "images", request.param)


def load(root, tmp_path, **options):
    return load_data(DataConfig(name=f"folder:{root}", root=str(tmp_path / "home"), **options))


def test_all_but_the_unreadable_ones_are_there_with_their_own_rows(root, tmp_path):
    data = load(root, tmp_path, unreadable="skip")
    assert data.train.rows.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9, 11]
    assert data.train.labels.tolist() == [0] * 5 + [1] * 5
    assert (data.num_rows, len(data.test)) == (12, 12)
    assert [line.replace(str(root), "ROOT") for line in data.unreadable] == [
        "ROOT/train/a/1.png cannot be read as an image (cannot identify image file 'the file')",
        "ROOT/train/b/4.png cannot be read as an image (image file is truncated)",
    ]
    (note,) = data.notes
    assert note.replace(str(root), "ROOT").startswith(
        "left out as unreadable (data.unreadable=skip): 2 images, all of them in unreadable.txt of the run folder: "
        "ROOT/train/a/1.png cannot be read"
    )
    if isinstance(data.train, FileSplit):
        assert [path.name for path in data.train.paths[:2]] == ["0.png", "2.png"]


def test_error_is_the_default_and_says_which(tmp_path):
    with pytest.raises(DataError, match=r"train/a/1.png cannot be read as an image"):
        load(fill(tmp_path / "images"), tmp_path)


def test_sound_images_are_the_same_either_way(tmp_path):
    root = fill(tmp_path / "images")
    for path in ("a/1.png", "b/4.png"):
        (root / "train" / path).unlink()
    first, second = load(root, tmp_path), load(root, tmp_path, unreadable="skip")
    assert torch.equal(first.train.images, second.train.images)
    assert (second.unreadable, second.notes) == ((), [])


def test_files_are_looked_at_once_until_one_changes(root, tmp_path, monkeypatch):
    looked = []
    real = readable.read_image
    monkeypatch.setattr(readable, "read_image", lambda source, *more: looked.append(source) or real(source, *more))
    first = load(root, tmp_path, unreadable="skip").unreadable
    assert len(looked) == 24
    assert load(root, tmp_path, unreadable="skip").unreadable == first
    assert len(looked) == 24
    shutil.copy(root / "train" / "a" / "0.png", root / "train" / "a" / "1.png")
    assert load(root, tmp_path, unreadable="skip").unreadable == first[1:]
    assert len(looked) == 36  # the training images; the test images are as they were


def test_a_disk_that_fails_for_a_moment_loses_no_image(root, tmp_path, monkeypatch):
    really = pictures.open_image

    def flaky(source, *more):
        if str(source).endswith("train/a/3.png"):
            raise OSError(errno.EIO, "Input/output error")
        return really(source, *more)

    monkeypatch.setattr(pictures, "open_image", flaky)
    with pytest.raises(
        UnreachedError, match=r"train/a/3.png could not be read \(Input/output error\); see to disk, perm"
    ):
        load(root, tmp_path, unreadable="skip")
    monkeypatch.undo()
    assert len(load(root, tmp_path, unreadable="skip").unreadable) == 2


def test_a_file_that_is_gone_is_left_out(tmp_path):
    sound = (fill(tmp_path / "images") / "test" / "a" / "0.png").read_bytes()
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "0.png").write_bytes(sound)
    for split, names in (("train", ["0.png", "0.png", "gone.png"]), ("test", ["0.png"] * 2)):
        images = [{"bytes": None, "path": name} for name in names]
        columns = pa.table({"image": images, "label": [number % 2 for number in range(len(names))]})
        pq.write_table(columns, tmp_path / "table" / f"{split}.parquet")
    data = load_data(DataConfig(name=f"parquet:{tmp_path}/table", root=str(tmp_path / "home"), unreadable="skip"))
    assert data.train.rows.tolist() == [0, 1]
    (line,) = data.unreadable
    assert "gone.png cannot be read as an image ([Errno 2] No such file or directory" in line


@pytest.mark.parametrize("content", ["", "{}", "[[0, 1"])
def test_a_damaged_memory_is_made_anew(tmp_path, content):
    root = fill(tmp_path / "images")
    first = load(root, tmp_path, unreadable="skip").unreadable
    for path in (tmp_path / "home" / "checked").glob("*.json"):
        path.write_text(content)
    assert load(root, tmp_path, unreadable="skip").unreadable == first
    assert {type(json.loads(path.read_text())) for path in (tmp_path / "home" / "checked").glob("*.json")} == {list}


def test_nothing_is_remembered_where_nothing_can_be_written(tmp_path):
    (tmp_path / "home").touch()
    assert len(load(fill(tmp_path / "images"), tmp_path, unreadable="skip").unreadable) == 2


def test_rows_of_a_table_and_unlabelled_files(tmp_path):
    root = fill(tmp_path / "images")
    sound = [(root / "test" / "a" / f"{number}.png").read_bytes() for number in range(6)]
    (tmp_path / "table").mkdir()
    for split, images in (("train", [b"", *sound[:4], sound[4][:90]]), ("test", sound[:2])):
        columns = pa.table({"image": images, "label": [number % 2 for number in range(len(images))]})
        pq.write_table(columns, tmp_path / "table" / f"{split}.parquet")
    config = DataConfig(
        name=f"parquet:{tmp_path}/table", root=str(tmp_path / "home"), unreadable="skip",
        unlabelled=str(root / "train" / "a"),
    )  # fmt: skip
    data = load_data(config)
    assert data.train.rows.tolist() == [1, 2, 3, 4, 6, 8, 9, 10, 11]  # six rows of the table, then six files
    assert data.train.labels.tolist() == [1, 0, 1, 0] + [-1] * 5
    assert [line.replace(str(tmp_path), "P") for line in data.unreadable] == [
        "P/table train row 0 cannot be read as an image (not an image)",
        "P/table train row 5 cannot be read as an image (not an image)",
        "P/images/train/a/1.png cannot be read as an image (cannot identify image file 'the file')",
    ]
