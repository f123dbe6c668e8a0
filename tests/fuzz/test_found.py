"""What fuzzing and looking for it has found, each as a case of its own with its message."""

import json
from dataclasses import asdict

import pytest
import torch

from mfkd.bench.cell import Cell
from mfkd.bench.collect import collect
from mfkd.bench.plan import load_bench
from mfkd.bench.run import FILE, read_bench
from mfkd.config import RunConfig, load_config
from mfkd.errors import CacheError, CheckpointError, MfkdError, UnknownNameError, brief, cut
from mfkd.files import read_json, read_object
from mfkd.models import build_model
from mfkd.models.weights import read_metadata, read_weights, save_weights
from mfkd.plain import parse
from mfkd.records import RunRecord
from mfkd.teacher.manifest import FORMAT, MANIFEST, Manifest, digest, read_manifest
from mfkd.teacher.writing import begin, remove
from mfkd.train.checkpoint import fitting
from mfkd.train.job import State
from mfkd.train.snapshot import check_progress
from mfkd.train.student import KEY, Card, load_with_card, read_card, save_student

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10))
MERGED = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB, "found more than 262,144 characters once its aliases are written out in"),
        (MERGED, "found more than 262,144 characters once its aliases are written out in"),
        ("a: &a [*a]", "found something that contains itself in"),
        ("a: " + "[" * 50 + "]" * 50, "found values nested more than 40 deep in"),
        ("a: " + "[" * 5000, "nested more than 40 deep"),
        ("x" * 300_000, "300,000 characters, expected at most 262,144"),
        ("a: 1\nb: 2\na: 3", "found the key 'a' twice in"),
        ("[1]: 2", "found a key that is no text in"),
        ("a: 9223372036854775808", "found a whole number of more than 63 bits in"),
        (f"a: {'9' * 5000}", "ValueError: Exceeds the limit"),
        ('"\\ud800"', "found text with a character that no file can hold in"),
        ('"\\0"', "found text with a character that no file can hold in"),
        ("!!int x", "ValueError: invalid literal"),
        ("!!bool x", "KeyError: 'x'"),
        ("!!float []", "expected a scalar node, but found sequence in"),
        ("!!set {a}", "could not determine a constructor for the tag 'tag:yaml.org,2002:set' in"),
        ("!!python/name:os.system", "could not determine a constructor for the tag"),
    ],
)
def test_yaml_beyond_plain_values_is_refused_in_a_line(text, reason):
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


def test_plain_yaml_is_read_as_ever():
    text = "a: &x {b: [1, -2.5, true, null, 2020-01-01, 2024-13-45]}\nc: {<<: *x, d: 'é'}\ne: 9223372036854775807"
    b = [1, -2.5, True, None, "2020-01-01", "2024-13-45"]
    assert parse(text) == {"a": {"b": b}, "c": {"b": b, "d": "é"}, "e": 2**63 - 1}
    assert parse("") is None


def test_a_long_value_is_told_in_short():
    assert brief("x") == "'x'"
    assert len(cut("x" * 301)) == 295
    assert cut("x" * 300) == "x" * 300
    for overrides in (
        ["train.lr=" + "x" * 9000],
        ["student.head=" + "x" * 9000],
        [f"{'x' * 9000}=1"],
        ["=" + "x" * 9000],
    ):
        with pytest.raises(MfkdError) as caught:
            load_config(None, overrides)
        assert len(str(caught.value)) < 800
    assert len(str(UnknownNameError("key", "x" * 9000, ["y"]))) < 400


def test_a_key_that_nobody_types_is_refused():
    for key in ("a." * 60 + "a", "student.options.\udc80", "a\nb"):
        with pytest.raises(MfkdError, match="is not of the form key=value"):
            load_config(None, [f"{key}=1"])


def test_a_recipe_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "r.yaml").symlink_to("r.yaml")
    with pytest.raises(MfkdError, match=r"r.yaml cannot be read: Too many levels of symbolic links; check its perm"):
        from mfkd.overrides import read_yaml

        read_yaml(tmp_path / "r.yaml")


@pytest.mark.parametrize(("key", "value"), [("teacher", True), ("teacher", [3]), ("data", "digits"), ("cache", [1])])
def test_a_base_whose_sections_are_no_mappings_is_refused(key, value):
    with pytest.raises(MfkdError) as caught:
        load_bench({"base": {key: value}, "methods": ["kd"]})
    assert str(caught.value) == f"base: base.{key}: got {value!r}, expected a mapping of keys."


def test_a_json_file_of_brackets_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    with pytest.raises(MfkdError, match=f"cannot read {path}: maximum recursion depth"):
        read_json(path)


def test_an_object_without_its_keys_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_object(path, "a") == {"a": 1}
    with pytest.raises(MfkdError) as caught:
        read_object(path, "a", "b")
    assert str(caught.value) == f"{path} was not written by mfkd (it has no b); delete it and run again."
    path.write_text("[1]")
    with pytest.raises(MfkdError) as caught:
        read_object(path)
    assert str(caught.value) == f"{path} was not written by mfkd (it is no mapping); delete it and run again."


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.arange(64.0), "b": torch.ones(3, dtype=torch.int64)}, {"model": "x", "note": "ü"})
    return path


def test_every_flipped_bit_of_a_tensor_is_noticed(weights):
    content = weights.read_bytes()
    begun = 8 + int.from_bytes(content[:8], "little")
    for at in range(begun, len(content), 7):
        weights.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with pytest.raises(CheckpointError) as caught:
            read_weights(weights)
        assert str(caught.value) == (f"weights file {weights} is damaged (its checksum does not hold); fetch it again.")


def test_a_changed_text_or_name_is_noticed_and_the_seal_is_not_shown(weights):
    content = weights.read_bytes()
    for old, new in ((b'"model":"x"', b'"model":"y"'), (b'"a":', b'"c":')):
        assert old in content
        weights.write_bytes(content.replace(old, new))
        with pytest.raises(CheckpointError, match="its checksum does not hold"):
            read_weights(weights)
    weights.write_bytes(content)
    assert read_weights(weights)[1] == read_metadata(weights) == {"model": "x", "note": "ü"}
    again = weights.with_name("again.safetensors")
    save_weights(again, *read_weights(weights))
    assert again.read_bytes() == content


CARD = Card("resnet8", ("a", "b"), 1, (8, 8), (0.5,), (0.2,))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": 5}, "model: Input should be a valid string"),
        ({"channels": 10**9}, "channels, mean, std, classes and size do not go together"),
        ({"classes": []}, "channels, mean, std, classes and size do not go together"),
        ({"size": [8]}, "size.1: Field required"),
        ({"options": 3}, "options: Input should be a valid dictionary"),
        ({"projection": 3}, "'int' object is not subscriptable"),
    ],
)
def test_a_card_of_other_types_is_refused(tmp_path, changes, reason):
    path = tmp_path / "student.safetensors"
    save_weights(path, {"a": torch.ones(1)}, {KEY: json.dumps({**asdict(CARD), **changes})})
    with pytest.raises(CheckpointError) as caught:
        read_card(path)
    assert str(caught.value) == f"{path}: its description of the network cannot be read ({reason}); export it again."


def test_a_projection_larger_than_its_file_takes_no_memory(tmp_path):
    path = tmp_path / "student.safetensors"
    tap = {"name": "bottom", "path": "x", "channels": 64, "stride": 4}
    huge = {"tap": tap, "head": None, "size": [2, 2], "hidden": 10**6, "width": 8, "classes": 2, "bias": True}
    save_weights(path, {"a": torch.ones(1)}, {KEY: json.dumps({**asdict(CARD), "projection": huge})})
    with pytest.raises(CheckpointError, match=r"cannot be read \(the projection is larger than the file\); export"):
        load_with_card(path)


def test_a_card_as_it_is_written_is_read(tmp_path):
    path = tmp_path / "student.safetensors"
    save_student(path, build_model("resnet8", num_classes=2, in_channels=1), CARD)
    assert load_with_card(path)[1] == CARD


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epoch": "x"}, "ValueError: epoch: Input should be a valid integer"),
        ({"epoch": 4}, "epoch 4 of 3, step 0"),
        ({"step": -1}, "epoch 0 of 3, step -1 of 4"),
        ({"step": 4}, "epoch 0 of 3, step 4 of 4"),
        ({"rows": [{"seconds": 1.0}]}, "1 rows in the log of 0 epochs"),
        ({"epoch": 1, "rows": [{"loss": 1.0}]}, "1 rows in the log of 1 epochs"),
        ({"step": 1}, "no sums of the epoch so far"),
        ({"meter": {"sums": {"loss": torch.ones(2)}}}, "a sum that is no single number"),
        ({"meter": {"sums": {"loss": 1}}}, "meter.sums.loss: Input should be an instance of Tensor"),
    ],
)
def test_a_checkpoint_with_an_impossible_state_is_refused(tmp_path, changes, reason):
    path = tmp_path / "checkpoints" / "last.pt"
    with pytest.raises(CheckpointError) as caught, fitting(path):
        check_progress({**asdict(State()), **changes}, 3, 4)
    told = reason.removeprefix("ValueError: ")
    assert str(caught.value).startswith(f"checkpoint {path} does not belong to this training ({told}")


def test_a_state_as_it_is_saved_is_taken():
    sums = {name: torch.tensor(1.0) for name in ("loss", "parts", "right", "labelled")}
    rows = [{"epoch": 2, "seconds": 0.5}]
    check_progress({**asdict(State(2, 1, rows, prepared_epochs=1)), "meter": {"sums": sums}}, 3, 4)


FIELDS = {"views": 1, "storage": "float16", "data": {"images": 3}, "tensors": {"a": {"shape": [2]}}}


def manifest(folder, **changes):
    values = {**vars(Manifest(FIELDS)), **changes}
    values = {"format": FORMAT, **values, "digest": digest(json.dumps(values).encode())}
    (folder / MANIFEST).write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fields": 3}, "fields: Input should be a valid dictionary"),
        ({"fields": {**FIELDS, "views": 0}}, "views: Input should be greater than 0"),
        (
            {"fields": {**FIELDS, "tensors": {}}},
            "tensors: Dictionary should have at least 1 item after validation, not 0",
        ),
        ({"fields": {**FIELDS, "storage": "int8"}}, "storage: Input should be 'float16', 'bfloat16' or 'float32'"),
        ({"chunk": 0}, "chunk: Input should be greater than 0"),
        ({"other": 1}, "other keys"),
    ],
)
def test_a_manifest_with_impossible_values_is_refused(tmp_path, changes, reason):
    with pytest.raises(CacheError) as caught:
        read_manifest(manifest(tmp_path, **changes))
    assert str(caught.value) == (
        f"knowledge cache {tmp_path} is damaged: manifest.json does not say what it holds ({reason}); "
        f"remove it with `mfkd cache remove {tmp_path}` and build it anew."
    )
    assert read_manifest(manifest(tmp_path)).views == 1


@pytest.mark.parametrize("step", [remove, lambda folder: begin(folder, Manifest(FIELDS))])
def test_a_folder_in_the_place_of_a_file_of_a_cache_is_refused(tmp_path, step):
    (manifest(tmp_path) / "0.bin").mkdir()
    with pytest.raises(CacheError) as caught:
        step(tmp_path)
    text = f"knowledge cache {tmp_path}: 0.bin is a folder, which no cache has; remove it."
    assert str(caught.value) == text


NO_STUDENT = "is no record of a finished student ({}); run it again."
UNLIKE = "cannot be compared ({}: Field required); run it again, or leave it out."


def record(**changes):
    config = RunConfig().model_dump(mode="json")
    values = {"metrics": {"top1": 1.0}, "best": {"test_top1": 1.0}, "config": config, "training": config["train"]}
    return RunRecord(kind="alone", config_hash="", seed=0, **{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"metrics": {}}, NO_STUDENT.format("metrics.top1 is None")),
        ({"best": {"test_top1": float("nan")}}, NO_STUDENT.format("best.test_top1 is nan")),
        ({"config": {}}, UNLIKE.format("config.data")),
        ({"training": {"epochs": 1}}, UNLIKE.format("training.batch_size")),
    ],
)
def test_a_record_that_cannot_be_compared_is_refused(tmp_path, changes, reason):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(record(**changes).model_dump(mode="python")))
    with pytest.raises(MfkdError) as caught:
        collect([tmp_path])
    assert str(caught.value) == f"{path} {reason}"


def test_a_bench_of_other_types_is_refused(tmp_path):
    (tmp_path / FILE).write_text(
        json.dumps({"methods": ["kd"], "family": [], "kd": "kd", "cells": [{"kind": "alone"}]})
    )
    with pytest.raises(MfkdError) as caught:
        read_bench(tmp_path)
    path = tmp_path / FILE
    assert (
        str(caught.value) == f"{path} cannot be compared (cells.0.pair: Field required); run it again, or leave it out."
    )


def test_a_comparison_of_long_names_is_refused_in_a_line(tmp_path):
    for name in ("a", "b"):
        config = {**record().config, "data": {**record().config["data"], "name": name * 9000}}
        path = tmp_path / f"{name}.record.json"
        path.write_text(json.dumps(record(config=config).model_dump(mode="json")))
    with pytest.raises(MfkdError, match=r"unlike things: data\.name is 'aaaa") as caught:
        collect([tmp_path])
    assert len(str(caught.value)) < 1500


def test_an_error_file_of_a_cell_that_is_damaged_is_refused(tmp_path):
    cell = Cell(kind="alone", pair="p", method="none", seed=0, config=RunConfig(out=str(tmp_path)))
    cell.folder.mkdir(parents=True)
    cell.error.write_text("[]")
    with pytest.raises(MfkdError, match=r"error.json was not written by mfkd \(it is no mapping\)"):
        _ = cell.failure
