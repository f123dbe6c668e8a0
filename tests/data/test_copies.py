import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mfkd import seeding
from mfkd.config import AugmentConfig, DataConfig
from mfkd.data import eval_loader, load_data, train_loader
from mfkd.data.copies import Copies
from mfkd.errors import ConfigError, DataError


def photograph(path, seed=0, size=(120, 100)):
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size).save(path)
    return path


@pytest.fixture
def copies(tmp_path):
    return Copies(tmp_path / "copies", 40, "bilinear")


def made(copies):
    return sorted(copies.folder.rglob("*.jpg"))


def test_the_first_reader_sees_what_all_later_ones_see(copies, tmp_path):
    source = photograph(tmp_path / "a.png")
    first = np.asarray(copies.read(source))
    assert first.shape == (40, 48, 3)
    (file,) = made(copies)
    assert np.array_equal(first, np.asarray(Image.open(file)))
    assert np.array_equal(first, np.asarray(copies.read(source)))
    expected = np.asarray(v2.functional.resize(Image.open(source), [40]))
    assert np.abs(first.astype(int) - expected).mean() < 2
    photograph(file, seed=1)  # it is the copy that is read, not the image
    assert not np.array_equal(first, np.asarray(copies.read(source)))


def test_a_changed_image_gets_a_new_copy_and_other_sizes_their_own(copies, tmp_path):
    source = photograph(tmp_path / "a.png")
    before = np.asarray(copies.read(source))
    photograph(source, seed=1)
    os.utime(source, ns=(1, 1))
    after = np.asarray(copies.read(source))
    assert np.abs(before.astype(int) - after).mean() > 10
    assert Copies(copies.folder, 50, "bilinear").read(source).size == (60, 50)
    assert not np.array_equal(np.asarray(Copies(copies.folder, 40, "nearest").read(source)), after)
    assert len(made(copies)) == 4


def test_encoded_images_are_known_by_their_content(copies, tmp_path):
    source = photograph(tmp_path / "a.png").read_bytes()
    other = photograph(tmp_path / "b.png", seed=1).read_bytes()
    assert copies.read(source).size == copies.read(source).size == copies.read(other).size == (48, 40)
    assert len(made(copies)) == 2


def test_what_is_no_larger_is_not_copied(copies, tmp_path):
    source = photograph(tmp_path / "a.png", size=(40, 90))
    assert np.array_equal(np.asarray(copies.read(source)), np.asarray(Image.open(source)))
    assert made(copies) == []


def test_a_damaged_copy_is_made_anew(copies, tmp_path):
    source = photograph(tmp_path / "a.png")
    first = np.asarray(copies.read(source))
    (file,) = made(copies)
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert np.array_equal(np.asarray(copies.read(source)), first)
    assert file.read_bytes() == whole


def test_refusals_of_one_image(copies, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        copies.read(broken)
    with pytest.raises(DataError, match=r"^row 3 cannot be read as an image"):
        copies.read(b"nothing", "row 3")
    copies.folder.write_text("a file where the folder should be")
    with pytest.raises(DataError) as error:
        copies.read(photograph(tmp_path / "a.png"))
    assert str(error.value).startswith("data.copies=40: ")
    assert str(error.value).endswith(" Or leave data.copies out.")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 4), ("test", 2)):
        for number, name in enumerate("ab"):
            (place / split / name).mkdir(parents=True)
            for image in range(count):
                photograph(place / split / name / f"{image}.png", seed=10 * number + image + 5 * (split == "test"))
    return place


def config_of(root, place, **options):
    return DataConfig(name=f"folder:{root}", root=str(place), image_size=24, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_crops_the_copies_and_evaluation_sees_the_images(root, tmp_path, workers):
    config = config_of(root, tmp_path, copies=40, workers=workers)
    data = load_data(config)
    loader = train_loader(data, config, AugmentConfig(view_seed=3), batch_size=4, seed=0, device="cpu")
    transform = v2.Compose([v2.RandomResizedCrop(24, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
    copies = Copies(tmp_path / "copies", 40, "bilinear")
    for epoch in (5, 6):  # while the copies are made, and once they are there
        for batch in loader.epoch(epoch):
            for row, image in zip(batch.index.tolist(), batch.image, strict=True):
                with seeding.seeded(3, epoch, row):
                    expected = (transform(copies.read(data.train.paths[row])) / 255 - mean) / std
                assert torch.allclose(image, expected, atol=1e-5)
    assert len(made(copies)) == len(data.train) == 8
    (seen,) = eval_loader(data.test, data, config, batch_size=8, device="cpu")
    plain = config_of(root, tmp_path / "none", workers=0)
    (expected,) = eval_loader(load_data(plain).test, data, plain, batch_size=8, device="cpu")
    assert torch.equal(seen.image, expected.image)
    assert len(made(copies)) == 8


def test_refusals_of_a_recipe(root, tmp_path):
    config = config_of(root, tmp_path, copies=26)
    with pytest.raises(ConfigError) as error:
        train_loader(load_data(config), config, AugmentConfig(), batch_size=4, seed=0, device="cpu")
    assert str(error.value) == (
        "data.copies=26 is less than the 27 px that evaluation scales the shorter side to; give 27 or more, or leave "
        "it out."
    )
    config = DataConfig(name="digits", copies=64)
    with pytest.raises(ConfigError) as error:
        train_loader(load_data(config), config, AugmentConfig(), batch_size=4, seed=0, device="cpu")
    assert str(error.value) == (
        "data.copies=64 is for large images, and digits has small ones, which are in memory; leave it out."
    )
    assert list(Path(tmp_path).rglob("*.jpg")) == []
