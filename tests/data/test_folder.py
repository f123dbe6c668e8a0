import numpy as np
import pytest
import torch
from PIL import Image

from mfkd.config import DataConfig
from mfkd.data import FileSplit, load_data
from mfkd.data.stats import IMAGENET
from mfkd.errors import ConfigError, DataError


def picture(seed, size=(6, 9)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def make(root, split="train", classes=("b", "a"), count=3, size=(6, 9)):
    for name in classes:
        (root / split / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.fromarray(picture(ord(name) + number, size)).save(root / split / name / f"{number}.png")


@pytest.fixture
def root(tmp_path):
    make(tmp_path)
    make(tmp_path, "val", count=2)
    return tmp_path


def load(place, **options):
    return load_data(DataConfig(name=f"folder:{place}", **options))


def refusal(place, kind=DataError, **options):
    with pytest.raises(kind) as error:
        load(place, **options)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(place), "PLACE")


def test_small_images_of_one_size_live_in_memory(root):
    (root / "train" / "a" / ".hidden.png").write_text("no image")
    (root / "train" / "a" / "notes.txt").write_text("no image")
    data = load(root)
    assert data.classes == ("a", "b")
    assert (data.size, data.channels, data.num_rows, data.val) == ((6, 9), 3, 6, None)
    expected = np.stack([picture(ord(name) + number) for name in "ab" for number in range(3)])
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(data.test) == 4
    assert (data.mean, data.std) == IMAGENET
    assert (data.crop_padding, data.flip) == (0, False)


def test_val_is_the_validation_split_where_test_exists(root):
    make(root, "test", count=4)
    data = load(root)
    assert (len(data.train), len(data.val), len(data.test)) == (6, 4, 8)


def test_subfolders_of_a_class_belong_to_it(root):
    (root / "train" / "a" / "more").mkdir()
    Image.fromarray(picture(1)).save(root / "train" / "a" / "more" / "x.png")
    assert load(root).train.labels.tolist() == [0] * 4 + [1] * 3


def test_linked_subfolders_belong_to_it_and_hidden_ones_do_not(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (root / "train" / "a" / ".ipynb_checkpoints").mkdir()
    for place in (elsewhere, root / "train" / "a" / ".ipynb_checkpoints"):
        Image.fromarray(picture(1)).save(place / "0-checkpoint.png")
    assert load(root).train.labels.tolist() == [0] * 3 + [1] * 3
    (root / "train" / "a" / "more").symlink_to(elsewhere)
    assert load(root).train.labels.tolist() == [0] * 4 + [1] * 3
    assert load(root, unlabelled=str(root / "train" / "a")).train.labels.tolist() == [0] * 4 + [1] * 3 + [-1] * 4


def test_a_name_that_no_folder_can_have_is_refused_like_any_other(root):
    name = "x" * 300
    assert refusal(name) == "folder PLACE does not exist; give a folder with train/ and val/ or test/."
    told = f"data.unlabelled: folder {name} does not exist; give a folder that holds images."
    assert refusal(root, unlabelled=name) == told


def test_large_images_stay_files(tmp_path):
    make(tmp_path, size=(100, 97))
    make(tmp_path, "test", size=(100, 97))
    data = load(tmp_path, image_size=32)
    assert isinstance(data.train, FileSplit)
    assert (data.size, data.resize, data.flip) == ((32, 32), 36, True)  # 32 / 0.875 = 36.6
    assert data.train.paths[0] == tmp_path / "train" / "a" / "0.png"
    assert load(tmp_path, image_size=32, resize=64).resize == 64
    assert refusal(tmp_path, ConfigError, resize=64) == (
        "data.resize=64 is smaller than data.image_size=224, the crop taken out of it; set data.image_size=64 or less."
    )


def test_unlabelled_files_join_large_images(tmp_path):
    make(tmp_path, size=(100, 97))
    make(tmp_path, "test", size=(100, 97))
    data = load(tmp_path, unlabelled=str(tmp_path / "test"))
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1, *[-1] * 6]
    assert data.train.rows.tolist() == list(range(12))
    assert data.num_rows == 12


def test_resize_brings_small_images_of_unequal_size_into_memory(root):
    Image.fromarray(picture(1, (40, 30))).save(root / "val" / "a" / "x.png")
    data = load(root, resize=8)
    assert data.train.images.shape == (6, 3, 8, 8)


def test_refuses_small_images_of_unequal_size(root):
    Image.fromarray(picture(1, (40, 30))).save(root / "val" / "a" / "x.png")
    Image.fromarray(picture(1, (9, 6))).save(root / "train" / "a" / "x.png")
    assert refusal(root) == (
        "PLACE has small images of 3 sizes, the longest side 40 px; "
        "bring them to one with data.resize=40, or another size."
    )
    Image.fromarray(picture(1, (97, 6))).save(root / "train" / "a" / "y.png")
    assert isinstance(load(root).train, FileSplit)


def test_refuses_a_decompression_bomb_by_its_name(root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # the images have 54, more than twice as many
    assert refusal(root) == (
        "PLACE/train/a/0.png cannot be read as an image (Image size (54 pixels) exceeds limit of 40 pixels, "
        "could be decompression bomb DOS attack.); repair or remove it."
    )


def test_refuses_a_folder_without_splits(tmp_path):
    expected = (
        "expected train/ and val/ or test/, each with a folder a class, "
        "or data.test_fraction=0.2 for class folders alone."
    )
    assert refusal(tmp_path) == f"PLACE has no train/; {expected}"
    make(tmp_path)
    assert refusal(tmp_path) == f"PLACE has no val/ or test/; {expected}"


def test_class_folders_alone_are_cut_by_a_seed_class_by_class(tmp_path):
    for name, count in (("a", 10), ("b", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.fromarray(picture(number, (8, 8))).save(tmp_path / name / f"{number}.png")
    data = load(tmp_path, test_fraction=0.2)
    assert [data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()] == [[8, 2], [2, 1]]
    assert sorted([*data.train.rows.tolist(), *data.test.rows.tolist()]) == list(range(13))
    assert data.num_rows >= int(data.train.rows.max()) + 1
    again, other = load(tmp_path, test_fraction=0.2), load(tmp_path, test_fraction=0.2, split_seed=1)
    assert torch.equal(again.test.rows, data.test.rows)
    assert not torch.equal(other.test.rows, data.test.rows)
    Image.fromarray(picture(0, (8, 8))).save(tmp_path / "c.png")  # a file beside the classes is none of them
    assert load(tmp_path, test_fraction=0.2).classes == ("a", "b")


def test_a_share_that_cannot_be_cut_is_refused(root, tmp_path_factory):
    text = "data.test_fraction is for class folders without a split, and PLACE has train, val; leave it out."
    assert refusal(root, ConfigError, test_fraction=0.2) == text
    single = tmp_path_factory.mktemp("single")
    for name in ("a", "b"):
        (single / name).mkdir()
        Image.fromarray(picture(0, (8, 8))).save(single / name / "0.png")
    text = "PLACE/a holds one image, and data.test_fraction needs two or more of each class."
    assert refusal(single, test_fraction=0.2) == text
    assert (
        refusal(tmp_path_factory.mktemp("none"), test_fraction=0.2)
        == "PLACE has 0 class folders, expected two or more."
    )


def test_refuses_differing_classes(root):
    make(root, "val", classes=("c",))
    assert refusal(root) == "PLACE: train/ and val/ differ in the classes c; give both the same."


def test_refuses_an_empty_class(root):
    for path in (root / "train" / "b").iterdir():
        path.unlink()
    assert refusal(root) == "PLACE/train/b holds no image; fill the class or remove its folder from every split."


def test_refuses_a_single_class(tmp_path):
    make(tmp_path, classes=("a",))
    make(tmp_path, "test", classes=("a",))
    assert refusal(tmp_path) == "PLACE/train has 1 class folders, expected two or more."


def test_names_an_unreadable_image(root):
    (root / "train" / "a" / "1.png").write_text("no image")
    assert refusal(root) == (
        "PLACE/train/a/1.png cannot be read as an image (cannot identify image file 'the file'); repair or remove it."
    )


def test_names_a_truncated_image(root):
    path = root / "train" / "a" / "1.png"
    path.write_bytes(path.read_bytes()[:100])
    assert refusal(root).startswith("PLACE/train/a/1.png cannot be read as an image (")


def test_refuses_to_hold_out_the_last_image_of_every_class(tmp_path):
    make(tmp_path, count=1)
    make(tmp_path, "test")
    assert refusal(tmp_path, ConfigError, val_fraction=0.5) == (
        "data.val_fraction=0.5 needs a class with two or more images to hold one out."
    )
