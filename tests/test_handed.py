"""Networks of a finished run, measured again and asked about images."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from mfkd.config import load_config
from mfkd.data import eval_loader
from mfkd.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from mfkd.handed import evaluate_run, predict_images
from mfkd.models import build_model
from mfkd.models.weights import save_weights
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.records import RunRecord
from mfkd.teachers import obtain_teacher
from mfkd.train.student import Card, load_student, save_student

WORDS = ["train.epochs=1", "teacher.train={epochs: 1}", "data.fraction=0.2", "log.trackers=[]"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("handed") / "run"
    run(open_plan(load_config(None, [*WORDS, "data.val_fraction=0.2", f"out={path}"])), lambda _: None)
    return path


@pytest.mark.parametrize("place", ["alone/seed-0", "distilled/seed-0/student.safetensors", "teacher", ""])
def test_measuring_again_gives_the_record(folder, place):
    record = RunRecord.load(folder / (place or "distilled/seed-0").removesuffix("/student.safetensors") / "record.json")
    found = evaluate_run(folder / place)
    assert found["weights"].startswith(str(folder / place))
    assert (found["split"], found["data"], found["notes"]) == ("test", "digits", [])
    assert ("agreement" in found) == (place != "teacher")
    for name, value in record.metrics.items():
        if name != "latency_ms":
            assert found[name] == pytest.approx(value, rel=1e-5), name


def test_val_split_is_the_one_that_was_held_out(folder):
    data = open_plan(load_config(folder / "config.yaml")).data
    assert evaluate_run(folder, split="val")["n"] == len(data.val) != len(data.test)


def test_digits_in_a_folder_measure_like_the_embedded_ones(folder, tmp_path):
    plan = open_plan(load_config(folder / "config.yaml"))
    for name, split in (("train", plan.data.val), ("test", plan.data.test)):
        for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            place = tmp_path / name / str(int(label))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(place / f"{number}.png")
    words = [f"data.name=folder:{tmp_path}", "data.fraction=1", "data.val_fraction=0"]
    own, other = evaluate_run(folder), evaluate_run(folder, words)
    for name in ("top1", "loss", "n", "agreement"):
        assert other[name] == pytest.approx(own[name], rel=1e-5), name


def lone(path, classes, channels=1, size=(8, 8)):
    torch.manual_seed(0)
    card = Card("resnet8", tuple(classes), channels, size, (0.3,) * channels, (0.4,) * channels)
    save_student(path, build_model("resnet8", len(classes), channels), card)
    return path


DIGITS = [str(digit) for digit in range(10)]


def test_lone_file_needs_its_data_named(tmp_path):
    path = lone(tmp_path / "x.safetensors", DIGITS)
    with pytest.raises(ConfigError) as caught:
        evaluate_run(path)
    text = f"{path} has no record.json or config.yaml beside it; name the images with data.name=."
    assert str(caught.value) == text
    assert evaluate_run(path, ["data.name=digits"])["n"] == 450


@pytest.mark.parametrize(
    ("made", "text"),
    [
        ({"classes": DIGITS, "channels": 3}, "digits has 1 channels, resnet8 was trained on 3; convert them."),
        (
            {"classes": DIGITS, "size": (16, 16)},
            "digits has images of 8 x 8 px, resnet8 was trained on 16 x 16; scale them with data.resize=16.",
        ),
        (
            {"classes": ["cat", "dog"]},
            "digits has other classes than resnet8: 10 (0, 1, 2, ...) instead of 2 (cat, dog); "
            "take images of the same classes, with the same names.",
        ),
    ],
)
def test_images_that_do_not_fit_are_refused(tmp_path, made, text):
    with pytest.raises(DataError) as caught:
        evaluate_run(lone(tmp_path / "x.safetensors", **made), ["data.name=digits"])
    assert str(caught.value) == text


def test_refusals_of_a_run(folder, tmp_path):
    with pytest.raises(UnknownNameError, match=r"^unknown split 'train'; known: test, val\.$"):
        evaluate_run(folder, split="train")
    with pytest.raises(ConfigError) as caught:
        evaluate_run(folder, ["train.lr=1"])
    assert str(caught.value) == "got 'train.lr=1', expected a key of the data, such as data.name=folder:PATH."
    with pytest.raises(DataError) as data:
        evaluate_run(folder, ["data.val_fraction=0"], split="val")
    text = "digits has no val split in this run; hold one out of its training by data.val_fraction."
    assert str(data.value) == text
    with pytest.raises(CheckpointError) as missing:
        evaluate_run(tmp_path / "none")
    assert str(missing.value) == f"{tmp_path / 'none'} does not exist; give a run folder such as runs/digits."


def test_teacher_that_is_gone_costs_the_agreement_alone(tmp_path):
    path = lone(tmp_path / "student.safetensors", DIGITS)
    gone = tmp_path / "gone.safetensors"
    (tmp_path / "config.yaml").write_text(f"teacher: {{model: resnet8, weights: {gone}}}")
    found = evaluate_run(path)
    assert "agreement" not in found
    assert len(found["notes"]) == 1
    assert found["notes"][0].startswith(f"agreement is left out, the teacher cannot be loaded: weights file {gone}")
    torch.manual_seed(0)
    save_weights(gone, build_model("resnet8", 10, 1).state_dict())  # the student's own weights
    assert evaluate_run(path)["agreement"] == 100


def test_predictions_are_the_softmax_of_the_network(folder, tmp_path):
    digits = (load_digits().images[:2] * 255 / 16).astype(np.uint8)
    for number, pixels in enumerate(digits):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "notes.txt").write_text("no image")
    found = predict_images([tmp_path, tmp_path / "1.png"], folder, top=3)
    assert [row["image"] for row in found] == [str(tmp_path / name) for name in ("0.png", "1.png", "1.png")]
    assert found[1] == found[2]
    assert json.loads(json.dumps(found)) == found

    from mfkd.train.student import load_with_card

    network, card = load_with_card(folder)
    scores = network((torch.from_numpy(digits[:1, None]) / 255 - card.mean[0]) / card.std[0]).softmax(1)[0].tolist()
    expected = sorted(zip(scores, card.classes, strict=True), reverse=True)[:3]
    assert [name for name, _ in found[0]["top"]] == [name for _, name in expected]
    assert [share for _, share in found[0]["top"]] == pytest.approx([score for score, _ in expected], rel=1e-5)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((100, 120), ["data.image_size=32"]),
        ((120, 140), ["data.image_size=112", "data.resize=112"]),
        ((40, 30), ["data.resize=112"]),
        ((40, 30), ["data.resize=16"]),
    ],
)
def test_predictions_see_what_evaluation_saw(tmp_path, shape, words):
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 3)):
        for name in ("a", "b"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for number in range(count):
                smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize(shape)
                smooth.save(tmp_path / "images" / split / name / f"{number}.png")
    words = [*words, f"data.name=folder:{tmp_path / 'images'}", "data.workers=0", f"out={tmp_path / 'run'}"]
    plan = open_plan(load_config(None, [*WORDS, *words, "data.fraction=1", "train.batch_size=4"]))
    obtain_teacher(plan)
    network = load_student(tmp_path / "run" / "teacher")
    (batch,) = eval_loader(plan.data.test, plan.data, plan.config.data, batch_size=6, device="cpu")
    with torch.no_grad():
        expected = network(batch.image).softmax(1)
    folders = [tmp_path / "images" / "test" / name for name in ("a", "b")]
    found = [dict(row["top"]) for row in predict_images(folders, tmp_path / "run" / "teacher")]
    got = torch.tensor([[row[name] for name in ("a", "b")] for row in found])
    assert torch.allclose(got, expected, atol=1e-6)
    assert got[:, 0].std() > 1e-4  # the images differ by more than the tolerance


def test_top_is_at_most_the_number_of_classes(tmp_path):
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    path = lone(tmp_path / "x.safetensors", ["cat", "dog"])
    assert len(predict_images([tmp_path / "a.png"], path, top=5)[0]["top"]) == 2


def test_images_that_are_not_there_are_named(folder, tmp_path):
    with pytest.raises(DataError) as caught:
        predict_images([tmp_path / "none.png"], folder)
    assert str(caught.value) == f"image {tmp_path / 'none.png'} does not exist; give image files, or folders of them."
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png cannot be read as an image"):
        predict_images([tmp_path / "broken.png"], folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty holds no image; known endings: \.bmp, \.gif,"):
        predict_images([tmp_path / "empty"], folder)
