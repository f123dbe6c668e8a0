import io
import json
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet as pq

from mfkd.config import DataConfig
from mfkd.data import FileSplit, MemorySplit, load_data
from mfkd.data.stats import CIFAR10, CIFAR100, IMAGENET
from mfkd.errors import ConfigError, DataError

CLASSES = ["ant", "bee", "cow"]


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def pictures(count, size=(10, 12), seed=0, channels=3):
    shape = (count, *size, channels) if channels == 3 else (count, *size)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write(path, images, labels, *, image="img", label="fine_label", classes=CLASSES, kind="PNG", more=None):
    columns = {image: [{"bytes": encoded(array, kind), "path": f"{i}.png"} for i, array in enumerate(images)]}
    columns |= {label: labels, **(more or {})}
    table = pa.table(columns)
    if classes is not None:
        features = {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path / "train-00000-of-00002.parquet",
        pictures(6, seed=0),
        [0, 1, 2, 0, 1, 2],
        more={"coarse_label": [0, 1] * 3},
    )
    write(tmp_path / "train-00001-of-00002.parquet", pictures(3, seed=1), [2, 1, 0], more={"coarse_label": [1, 1, 1]})
    write(tmp_path / "test-00000-of-00001.parquet", pictures(4, seed=2), [0, 1, 2, 2], more={"coarse_label": [0] * 4})
    return tmp_path


def load(place, **options):
    return load_data(DataConfig(name=f"parquet:{place}", **options))


def refusal(place, **options):
    with pytest.raises(DataError) as error:
        load(place, **options)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(place), "PLACE")


def test_images_and_labels_come_back_in_order(folder):
    data = load(folder)
    assert data.classes == tuple(CLASSES)
    assert (data.channels, data.size, data.num_rows) == (3, (10, 12), 9)
    assert isinstance(data.train, MemorySplit)
    expected = np.concatenate([pictures(6, seed=0), pictures(3, seed=1)])
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), expected)
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 2, 1, 0]
    assert data.train.rows.tolist() == list(range(9))
    assert data.test.labels.tolist() == [0, 1, 2, 2]
    assert data.val is None
    assert (data.crop_padding, data.flip) == (0, False)
    assert data.mean == pytest.approx((expected / 255).mean((0, 1, 2)), abs=1e-6)


def test_a_pattern_and_another_label_column(folder):
    data = load(folder / "t*-00000-of-*.parquet", label="coarse_label")
    assert data.classes == ("0", "1")  # numbers, as the table tells no names
    assert data.train.labels.tolist() == [0, 1] * 3


def test_webp_and_grey_images(tmp_path):
    for split in ("train", "validation"):
        images = pictures(4, channels=1)
        write(tmp_path / f"{split}-0.parquet", images, [0, 1, 2, 0], image="image", label="label")
    data = load(tmp_path)
    assert data.channels == 1
    assert np.array_equal(data.test.images[:, 0].numpy(), pictures(4, channels=1))
    write(tmp_path / "train-0.parquet", pictures(4), [0, 1, 2, 0], image="image", label="label", kind="WEBP")
    mixed = load(tmp_path)
    assert mixed.channels == 3
    assert np.array_equal(mixed.train.images.permute(0, 2, 3, 1).numpy(), pictures(4))
    assert torch.equal(mixed.test.images[:, 0], mixed.test.images[:, 2])


def test_a_validation_file_beside_a_test_file_is_the_validation_split(folder):
    write(folder / "validation-0.parquet", pictures(2, seed=5), [1, 0])
    data = load(folder)
    assert data.val.labels.tolist() == [1, 0]
    assert len(data.test) == 4
    held = load(folder, val_fraction=0.3)
    assert len(held.val) == 3
    assert len(held.train) == 6


def test_labels_may_be_texts(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", pictures(3), ["dog", "cat", "dog"], label="kind", classes=None)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [1, 0, 1]


def test_cifar_is_known_by_its_classes(tmp_path):
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", pictures(2, (32, 32)), [0, 9], label="label", classes=names)
    data = load(tmp_path)
    assert (data.mean, data.std) == CIFAR10
    assert (data.crop_padding, data.flip) == (4, True)
    assert CIFAR100[0] == (0.5071, 0.4867, 0.4408)


def test_small_images_of_unequal_size_need_resize(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [*pictures(2), *pictures(2, (20, 8))], [0, 1, 2, 1])
    assert load(tmp_path, resize=8).train.images.shape == (4, 3, 8, 8)
    assert refusal(tmp_path) == (
        "PLACE has small images of 2 sizes, the longest side 20 px; "
        "bring them to one with data.resize=20, or another size."
    )
    write(tmp_path / "test.parquet", pictures(2, (20, 97)), [0, 1])
    kept = load(tmp_path, image_size=16)
    assert isinstance(kept.train, FileSplit)
    assert (kept.size, kept.resize, kept.flip, (kept.mean, kept.std)) == ((16, 16), 18, True, IMAGENET)


def test_refuses_missing_columns_and_lists_those_there_are(tmp_path):
    write(tmp_path / "train.parquet", pictures(2), [0, 1], image="photo", classes=None)
    write(tmp_path / "test.parquet", pictures(2), [0, 1], image="photo", classes=None)
    assert refusal(tmp_path) == "PLACE has no column img or image; its columns are photo, fine_label."
    write(tmp_path / "train.parquet", pictures(2), [0, 1], label="a", classes=None, more={"b": [0, 1]})
    assert refusal(tmp_path) == "PLACE has no label column; its columns are img, a, b; choose one with data.label."
    assert (
        refusal(tmp_path, label="c") == "PLACE has no column c; its columns are img, a, b; choose one with data.label."
    )


@pytest.mark.parametrize("wrong", [3, -1, None])
def test_refuses_labels_outside_of_the_classes(folder, wrong):
    write(folder / "test-00000-of-00001.parquet", pictures(4), [0, 1, wrong, 2])
    assert refusal(folder) == (
        f"PLACE: fine_label of test row 2 is {wrong}, expected one of the 3 classes; correct the table."
    )


def test_refuses_a_single_class(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", pictures(2), [0, 0], classes=["ant"])
    assert refusal(tmp_path) == "PLACE has the one class ant; classification needs two or more."


def test_refuses_missing_splits(folder):
    (folder / "test-00000-of-00001.parquet").unlink()
    assert refusal(folder) == "PLACE needs a train split and a test or validation split, found train; name them so."
    for path in folder.glob("*.parquet"):
        path.rename(folder / f"x{path.name}")
    assert refusal(folder) == "PLACE needs a train split and a test or validation split, found none; name them so."


def test_refuses_an_unreadable_image_by_its_row(folder):
    table = pq.read_table(folder / "test-00000-of-00001.parquet")
    images = table.column("img").to_pylist()
    images[2]["bytes"] = images[2]["bytes"][:60]
    broken = table.set_column(0, "img", pa.array(images, type=table.schema.field("img").type))
    pq.write_table(broken, folder / "test-00000-of-00001.parquet")
    assert refusal(folder) == "PLACE test row 2 cannot be read as an image (not an image); repair or remove it."


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (None, "None"),
        (7, "7"),
        ("a.png", "'a.png'"),
        ([1, 2], "[1, 2]"),
        ({"bytes": None, "path": None}, "{'bytes': None, 'path': None}"),
        ({"bytes": 7, "path": "a.png"}, "{'bytes': 7, 'path': 'a.png'}"),
    ],
)
def test_refuses_what_is_no_image_by_its_row(folder, value, told):
    pq.write_table(
        pa.table({"img": [value, value], "fine_label": [0, 1]}), folder / "validation-00000-of-00001.parquet"
    )
    assert refusal(folder) == (
        f"PLACE: img of val row 0 is {told}, expected the bytes or the path of an image; correct the table."
    )


def test_refuses_a_missing_image_among_others(folder):
    table = pa.table({"img": [encoded(pictures(1)[0]), None], "fine_label": [0, 1]})
    pq.write_table(table, folder / "test-00000-of-00001.parquet")
    assert refusal(folder).startswith("PLACE: img of test row 1 is None, expected the bytes or the path of an image;")


def test_an_image_may_be_a_path_beside_the_table(folder):
    (folder / "one.png").write_bytes(encoded(pictures(1)[0]))
    table = pa.table({"img": [{"bytes": None, "path": "one.png"}], "fine_label": [2]})
    pq.write_table(table, folder / "test-00000-of-00001.parquet")
    assert np.array_equal(load(folder).test.images[0].permute(1, 2, 0).numpy(), pictures(1)[0])


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_refuses_labels_that_are_lists(tmp_path, classes):
    write(tmp_path / "train.parquet", pictures(2), [[0, 1], [2]], classes=classes)
    write(tmp_path / "test.parquet", pictures(2), [[1, 0], [2]], classes=classes)
    assert refusal(tmp_path) == (
        "PLACE: fine_label of test row 0 is [1, 0], expected one class; choose another column with data.label."
    )


def test_refuses_negative_labels_without_names(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", pictures(2), [-2, -1], classes=None)
    assert refusal(tmp_path) == "PLACE has the one class 0; classification needs two or more."


@pytest.mark.parametrize(
    "text",
    [
        "{broken",
        "[]",
        "3",
        '{"info": null}',
        '{"info": {"features": [1]}}',
        '{"info": {"features": {"fine_label": 3, "img": null}}}',
        '{"info": {"features": {"fine_label": {"names": 5}}}}',
        '{"info": {"features": {"fine_label": {"names": [1, 2]}}}}',
        '{"info": {"features": {"other": {"names": 5}}}}',
    ],
)
def test_broken_metadata_count_as_none(tmp_path, text):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", pictures(3), [0, 1, 2], classes=None)
        table = pq.read_table(tmp_path / f"{split}.parquet")
        pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / f"{split}.parquet")
    assert load(tmp_path).classes == ("0", "1", "2")


def test_refuses_a_damaged_file(folder):
    (folder / "train-00000-of-00002.parquet").write_bytes(b"PAR1 nothing PAR1")
    assert refusal(folder).startswith("PLACE holds a damaged parquet file (")


def test_refuses_an_empty_split(folder):
    write(folder / "test-00000-of-00001.parquet", [], [], image="img")
    assert "holds" in refusal(folder)


def test_hub_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError) as error:
        load_data(DataConfig(name="hf:mnist"))
    assert str(error.value) == "data.name=hf:mnist needs the package datasets; run `pip install mfkd[hf]`."


class Part:
    """A split as the package `datasets` returns it, over an arrow table."""

    def __init__(self, table):
        self.table = table
        image = type("Image", (), {})()
        self.features = {"image": image, "label": SimpleNamespace(names=CLASSES), "note": SimpleNamespace()}

    def select_columns(self, names):
        return Part(self.table.select(names))

    def with_format(self, kind):
        assert kind == "arrow"
        return self.table


def test_hub_sets_are_read_as_tables(monkeypatch):
    def part(count):
        images = [{"bytes": encoded(array), "path": None} for array in pictures(count)]
        return Part(pa.table({"image": images, "label": [i % 3 for i in range(count)], "note": ["n"] * count}))

    hub = ModuleType("datasets")
    hub.load_dataset = lambda name: {"train": part(6), "test": part(3), "extra": part(1)} if name == "a/b" else 1 / 0
    monkeypatch.setitem(sys.modules, "datasets", hub)
    data = load_data(DataConfig(name="hf:a/b"))
    assert data.classes == tuple(CLASSES)
    assert np.array_equal(data.train.images.permute(0, 2, 3, 1).numpy(), pictures(6))
    assert data.test.labels.tolist() == [0, 1, 2]


def test_hub_sets_that_cannot_be_loaded(monkeypatch):
    def missing(name):
        raise FileNotFoundError(f"Couldn't find\nany data at {name}")

    hub = ModuleType("datasets")
    hub.load_dataset, hub.exceptions = missing, SimpleNamespace(DatasetsError=RuntimeError)
    monkeypatch.setitem(sys.modules, "datasets", hub)
    with pytest.raises(DataError) as error:
        load_data(DataConfig(name="hf:a/b"))
    assert str(error.value) == "data set a/b cannot be loaded (Couldn't find any data at a/b)."


def test_the_cause_is_told_where_the_real_package_fails(folder, monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    (folder / "test-00000-of-00001.parquet").write_bytes(b"PAR1junk")
    with pytest.raises(DataError) as error:
        load_data(DataConfig(name=f"hf:{folder}"))
    told = f"data set {folder} cannot be loaded (An error occurred while generating the dataset: "
    assert str(error.value).startswith(told)
    assert "Parquet" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_real_package_reads_a_local_folder(folder, monkeypatch, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    data = load_data(DataConfig(name=f"hf:{folder}"))
    assert data.classes == tuple(CLASSES)
    assert np.array_equal(data.test.images.permute(0, 2, 3, 1).numpy(), pictures(4, seed=2))
