import json
import os
import stat

import pytest

from mfkd.errors import MfkdError
from mfkd.files import read_json, sweep, write_atomic, write_csv, write_json, write_text


def test_writes_whole_files_and_makes_their_folder(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "grün\n")
    assert path.read_bytes() == "grün\n".encode()
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["text.txt"]


def test_others_may_read_what_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_failed_write_leaves_the_earlier_file_and_no_other(tmp_path):
    path = tmp_path / "x"
    write_text(path, "good")

    def full(file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(MfkdError) as caught:
        write_atomic(path, full)
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device; free space or choose another folder with out=."
    )
    with pytest.raises(KeyError):
        write_atomic(path, lambda file: {}["key"])
    assert path.read_text() == "good"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(MfkdError, match=r"cannot write .*x/y: .*; free space or choose another folder with out=\."):
        write_text(tmp_path / "x" / "y", "")


def test_json_round_trip_and_refusals(tmp_path):
    path = tmp_path / "run" / "value.json"
    with pytest.raises(MfkdError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path} does not exist; is {path.parent} a finished run folder?"
    value = {"a": [1, 2.5, None], "ü": {"b": "c"}}
    write_json(path, value)
    assert read_json(path) == value
    assert json.loads(path.read_text()) == value
    with pytest.raises(MfkdError) as caught:
        write_json(path, {"a": float("nan")})
    assert str(caught.value) == f"cannot write {path}: a value in it is NaN or infinite, which JSON cannot hold."
    assert read_json(path) == value
    path.write_text('{"a": ')
    with pytest.raises(MfkdError, match=rf"cannot read {path}: Expecting value: .*; delete it and run again\."):
        read_json(path)


def test_csv_has_every_column_and_leaves_what_lacks_empty(tmp_path):
    path = tmp_path / "log.csv"
    write_csv(path, [{"a": 1, "b": 0.1}, {"a": 2}], ["a", "b"])
    assert path.read_text() == "a,b\n1,0.1\n2,\n"


def test_sweep_takes_half_written_files_and_no_folders(tmp_path):
    """An export fills a folder of such a name, and may be at work there."""
    for name in (
        "a/.x.12.tmp",
        "export/.y.1.tmp",
        "a/x",
        ".lock",
        ".export.7.tmp/model.onnx",
        ".export.7.tmp/.z.7.tmp",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sweep(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/x", ".lock", ".export.7.tmp/model.onnx", ".export.7.tmp/.z.7.tmp"}
