"""Every kind of bad parquet files, with their labels, columns and images."""

import json

import pyarrow as pa
import pytest
from pyarrow import parquet as pq

from refusals.spoilt import BROKEN, bomb, encoded


def table(place, split="train", labels=None, images=None, column="label"):
    images = [encoded(number) for number in range(4)] if images is None else images
    labels = [0, 1, 0, 1] if labels is None else labels
    columns = {"image": pa.array(images), **({column: pa.array(labels)} if column else {})}
    pq.write_table(pa.table(columns), place / f"{split}-0.parquet")


TABLES = {
    "no label column": (
        {"column": ""},
        "table has no label column; its columns are image; choose one with data.label.",
    ),
    "another label column": (
        {},
        "table has no column kind; its columns are image, label; choose one with data.label.",
        "data.label=kind",
    ),
    "no image column": (
        {"images": [1, 2, 3, 4]},
        "table: image of train row 0 is 1, expected the bytes or the path of an image; correct the table.",
    ),
    "a label below the classes": (
        {"labels": [0, -1, 0, 1]},
        "table: label of train row 1 is -1, expected one of the 2 classes; correct the table.",
    ),
    "a missing label": (
        {"labels": [0, 1, None, 1]},
        "table: label of train row 2 is None, expected one of the 2 classes; correct the table.",
    ),
    "labels that are lists": (
        {"labels": [[0], [1], [0], [1]]},
        "table: label of train row 0 is [0], expected one class; choose another column with data.label.",
    ),
    "one class": (
        {"labels": ["cat"] * 4},
        "table has the one class cat; classification needs two or more.",
    ),
    "a label that only the test images have": (
        {"labels": ["a", "b", "a", "b"]},
        "table: label of test row 0 is 0, expected one of the 2 classes; correct the table.",
    ),
    "zero bytes": (
        {"images": [b"", *(encoded(n) for n in range(3))]},
        f"table train row 0 cannot be read as an image (not an image){BROKEN}",
    ),
    "truncated": (
        {"images": [*(encoded(n) for n in range(3)), encoded(3)[:100]]},
        f"table train row 3 cannot be read as an image (not an image){BROKEN}",
    ),
    "decompression bomb": (
        {"images": [bomb(), *(encoded(n) for n in range(3))]},
        "table train row 0 cannot be read as an image (Image size (3600000000 pixels) exceeds limit of 178956970 "
        f"pixels, could be decompression bomb DOS attack.){BROKEN}",
    ),
    "a path out of the folder": (
        {"images": [{"bytes": None, "path": "../secret.png"}] * 4},
        "table: image of train row 0 is '../secret.png', which leads out of the folder of the table; put the image "
        "beside it.",
    ),
    "an absolute path": (
        {"images": [{"bytes": None, "path": "/etc/hosts.png"}] * 4},
        "table: image of train row 0 is '/etc/hosts.png', which leads out of the folder of the table; put the image "
        "beside it.",
    ),
    "a path to nothing": (
        {"images": [{"bytes": None, "path": "gone.png"}] * 4},
        "table/gone.png cannot be read as an image ([Errno 2] No such file or directory: 'the file')" + BROKEN,
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table_of_images(case, place, refused):
    spoilt, text, *more = TABLES[case]
    (place / "table").mkdir()
    table(place / "table", **spoilt)
    table(place / "table", "test")
    assert refused("run", "data.name=parquet:table", "train.batch_size=4", *more) == text


def test_a_damaged_table(place, refused):
    (place / "table").mkdir()
    for split in ("train", "test"):
        (place / "table" / f"{split}.parquet").write_bytes(b"PAR1 and nothing more")
    told = refused("run", "data.name=parquet:table")
    assert told.startswith("table holds a damaged parquet file (")
    assert told.endswith("); copy it anew.")
    (place / "table" / "test.parquet").rename(place / "table" / "tset.parquet")
    assert refused("run", "data.name=parquet:table") == (
        "table needs a train split and a test or validation split, found train; name them so."
    )


def test_columns_and_classes_that_differ_between_files(place, refused):
    (place / "table").mkdir()
    table(place / "table")
    table(place / "table", "test", column="kind")
    assert refused("run", "data.name=parquet:table") == (
        "table/test-0.parquet has no column label, as other files have; its columns are image, kind."
    )
    for split, names in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        told = {"info": {"features": {"image": {"_type": "Image"}, "label": {"names": names}}}}
        columns = pa.table({"image": [encoded(n) for n in range(4)], "label": [0, 1, 0, 1]})
        path = place / "table" / f"{split}-0.parquet"
        pq.write_table(columns.replace_schema_metadata({"huggingface": json.dumps(told)}), path)
    assert refused("run", "data.name=parquet:table") == (
        "table/test-0.parquet differs from the training images in the order of its classes; give both the same."
    )
