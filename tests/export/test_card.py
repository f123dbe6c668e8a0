"""The model card says what is known, and says so where something is not."""

import re

import pytest
import yaml

from mfkd.config import ModelConfig, load_config
from mfkd.export.card import readme
from mfkd.export.feed import Feed
from mfkd.export.licences import inherited, of_data, of_start, shown
from mfkd.records import RunRecord

FEED = Feed("resnet8", ("cat", "dog|x"), 3, (32, 32), (0.5,) * 3, (0.25,) * 3)
RESULT = {
    "timm": False,
    "data": "cifar100",
    "images": 1000,
    "top1": 75.0,
    "ci95": [72.2, 77.6],
    "seeds": {"mean": 74.5, "std": 0.3, "n": 3},
    "tolerance": 1e-4,
    "parity": {"model.onnx": {"images": 1000, "largest": 2.5e-7, "differing": 0, "ties": 2}},
    "forms": {"model.onnx": {"top1": 75.0, "ci95": [72.2, 77.6], "drop": 0.0, "agreement": 99.8, "ms": 0.25}},
    "torch_ms": 1.5,
    "calls": 30,
    "threads": 2,
    "processor": "A chip",
    "parameters": 77754,
    "flops": 1.5e6,
    "code": [],
    "files": {"model.onnx": {"bytes": 310000, "sha256": ""}, "labels.txt": {"bytes": 9, "sha256": ""}},
    "versions": {"mfkd": "1.2", "onnx": "3.4"},
}


def told(config, kind="distilled", feed=FEED, measured=None, **changes):
    record = RunRecord(
        kind=kind,
        config=config.model_dump(mode="json"),
        config_hash="",
        seed=3,
        training=config.train.model_dump(mode="json"),
        method={"kd": {"weight": 1.0}, "mfkd": {"weight": 4.0}},
        metrics={"ece": 3.21},
        steps=840,
        seconds=60,
        environment={"commit": "abc123", "versions": {"torch": "9.9"}, "processor": "Another chip"},
        notes=["a note"],
    )
    return readme(RESULT | changes, feed, measured or config, record)


def test_card_holds_every_figure_and_every_part():
    text = told(load_config(None, ["data.name=cifar100", "teacher.model=resnet56", "data.fraction=0.5"]))
    head = yaml.safe_load(text.split("---")[1])
    assert head["library_name"] == "mfkd"
    assert head["pipeline_tag"] == "image-classification"
    assert "knowledge-distillation" in head["tags"]
    assert re.findall(r"^#+ (.*)$", text, flags=re.M) == [
        "resnet8 for cifar100",
        "Use",
        "How it was made",
        "Accuracy",
        "Every form says the same",
        "Cost",
        "Limits",
        "Licences",
        "Citation",
    ]
    for part in (
        "it names one of 2 classes (cat, dog|x)",
        "| data | cifar100, 50% of it |",
        "| teacher | resnet56 |",
        "| method mfkd | weight 4.0 |",
        "840 updates of 64 images",
        "| seed | 3 |",
        "| commit of mfkd | abc123 |",
        "| trained with | torch 9.9 |",
        "| exported with | mfkd 1.2, onnx 3.4 |",
        "- a note",
        "Top-1 on 1,000 test images of cifar100: **75.00 %**, 95 % interval 72.20 to 77.60 (Wilson, over the images). "
        "The network of the last epoch; nothing was chosen by the test images.\n",
        "Over the 3 seeds of the run: mean 74.50 % ± 0.30 (deviation)",
        "| `model.onnx` | 75.00 | +0.00 | 99.80 | 0.250 |",
        "| model.onnx | 2.5e-07 | 2 | 2 |",
        "77,754 parameters, 1.5 MFLOPs an image",
        "`model.onnx` 0.31 MB.",
        "2 threads of A chip; PyTorch took 1.500 ms.",
        "(ECE 3.21 % on the test images of its run)",
        "| data cifar100 | not known |",
        "10.1371/journal.pone.0285901",
        "https://arxiv.org/abs/1503.02531",
        "(batch, 3, 32, 32), float32 after normalisation",
    ):
        assert part in text, part


def test_card_of_a_timm_network_that_takes_pixels():
    feed = Feed("timm/resnet18", ("a", "b"), 3, (224, 224), (0.5,) * 3, (0.25,) * 3, 256, "bicubic", True)
    text = told(load_config(None, []), "alone", feed, timm=True, code=["net.py"], seeds=None)
    assert 'timm.create_model("local-dir:PATH", pretrained=True)' in text
    assert "its shorter side scaled to 256 px, its centre cut out (bicubic)" in text
    assert "(batch, 224, 224, 3), uint8 as it comes from a file" in text
    assert "Loading it runs code: `net.py`. Read it first." in text
    assert "seeds of the run" not in text
    assert "| teacher " not in text
    assert "knowledge-distillation" not in text


def test_card_without_a_record_says_so():
    text = readme(RESULT, FEED, load_config(None, []), None)
    assert "## How it was made\n\nNot known: there is no record of its training.\n" in text
    assert "A network: it names one of 2 classes" in text
    assert "\n# resnet8\n" in text
    assert "Whether it was trained on some of them, or chosen by them, is not known.\n" in text
    assert "## Licences\n\nNot known, neither of the data nor of the weights that it started from.\n" in text
    assert "random" not in text


def test_card_tells_training_and_test_images_apart():
    config, other = (load_config(None, [f"data.name={name}"]) for name in ("digits", "folder:/home/me/mine"))
    text = told(config, measured=other, data="folder:mine")
    assert "\n# resnet8 for digits\n" in text
    assert "| data | digits |" in text
    assert "| data digits | CC BY 4.0" in text
    assert "Top-1 on 1,000 test images of folder:mine: " in text
    assert "nothing was chosen by the test images. They were read by other settings than its" in text
    assert "other settings" not in told(config, measured=load_config(None, ["data.workers=0"]))


def test_card_does_not_call_validation_images_test_images():
    text = told(load_config(None, ["data.val_fraction=0.1", "data.evaluate=val"]))
    assert "Top-1 on 1,000 validation images of " in text
    assert "The network of the last epoch; these images are there for choices.\n" in text
    assert "nothing was chosen" not in text
    assert "(ECE 3.21 % on the validation images of its run)" in text
    assert "test images" not in text


def test_folders_of_this_machine_are_not_told():
    words = ["data.name=folder:/home/me/photos", "student.model=/home/me/net.py:Net", "teacher.weights=/home/me/a.pth"]
    text = told(load_config(None, words), feed=Feed("/home/me/net.py:Net", ("a",), 3, (8, 8), (0.5,), (0.5,)))
    assert "/home" not in text
    assert "folder:photos" in text
    assert shown("hf:owner/name") == "hf:owner/name"
    assert shown("local-dir:/a/b") == "local-dir:b"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("digits", "CC BY 4.0"), ("cifar10", "not known"), ("fashion_mnist", "MIT"), ("folder:x", "not known")],
)
def test_licence_of_data(name, expected):
    assert of_data(name).startswith(expected)


def test_licences_of_weights():
    config = load_config(None, ["teacher.model=timm/resnet18.a1_in1k", "teacher.options.pretrained=true"])
    assert of_start(config.teacher, "-") == "apache-2.0 (pretrained weights of timm/resnet18.a1_in1k)"
    foreign = load_config(None, ["teacher.weights=/x/a.pth", "teacher.model=resnet20", "data.unlabelled=/x"])
    assert of_start(foreign.teacher, "-") == "not known (file a.pth)"
    found = inherited(foreign, "distilled")
    assert found["images without labels"] == "not known"
    assert found["teacher resnet20"] == "not known (file a.pth)"
    assert found["first weights of resnet8"] == "none (random)"
    assert "teacher resnet20" not in inherited(foreign, "alone")
    assert inherited(load_config(None, []), "teacher")["first weights of resnet20"] == "none (random)"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("timm/resnet18.a1_in1k", "apache-2.0"),
        ("timm/vit_base_patch16_224.mae", "cc-by-nc-4.0"),
        ("hf-hub:timm/vit_base_patch16_224.mae", "cc-by-nc-4.0"),
        ("hf-hub:somebody/net", "not known"),
        ("timm/resnet50.bamboo", "not known"),  # timm tells none
        ("torchvision/resnet18", "not known"),  # torchvision neither
        ("torchvision/vit_h_14", "https://github.com/facebookresearch/SWAG/blob/main/LICENSE"),
    ],
)
def test_licence_of_pretrained_weights_is_what_their_library_tells(model, expected):
    config = ModelConfig(model=model, options={"pretrained": True})
    assert of_start(config, "-") == f"{expected} (pretrained weights of {model})"


def test_licence_of_a_folder_is_what_it_says(tmp_path):
    config = ModelConfig(model=f"local-dir:{tmp_path}", options={"pretrained": True})
    assert of_start(config, "-") == f"not known (pretrained weights of local-dir:{tmp_path.name})"
    (tmp_path / "config.json").write_text('{"pretrained_cfg": {"license": "mit"}}')
    assert of_start(config, "-") == f"mit (pretrained weights of local-dir:{tmp_path.name})"
    assert of_start(ModelConfig(model="timm/resnet18"), "none") == "none"
