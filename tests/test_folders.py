"""Image folders of large images from end to end: ViT to CNN, CNN to ViT, and a student from weights."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mfkd.config import load_config
from mfkd.data import eval_loader
from mfkd.handed import evaluate_run, predict_images
from mfkd.models.weights import read_weights
from mfkd.pipeline import obtain_teacher, train_student
from mfkd.plan import open_plan
from mfkd.train import cost
from mfkd.train.student import load_with_card, save_student

VIT = "{model: timm/vit_tiny_patch16_224, options: {img_size: 64, depth: 3, embed_dim: 24, num_heads: 2}}"
CNN = "{model: timm/mobilenetv3_small_050}"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Eight training images and four test images, longer than the 96 px up to which images stay in memory."""
    place = tmp_path_factory.mktemp("photos")
    drawn = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 2)):
        for tint, name in enumerate(("red", "blue")):
            (place / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = drawn.integers(0, 150, (5, 6, 3), dtype=np.uint8)
                pixels[..., 2 * tint] += 100
                Image.fromarray(pixels).resize((120 + 10 * number, 100)).save(place / split / name / f"{number}.png")
    return place


@pytest.fixture
def do(photos, tmp_path, monkeypatch):
    """Distil on the photos; the plan, and the folder of the student."""
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    words = [
        f"data={{name: 'folder:{photos}', image_size: 64, workers: 0}}", "train.epochs=1", "train.batch_size=4",
        "train.lr=0.01", "train.schedule=constant", "log.trackers=[]", f"out={tmp_path / 'run'}",
    ]  # fmt: skip

    def do(*overrides):
        plan = open_plan(load_config(None, [*words, *overrides]))
        record = train_student(plan, "distilled", 0, obtain_teacher(plan))
        return plan, plan.student_job("distilled", 0).folder, record

    return do


@pytest.mark.parametrize(("teacher", "student"), [(VIT, CNN), (CNN, VIT)], ids=["vit to cnn", "cnn to vit"])
def test_transformers_and_convolutions_teach_each_other(do, photos, teacher, student):
    plan, folder, record = do(
        f"teacher={teacher}", f"student={student}", "augment={auto: randaugment, erasing: 0.5, jitter: 0.2}"
    )
    assert plan.data.classes == ("blue", "red")
    assert record.curves[0]["mfkd"] > 0
    assert np.isfinite(record.curves[0]["loss"])
    assert evaluate_run(folder)["top1"] == record.metrics["top1"]
    found = predict_images([photos / "test" / "red"], folder)
    assert {name for row in found for name, _ in row["top"]} == {"blue", "red"}


def test_a_student_from_weights_is_fed_as_before_and_predicts_alike(do, photos, tmp_path):
    plan, folder, _ = do("teacher=" + CNN, "student=" + CNN)
    network, card = load_with_card(folder)
    other = replace(card, mean=(0.5,) * 3, std=(0.25,) * 3, side=70, interpolation="bicubic")
    save_student(tmp_path / "start.safetensors", network, other)
    fine = ["teacher=" + CNN, "student=" + CNN, f"student.weights={tmp_path / 'start.safetensors'}",
            f"out={tmp_path / 'fine'}", "train.freeze=[conv_stem, bn1]", "train.layer_decay=0.7"]  # fmt: skip
    plan, folder, _ = do(*fine)
    data = plan.data
    assert (data.mean, data.std, data.resize, data.interpolation) == ((0.5,) * 3, (0.25,) * 3, 70, "bicubic")
    network, told = load_with_card(folder)
    assert told == other
    before = read_weights(tmp_path / "start.safetensors")[0]
    same = {name for name, value in network.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name.startswith(("conv_stem.", "bn1."))}
    # `mfkd predict` knows the card alone, evaluation the recipe; both must show the network the same pixels.
    (batch,) = eval_loader(data.test, data, plan.config.data, batch_size=4, device="cpu")
    with torch.no_grad():
        expected = network(batch.image).softmax(1)
    found = predict_images([photos / "test" / name for name in data.classes], folder)
    got = torch.tensor([[dict(row["top"])[name] for name in data.classes] for row in found])
    assert torch.allclose(got, expected, atol=1e-6)
    assert evaluate_run(folder)["loss"] == pytest.approx(-expected[range(4), batch.label].log().mean().item(), rel=1e-5)
    # What the recipe says wins over what the weights bring.
    told = load_config(None, [f"data.name=folder:{photos}", "data.mean=[0.1, 0.2, 0.3]", "data.crop=0.8", *fine])
    again = open_plan(told).data
    assert (again.mean, again.std, again.resize) == ((0.1, 0.2, 0.3), (0.25,) * 3, 80)


def test_pretrained_students_and_teachers_keep_their_own_statistics_and_size(do, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    tiny = "depth: 3, embed_dim: 24, num_heads: 2, pretrained: true"
    vit = f"{{model: timm/vit_tiny_patch16_224, options: {{img_size: 96, {tiny}}}}}"
    plan, folder, _ = do("data.image_size=null", f"teacher={vit}", f"student={vit.replace('96', '64')}")
    assert plan.config.data.model_dump(include={"mean", "std", "image_size", "crop", "interpolation"}) == {
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "image_size": 64,
        "crop": 0.9,
        "interpolation": "bicubic",
    }
    assert obtain_teacher(plan).input_shape((3, 64, 64)) == (3, 96, 96)
    card = json.loads(read_weights(folder / "student.safetensors")[1]["mfkd"])
    assert (card["mean"], card["size"], card["side"], card["interpolation"]) == ([0.5] * 3, [64, 64], 71, "bicubic")


def test_class_names_of_a_file_travel_with_the_student(do, photos, tmp_path):
    (tmp_path / "names.txt").write_text("himmelblau\nfeuerrot\n")
    _, folder, _ = do("teacher=" + CNN, "student=" + CNN, f"data.class_names={tmp_path / 'names.txt'}")
    assert load_with_card(folder)[1].classes == ("himmelblau", "feuerrot")
    (row,) = predict_images([photos / "test" / "red" / "0.png"], folder)
    assert {name for name, _ in row["top"]} == {"himmelblau", "feuerrot"}
