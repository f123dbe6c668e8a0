import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mfkd import seeding
from mfkd.config import AugmentConfig, DataConfig
from mfkd.data import eval_loader, load_data, load_image, train_loader
from mfkd.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for name in ("a", "b"):
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((120, 100))
                smooth.save(place / split / name / f"{number}.png")
    return place


def setup(root, workers=0, **options):
    config = DataConfig(name=f"folder:{root}", image_size=24, workers=workers, **options)
    return config, load_data(config)


def loader(root, augment=None, workers=0, **options):
    config, data = setup(root, workers)
    options = {"batch_size": 4, "seed": 0, "device": "cpu", **options}
    return train_loader(data, config, augment or AugmentConfig(view_seed=3), **options)


def pixels(batches):
    return {int(row): image for batch in batches for row, image in zip(batch.index, batch.image, strict=True)}


def test_training_images_are_torchvisions_crops_under_their_own_seed(root):
    _, data = setup(root)
    batches = list(loader(root).epoch(5))
    assert [tuple(batch.image.shape) for batch in batches] == [(4, 3, 24, 24)] * 3
    transform = v2.Compose([v2.RandomResizedCrop(24, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
    for row, image in pixels(batches).items():
        with Image.open(data.train.paths[row]) as file, seeding.seeded(3, 5, row):
            expected = (transform(file.convert("RGB")) / 255 - mean) / std
        assert torch.allclose(image, expected, atol=1e-5)


def test_workers_ranks_and_restarts_change_nothing(root):
    first = list(loader(root).epoch(1))
    parallel = loader(root, workers=2)
    for _ in range(2):  # the second pass reuses the workers
        for one, other in zip(first, parallel.epoch(1), strict=True):
            assert torch.equal(one.image, other.image)
            assert torch.equal(one.index, other.index)
    next(parallel.epoch(0))  # left after one batch
    resumed = list(parallel.epoch(1, 2))
    assert torch.equal(resumed[0].image, first[2].image)
    ranks = [list(loader(root, rank=rank, world=2).epoch(1)) for rank in range(2)]
    assert torch.equal(torch.cat([ranks[0][1].image, ranks[1][1].image]), first[1].image)


def test_operations_are_the_same_in_any_worker(root):
    augment = AugmentConfig(view_seed=3, auto="randaugment", jitter=0.2, erasing=0.5)
    first, view = (pixels(loader(root, augment).epoch(number)) for number in (1, 2))
    parallel = loader(root, augment, workers=2, batch_size=3)
    second = pixels(parallel.epoch(1))
    assert len(first) == 12
    assert all(torch.equal(image, second[row]) for row, image in first.items())
    assert not any(torch.equal(image, view[row]) for row, image in first.items())
    plain = pixels(loader(root, AugmentConfig(view_seed=3)).epoch(1))
    assert not any(torch.equal(image, plain[row]) for row, image in first.items())


def test_reading_draws_nothing_from_the_global_generator(root):
    before = torch.get_rng_state()
    list(loader(root).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


def test_padding_0_takes_the_central_crop(root):
    config, data = setup(root)
    seen = pixels(loader(root, AugmentConfig(crop_padding=0, flip=False)).epoch(0))
    plain = pixels(eval_loader(data.train, data, config, batch_size=5, device="cpu"))
    assert len(plain) == 12
    assert all(torch.equal(image, plain[row]) for row, image in seen.items())
    flipped = pixels(loader(root, AugmentConfig(crop_padding=0, flip=True)).epoch(0))
    turned = sum(torch.equal(image, plain[row].flip(-1)) for row, image in flipped.items())
    assert 0 < turned < 12
    assert turned + sum(torch.equal(image, plain[row]) for row, image in flipped.items()) == 12


def test_evaluation_equals_load_image(root):
    config, data = setup(root)
    (batch,) = eval_loader(data.test, data, config, batch_size=8, device="cpu")
    for image, path in zip(batch.image, data.test.paths, strict=True):
        alone = load_image(path, data.channels, data.size, data.mean, data.std, data.resize)
        assert torch.equal(image, alone)
    with Image.open(data.test.paths[0]) as file:  # 120 x 100, shorter side to 27, middle 24 of it
        expected = v2.Compose([v2.Resize(27, antialias=True), v2.CenterCrop(24), v2.PILToTensor()])(file)
    mean, std = (torch.tensor(value)[:, None, None] for value in (data.mean, data.std))
    assert torch.allclose(batch.image[0] * std + mean, expected / 255, atol=1e-6)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_later_is_named(root, tmp_path, workers):
    config, data = setup(root, workers)
    broken = tmp_path / "broken.png"
    broken.write_bytes(data.test.paths[0].read_bytes()[:200])
    split = type(data.test)((broken, *data.test.paths[1:]), data.test.labels, data.test.rows)
    with pytest.raises(DataError) as error:
        list(eval_loader(split, data, config, batch_size=8, device="cpu"))
    assert str(error.value).startswith(f"{broken} cannot be read as an image (")
    assert "\n" not in str(error.value)


def test_evaluation_is_timms_own(root):
    from timm.data import create_transform

    config, data = setup(root, crop=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
    (batch,) = eval_loader(data.test, data, config, batch_size=8, device="cpu")
    timms = create_transform(24, crop_pct=0.9, interpolation="bicubic", mean=(0.5,) * 3, std=(0.25,) * 3)
    for image, path in zip(batch.image, data.test.paths, strict=True):
        with Image.open(path) as file:
            assert torch.allclose(image, timms(file), atol=1e-6)
        alone = load_image(path, 3, data.size, data.mean, data.std, data.resize, data.interpolation)
        assert torch.equal(image, alone)


def test_refuses_padding_for_large_images(root):
    with pytest.raises(ConfigError) as error:
        loader(root, AugmentConfig(crop_padding=4))
    assert str(error.value).replace(str(root), "PLACE") == (
        "augment.crop_padding=4 is for small images, and folder:PLACE has large ones; "
        "leave it null for random resized crops, or 0 for the central crop."
    )


def test_workers_leave_ctrl_c_to_the_main_process(root, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import os, signal\n"
        "from mfkd.config import DataConfig\n"
        "from mfkd.data import eval_loader, load_data\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, lambda *_: print('heard', flush=True))\n"
        f"    config = DataConfig(name='folder:{root}', image_size=24, workers=2)\n"
        "    data = load_data(config)\n"
        "    batches = eval_loader(data.train, data, config, batch_size=2, device='cpu')\n"
        "    for number, _ in enumerate(batches):\n"
        "        if number == 1:\n"  # by now both workers have begun
        "            os.killpg(0, signal.SIGINT)\n"
        "    print(sum(len(batch.label) for _ in range(3) for batch in batches))\n"
    )
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, check=False, start_new_session=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard\n36\n", "")


def test_workers_start_and_end_without_a_warning(root, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "from mfkd.config import AugmentConfig, DataConfig\n"
        "from mfkd.data import load_data, train_loader\n"
        "if __name__ == '__main__':\n"
        f"    config = DataConfig(name='folder:{root}', image_size=24, workers=1)\n"
        "    data = load_data(config)\n"
        "    batches = train_loader(data, config, AugmentConfig(), batch_size=4, seed=0, device='cpu').epoch(0)\n"
        "    print(next(batches).image.shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "torch.Size([4, 3, 24, 24])\n"
