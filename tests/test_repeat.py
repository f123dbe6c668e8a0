"""Repeating a run from its folder."""

import json

import pytest
import torch

from mfkd.config import load_config
from mfkd.errors import ConfigError
from mfkd.files import read_json, write_json
from mfkd.models.weights import read_weights, save_weights
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.repeat import compare, digest, recipe_of
from mfkd.train import cost

TINY = (
    "data.name=digits", "data.fraction=0.1", "teacher.model=resnet8", "student.model=resnet8", "train.epochs=1",
    "train.batch_size=32", "log.trackers=[]", "teacher.train.epochs=1", "train.compile=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("first") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "SECONDS", 0.0)
        run(open_plan(load_config(None, [*TINY, f"out={folder}"])), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def again(first):
    """Its repetition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "SECONDS", 0.0)
        config = recipe_of(first, ["data.workers=0", "checkpoint.every_steps=1"])
        run(open_plan(config), lambda _: None)
    return first.with_name("run-again")


def test_the_same_comes_out_beside_it(first, again):
    found = compare(first, again, [0])
    assert found["identical"]
    assert [(one["kind"], one["seed"]) for one in found["students"]] == [("alone", 0), ("distilled", 0)]
    assert all(one["first"] == one["second"] != "" for one in found["students"])
    assert found["differences"] == []
    for kind in ("alone", "distilled"):
        name = f"{kind}/seed-0/student.safetensors"
        assert (first / name).read_bytes() == (again / name).read_bytes()


def test_one_changed_weight_and_another_version_are_told(first, again):
    path, record = (again / "distilled" / "seed-0" / name for name in ("student.safetensors", "record.json"))
    kept, old = path.read_bytes(), read_json(record)
    state, metadata = read_weights(path)
    state["fc.bias"] = torch.nextafter(state["fc.bias"], torch.tensor(9.0))
    save_weights(path, state, metadata)
    new = json.loads(json.dumps(old))
    new["environment"]["versions"]["torch"] = "9.9"
    new["processes"] = 2
    write_json(record, new)
    found = compare(first, again, [0])
    path.write_bytes(kept)
    write_json(record, old)
    assert not found["identical"]
    assert [one["first"] == one["second"] for one in found["students"]] == [True, False]
    torch_version = old["environment"]["versions"]["torch"]
    assert sorted(found["differences"]) == [["processes", 1, 2], ["torch", torch_version, "9.9"]]


def test_the_digest_is_over_names_types_and_values_and_not_over_texts(tmp_path):
    path = tmp_path / "x.safetensors"
    found = set()
    for state in (
        {"a": torch.zeros(4)}, {"b": torch.zeros(4)}, {"a": torch.zeros(2, 2)}, {"a": torch.zeros(4).int()},
        {"a": torch.ones(4)},
    ):  # fmt: skip
        save_weights(path, state, {})
        found.add(digest(path))
        save_weights(path, state, {"told": "otherwise"})
        found.add(digest(path))
    assert len(found) == 5


def test_equal_weights_and_texts_are_equal_files(tmp_path):
    texts = {f"key {number} ü": f'value "{number}"' for number in range(9)}
    contents = set()
    for number in range(4):
        save_weights(tmp_path / "x.safetensors", {"a": torch.ones(3), "b": torch.zeros(2).half()}, texts)
        contents.add((tmp_path / "x.safetensors").read_bytes())
        assert read_weights(tmp_path / "x.safetensors")[1] == texts, number
    assert len(contents) == 1


def test_what_is_no_repetition_is_refused(first, tmp_path):
    with pytest.raises(ConfigError) as caught:
        recipe_of(tmp_path)
    assert str(caught.value) == (
        f"--from {tmp_path}: no finished run is there; give a run folder with its summary.json."
    )
    for override, told in (
        ("train.lr=0.3", "train.lr is 0.05 there and 0.3"),
        ("seeds=[1]", "seeds is [0] there and [1]"),
    ):
        with pytest.raises(ConfigError) as caught:
            recipe_of(first, [override])
        assert str(caught.value) == f"--from repeats a run as it was: {told} here; leave it out."
    with pytest.raises(ConfigError) as caught:
        recipe_of(first, [f"out={first}/../run"])
    assert str(caught.value) == (f"--from {first}: the repetition needs a folder of its own; choose another with out=.")
