"""A teacher from the recipe: whose classes, whose statistics."""

from dataclasses import replace

import pytest
import torch

from mfkd.config import DataConfig, TeacherConfig
from mfkd.data import ImageData, MemorySplit, load_data
from mfkd.errors import CheckpointError, ConfigError
from mfkd.models import build_model
from mfkd.models.weights import read_weights, save_weights
from mfkd.teacher.load import is_ready, load_teacher
from mfkd.train.student import Card, save_student

DIGITS = tuple("0123456789")


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig())


def written(path, classes, mean=(0.5,), std=(0.25,)):
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=len(classes), in_channels=1)
    save_student(path, network, Card("resnet8", tuple(classes), 1, (8, 8), mean, std))
    return TeacherConfig(model="resnet8", weights=str(path))


def test_same_classes_and_the_statistics_of_the_file(tmp_path, data):
    teacher = load_teacher(written(tmp_path / "t.safetensors", data.classes), data)
    assert teacher.count_classes((1, 8, 8)) == 10
    image = torch.randn(2, 1, 8, 8)
    raw = image * data.std[0] + data.mean[0]
    assert torch.allclose(teacher.logits(image), teacher.network((raw - 0.5) / 0.25), atol=1e-5)


def test_another_number_of_classes_is_read_from_the_file(tmp_path, data):
    teacher = load_teacher(written(tmp_path / "t.safetensors", "abc"), data)
    assert teacher.count_classes((1, 8, 8)) == 3


def test_as_many_other_classes_are_refused(tmp_path, data):
    classes = list(data.classes)
    classes[3] = "cat"
    config = written(tmp_path / "t.safetensors", classes)
    with pytest.raises(ConfigError) as refusal:
        load_teacher(config, data)
    assert str(refusal.value) == (
        f"teacher {tmp_path / 't.safetensors'} has other classes than the data (number 3 is 'cat', not '3'); "
        "use teacher.head=tune, or data with the teacher's classes."
    )
    assert load_teacher(config.model_copy(update={"head": "tune"}), data).count_classes((1, 8, 8)) == 10


def test_colour_statistics_are_averaged_for_grey_images(tmp_path, data):
    config = written(tmp_path / "t.safetensors", data.classes).model_copy(
        update={"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3)}
    )
    teacher = load_teacher(config, data)
    image = torch.randn(2, 1, 8, 8)
    raw = image * data.std[0] + data.mean[0]
    assert torch.allclose(teacher.logits(image), teacher.network((raw - 0.4) / 0.2), atol=1e-5)


def test_a_file_without_a_head_serves_a_teacher_whose_head_is_tuned(tmp_path, data):
    config = written(tmp_path / "t", data.classes)
    state, _ = read_weights(tmp_path / "t")
    save_weights(tmp_path / "t", {name: tensor for name, tensor in state.items() if not name.startswith("fc.")})
    with pytest.raises(CheckpointError, match=r"have no head, expected 10 classes; use teacher\.head=tune to fit"):
        load_teacher(config, data)
    tuned = load_teacher(config.model_copy(update={"head": "tune"}), data)
    assert torch.equal(tuned.network.conv1.weight, state["conv1.weight"])


def test_a_pretrained_torchvision_teacher_gets_images_normalised_as_its_weights_say(monkeypatch):
    from torchvision.models import ResNet18_Weights

    stored = build_model("torchvision/resnet18", num_classes=None).state_dict()
    monkeypatch.setattr(type(ResNet18_Weights.DEFAULT), "get_state_dict", lambda self, **_: stored)
    config = TeacherConfig(model="torchvision/resnet18", options={"pretrained": True})
    teacher = load_teacher(config, colour_images((32, 32)))
    raw = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # ImageNet's
    found = teacher.logits((raw - 0.5) / 0.5)
    assert torch.allclose(found, teacher.network((raw - mean) / std), atol=1e-4)
    assert not torch.allclose(found, teacher.network((raw - 0.5) / 0.5), atol=1e-2)


def colour_images(size):
    split = MemorySplit(torch.zeros(2, 3, *size, dtype=torch.uint8), torch.arange(2), torch.arange(2))
    half = (0.5,) * 3
    return ImageData("made", ("a", "b"), 3, size, half, half, 0, False, split, None, split, 2)


@pytest.mark.parametrize(
    ("name", "options"), [("timm/vit_tiny_patch16_224", {"depth": 1}), ("torchvision/vit_b_32", {})]
)
def test_a_teacher_from_a_file_that_takes_one_size_alone_gets_it(tmp_path, name, options):
    torch.save(build_model(name, 2, **options).state_dict(), tmp_path / "t.pth")
    config = TeacherConfig(model=name, options=options, weights=str(tmp_path / "t.pth"))
    teacher = load_teacher(config, colour_images((64, 64)))
    assert teacher.logits(torch.zeros(1, 3, 64, 64)).shape == (1, 2)
    assert teacher.image_size == 224
    assert load_teacher(config.model_copy(update={"image_size": 96}), colour_images((64, 64))).image_size == 96
    assert load_teacher(config, colour_images((224, 224))).image_size is None  # nothing to do


@pytest.mark.parametrize(("size", "expected"), [((48, 48), 48), ((32, 32), None), ((48, 64), None)])
def test_a_teacher_of_ours_gets_the_size_that_it_learnt_with(tmp_path, size, expected):
    name = "timm/xcit_nano_12_p8_224"  # said to take one size alone, and takes any
    network = build_model(name, 2)
    save_student(tmp_path / "t", network, Card(name, ("a", "b"), 3, size, (0.5,) * 3, (0.5,) * 3))
    config = TeacherConfig(model=name, weights=str(tmp_path / "t"))
    assert load_teacher(config, colour_images((32, 32))).image_size == expected


def test_the_teacher_of_a_file_that_holds_two_networks_is_taken(tmp_path, data):
    torch.manual_seed(0)
    networks = {part: build_model("resnet8", num_classes=7, in_channels=1) for part in ("student", "teacher")}
    state = {f"module.{part}.{key}": t for part, net in networks.items() for key, t in net.state_dict().items()}
    torch.save({"model": state}, tmp_path / "latest")
    teacher = load_teacher(TeacherConfig(model="resnet8", weights=str(tmp_path / "latest")), data)
    assert torch.equal(teacher.network.fc.weight, networks["teacher"].fc.weight)
    assert teacher.count_classes((1, 8, 8)) == 7


def test_a_published_file_is_read_once(tmp_path, data, monkeypatch):
    torch.save({"model": build_model("resnet8", num_classes=7, in_channels=1).state_dict()}, tmp_path / "t.pth")
    read, times = torch.load, []
    monkeypatch.setattr(torch, "load", lambda path, **options: (times.append(path), read(path, **options))[1])
    load_teacher(TeacherConfig(model="resnet8", weights=str(tmp_path / "t.pth")), data)
    assert times == [tmp_path / "t.pth"]


@pytest.mark.parametrize("text", ["{", "[]", '{"mean": ["bright"]}', '{"classes": 3}', '{"std": 0.5}'])
def test_a_damaged_description_is_refused(tmp_path, data, text):
    path = tmp_path / "t.safetensors"
    save_weights(path, build_model("resnet8", num_classes=10, in_channels=1).state_dict(), {"mfkd": text})
    with pytest.raises(CheckpointError) as refusal:
        load_teacher(TeacherConfig(model="resnet8", weights=str(path)), data)
    assert str(refusal.value) == f"teacher weights {path}: their description cannot be read; export them again."


def test_a_folder_of_timm_is_a_teacher_with_its_own_classes(tmp_path, data):
    import timm
    from timm.models import save_for_hf

    network = timm.create_model("resnet10t", num_classes=5, stem_width=8)
    save_for_hf(network, tmp_path / "t", model_config={"num_classes": 5}, safe_serialization=True)
    config = TeacherConfig(model=f"local-dir:{tmp_path / 't'}", options={"pretrained": True})
    split = MemorySplit(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.arange(2), torch.arange(2))
    colour = replace(data, channels=3, size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, train=split, test=split)
    teacher = load_teacher(config, colour)
    assert teacher.count_classes((3, 32, 32)) == 5
    assert torch.equal(teacher.network.fc.weight, network.fc.weight)
    with pytest.raises(CheckpointError) as refusal:
        load_teacher(config.model_copy(update={"classes": 7}), colour)
    assert str(refusal.value) == (
        f"teacher local-dir:{tmp_path / 't'} is pretrained on 5 classes, got teacher.classes=7; leave it out to use "
        "the maps alone, or use teacher.head=tune to fit a new head."
    )
    assert load_teacher(config.model_copy(update={"classes": 7, "head": "tune"}), colour).network.num_classes == 7


@pytest.mark.parametrize(
    ("options", "ready"), [({}, False), ({"pretrained": True}, True), ({"pretrained": False}, False)]
)
def test_a_teacher_without_weights_is_trained_here(options, ready):
    assert is_ready(TeacherConfig(model="timm/resnet18", options=options)) is ready
