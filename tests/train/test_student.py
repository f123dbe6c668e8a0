import json
from dataclasses import asdict, replace

import pytest
import torch

from mfkd import load_student
from mfkd.errors import CheckpointError
from mfkd.models import build_model
from mfkd.models.weights import save_weights
from mfkd.train.student import KEY, Card, load_with_card, read_card, save_student


def card(model="resnet8", classes=("a", "b", "ü"), channels=3, **values):
    return Card(model, classes, channels, (32, 32), (0.5,) * channels, (0.25,) * channels, **values)


@pytest.mark.parametrize(("model", "channels"), [("resnet8", 3), ("resnet8x4", 1), ("vgg8", 3), ("wrn_16_1", 1)])
def test_round_trip_of_every_family(tmp_path, model, channels):
    network = build_model(model, num_classes=3, in_channels=channels)
    network(torch.randn(8, channels, 32, 32))  # moves the statistics
    network.eval()
    save_student(tmp_path / "student.safetensors", network, card(model, channels=channels))
    image = torch.randn(2, channels, 32, 32)
    for place in (tmp_path, tmp_path / "student.safetensors"):
        loaded = load_student(place)
        assert not loaded.training
        assert torch.equal(loaded(image), network(image))


def test_options_travel_but_nothing_is_fetched_again(tmp_path, monkeypatch):
    name = "timm/resnet10t"
    network = build_model(name, num_classes=3, drop_rate=0.25).eval()
    save_student(tmp_path / "s.safetensors", network, card(name, options={"drop_rate": 0.25, "pretrained": True}))
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: pytest.fail("went to fetch weights"))
    loaded, told = load_with_card(tmp_path / "s.safetensors")
    assert loaded.drop_rate == 0.25
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(image), network(image))
    assert told == card(name, options={"drop_rate": 0.25, "pretrained": True})


def test_the_card_tells_how_to_feed_the_network(tmp_path):
    save_student(tmp_path / "teacher.safetensors", build_model("resnet8", num_classes=3), card())
    assert load_with_card(tmp_path)[1] == card()


@pytest.mark.parametrize(("size", "side"), [((96, 96), None), ((112, 112), 128), ((224, 224), 256)])
def test_a_card_from_before_the_side_was_kept_is_read_with_the_default_one(tmp_path, size, side):
    old = {**asdict(card()), "size": size}
    del old["side"]
    path = tmp_path / "student.safetensors"
    save_weights(path, build_model("resnet8", num_classes=3).state_dict(), {KEY: json.dumps(old)})
    assert read_card(path) == replace(card(), size=size, side=side)
    new = replace(card(), size=size, side=None)
    save_student(path, build_model("resnet8", num_classes=3), new)
    assert read_card(path) == new


def test_a_file_is_read_once(tmp_path, monkeypatch):
    from mfkd.models import files

    save_student(tmp_path / "student.safetensors", build_model("resnet8", num_classes=3), card())
    read, times = files._read_safetensors, []
    monkeypatch.setattr(files, "_read_safetensors", lambda path: (times.append(path), read(path))[1])
    load_with_card(tmp_path)
    assert times == [tmp_path / "student.safetensors"]
    assert read_card(tmp_path / "student.safetensors") == card()
    assert len(times) == 1


def test_refusals(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        load_student(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} holds no student.safetensors, teacher.safetensors or model.safetensors; is the run finished?"
    )
    with pytest.raises(CheckpointError, match=r"nowhere holds no student.safetensors, teacher"):
        load_student(tmp_path / "nowhere")
    foreign = tmp_path / "foreign.safetensors"
    save_weights(foreign, build_model("resnet8", num_classes=3).state_dict(), {"format": "pt"})
    assert read_card(foreign) is None
    with pytest.raises(CheckpointError) as caught:
        load_student(foreign)
    assert str(caught.value) == (
        f"{foreign} does not tell which network it is; give a run folder or a file written by mfkd."
    )
    (tmp_path / "student.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(CheckpointError, match="is damaged or holds no weights"):
        load_student(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "3", json.dumps({"model": "resnet8"}), json.dumps({"classes": 3})])
def test_a_damaged_card_is_refused(tmp_path, text):
    path = tmp_path / "s.safetensors"
    save_weights(path, build_model("resnet8", num_classes=3).state_dict(), {KEY: text})
    with pytest.raises(
        CheckpointError, match=r"s.safetensors: its description of the network cannot be read \(.*\); ex"
    ):
        load_student(path)
