import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from mfkd.config import AugmentConfig, DataConfig
from mfkd.data import eval_loader, load_data, stats, train_loader
from mfkd.errors import ConfigError, DataError, UnknownNameError


def test_digits_are_those_of_scikit_learn():
    data = load_data(DataConfig(name="digits"))
    raw = load_digits()
    assert (data.channels, data.size, data.num_rows) == (1, (8, 8), 1797)
    assert (data.crop_padding, data.flip, data.val) == (1, False, None)
    assert data.classes == tuple("0123456789")
    rows = torch.cat([data.train.rows, data.test.rows])
    assert rows.sort().values.tolist() == list(range(1797))
    for split in (data.train, data.test):
        assert np.allclose(split.images[:, 0].double() * 16 / 255, raw.images[split.rows], atol=0.04)
        assert split.labels.tolist() == raw.target[split.rows].tolist()
    assert len(data.test) == 450
    share = torch.bincount(data.test.labels) / torch.bincount(torch.from_numpy(raw.target))
    assert (share - 0.25).abs().max() < 0.01


def test_statistics_are_measured_where_none_are_published():
    data = load_data(DataConfig(name="digits"))
    values = data.train.images.double() / 255
    assert data.mean[0] == pytest.approx(values.mean().item(), abs=1e-6)
    assert data.std[0] == pytest.approx(values.std(correction=0).item(), abs=1e-6)


def test_a_constant_channel_has_deviation_one():
    from mfkd.data.sets import MemorySplit

    split = MemorySplit(torch.full((4, 1, 3, 3), 51, dtype=torch.uint8), torch.zeros(4), torch.arange(4))
    assert stats.measured(split) == ((0.2,), (1.0,))


def test_fraction_and_validation_touch_neither_test_nor_statistics():
    whole = load_data(DataConfig(name="digits"))
    part = load_data(DataConfig(name="digits", fraction=0.5, val_fraction=0.2, split_seed=4))
    assert torch.equal(whole.test.rows, part.test.rows)
    assert (whole.mean, whole.num_rows) == (part.mean, part.num_rows)
    assert (len(part.train), len(part.val)) == (537, 136)
    train, val = set(part.train.rows.tolist()), set(part.val.rows.tolist())
    assert not train & val
    assert train | val < set(whole.train.rows.tolist())
    labels = part.train_labels()
    assert labels.shape == (1797,)
    assert set((labels >= 0).nonzero()[:, 0].tolist()) == train


def test_the_test_split_of_digits_does_not_follow_the_split_seed():
    first, second = (load_data(DataConfig(name="digits", split_seed=seed)) for seed in (0, 1))
    assert torch.equal(first.test.rows, second.test.rows)


def test_resize_scales_every_split():
    data = load_data(DataConfig(name="digits", resize=16, val_fraction=0.1))
    assert data.size == (16, 16)
    assert {tuple(split.images.shape[1:]) for split in (data.train, data.val, data.test)} == {(1, 16, 16)}
    small = load_data(DataConfig(name="digits", val_fraction=0.1)).train.images[:5].double()
    assert torch.allclose(data.train.images[:5].double().mean((2, 3)), small.mean((2, 3)), atol=3)


def test_unlabelled_images_join_every_batch_draw(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, mode in enumerate(["RGB", "L", "RGBA", "CMYK", "P", "1"]):
        image = Image.new(mode, (20, 12), 255 if mode in "L1" else None)
        image.convert("RGB" if mode == "CMYK" else mode).save(tmp_path / "deep" / "er" / f"{number}.png")
    Image.new("CMYK", (9, 9)).save(tmp_path / "six.jpg")
    config = DataConfig(name="digits", fraction=0.05, unlabelled=str(tmp_path))
    data = load_data(config)
    assert data.train.labels[-7:].tolist() == [-1] * 7
    assert data.train.rows[-7:].tolist() == list(range(1797, 1804))
    assert data.num_rows == 1804
    assert data.train.images[-6].unique().tolist() == [255]  # the white grey one, after six.jpg is sorted last
    loader = train_loader(data, config, AugmentConfig(mixup=1.0), batch_size=len(data.train), seed=0, device="cpu")
    (batch,) = loader.epoch(0)
    assert int((batch.label == -1).sum()) == 7
    assert batch.target.sum().item() == pytest.approx(len(data.train) - 7, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"name": "cifar1000"},
            UnknownNameError,
            "unknown data set 'cifar1000'; did you mean cifar100 or cifar10? see data.name.",
        ),
        (
            {"name": "tar:x"},
            UnknownNameError,
            "unknown data set 'tar:x'; known: digits, cifar10, cifar100, fashion_mnist, "
            "folder:PATH, parquet:PATH, hf:NAME. see data.name.",
        ),
        (
            {"name": "folder:"},
            ConfigError,
            "data.name=folder: names no place; write what follows folder: after the colon.",
        ),
        *(
            (
                {"name": name, "label": "kind"},
                ConfigError,
                f"data.label=kind is for parquet and hf sets, {name} has one label an image; set data.label=null.",
            )
            for name in ("digits", "cifar10", "cifar100", "fashion_mnist", "folder:no/such")
        ),
        (
            {"name": "folder:no/such"},
            DataError,
            "folder no/such does not exist; give a folder with train/ and val/ or test/.",
        ),
        (
            {"name": "parquet:no/such"},
            DataError,
            "no parquet file at no/such; give a folder with train-*.parquet and test-*.parquet.",
        ),
        (
            {"name": "parquet:tests/**.parquet"},  # no pattern that Python takes
            DataError,
            "no parquet file at tests/**.parquet; give a folder with train-*.parquet and test-*.parquet.",
        ),
        (
            {"unlabelled": "no/such"},
            DataError,
            "data.unlabelled: folder no/such does not exist; give a folder that holds images.",
        ),
    ],
)
def test_refusals(options, kind, text):
    with pytest.raises(kind) as error:
        load_data(DataConfig(**options))
    assert str(error.value) == text


def test_an_empty_unlabelled_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data.unlabelled: .* holds no image; expected files such as .png or .jpg."):
        load_data(DataConfig(name="digits", unlabelled=str(tmp_path)))


class FakeTorchvision:
    """Stands for a torchvision data set that is already on disk."""

    def __init__(self, root, train, download):
        rng = np.random.default_rng(int(train))
        self.data = rng.integers(0, 256, (40 if train else 20, *self.shape), dtype=np.uint8)
        self.targets = [i % 10 for i in range(len(self.data))]
        self.classes = [f"c{i}" for i in range(10)]


@pytest.mark.parametrize(
    ("name", "kind", "shape", "mean", "padding"),
    [
        ("cifar10", "CIFAR10", (32, 32, 3), (0.4914, 0.4822, 0.4465), 4),
        ("cifar100", "CIFAR100", (32, 32, 3), (0.5071, 0.4867, 0.4408), 4),
        ("fashion_mnist", "FashionMNIST", (28, 28), (0.2860,), 2),
    ],
)
def test_torchvision_sets(monkeypatch, tmp_path, name, kind, shape, mean, padding):
    fake = type(kind, (FakeTorchvision,), {"shape": shape})
    monkeypatch.setattr(datasets, kind, fake)
    config = DataConfig(name=name, root=str(tmp_path))
    data = load_data(config)
    assert (data.mean, data.crop_padding, data.flip, data.num_rows) == (mean, padding, True, 40)
    assert data.size == shape[:2]
    raw = fake(None, False, True).data
    back = data.test.images[:, 0] if len(shape) == 2 else data.test.images.permute(0, 2, 3, 1)
    assert np.array_equal(back.numpy(), raw)
    (batch,) = eval_loader(data.test, data, config, batch_size=20, device="cpu")
    assert batch.label.tolist() == [i % 10 for i in range(20)]


def test_offline_says_how_to_get_the_data(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(DataError) as error:
        load_data(DataConfig(name="cifar10", root=str(tmp_path)))
    assert str(error.value) == (
        f"data set cifar10 is not in {tmp_path} and cannot be downloaded (<urlopen error [Errno -2] Name or service "
        f"not known>); put torchvision's files there (data.root), go online once, or use data.name=parquet:PATH."
    )


def test_figures_of_the_validation_images_leave_the_test_images_out():
    held = load_data(DataConfig(val_fraction=0.2))
    chosen = load_data(DataConfig(val_fraction=0.2, evaluate="val"))
    assert chosen.test.rows.tolist() == held.val.rows.tolist()
    assert chosen.val is None
    assert chosen.train.rows.tolist() == held.train.rows.tolist()


def test_figures_of_validation_images_need_some():
    with pytest.raises(ConfigError) as caught:
        load_data(DataConfig(evaluate="val"))
    assert str(caught.value) == (
        "data.evaluate=val needs validation images, and there are none; "
        "hold some out with data.val_fraction, such as 0.1."
    )


def test_folders_from_before_there_was_a_choice_of_split_go_on():
    assert "evaluate" not in DataConfig().model_dump(mode="json")  # so the hash of their settings is what it was
    assert DataConfig(evaluate="val").model_dump(mode="json")["evaluate"] == "val"
