"""What is served answers as `mfkd predict` does."""

import subprocess
import sys

import pytest
import torch

from mfkd.errors import CheckpointError
from mfkd.export.classify import classify
from mfkd.handed import predict_images
from mfkd.models import build_model
from mfkd.serve.model import open_model
from mfkd.train.student import Card, save_student

TRAINING = ("torch", "torchvision", "timm", "accelerate", "sklearn", "scipy", "onnx")


def test_onnx_file_answers_as_predict_does(graph, kit, tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(kit.picture((200, 120, 40), (9, 30)))
    served = open_model(graph)
    assert served.file == graph
    (row,) = classify([file], graph, 3)
    assert served.answer(file.read_bytes(), 3, 1000) == [(name, share) for name, share in row["top"]]


def test_run_folder_answers_as_predict_does(kit, tmp_path):
    torch.manual_seed(0)
    network = build_model("resnet8", num_classes=3, in_channels=3)
    card = Card("resnet8", ("a", "b", "c"), 3, (24, 24), (0.4,) * 3, (0.2,) * 3, side=28)
    save_student(tmp_path / "student.safetensors", network, card)
    file = tmp_path / "a.png"
    file.write_bytes(kit.picture((200, 120, 40), (50, 30)))
    served = open_model(tmp_path)
    assert (served.file, served.feed.model) == (tmp_path / "student.safetensors", "resnet8")
    found = served.answer(file.read_bytes(), 3, 10_000)
    (row,) = predict_images([file], tmp_path, 3)
    assert [name for name, _ in found] == [name for name, _ in row["top"]]
    assert [share for _, share in found] == pytest.approx([share for _, share in row["top"]], abs=1e-6)


def test_nothing_to_serve(tmp_path):
    with pytest.raises(CheckpointError, match=r"none does not exist; give a run folder such as runs/digits\.$"):
        open_model(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"none\.onnx does not exist; give a file written by mfkd export\.$"):
        open_model(tmp_path / "none.onnx")


def test_no_training_library_is_imported(graph, kit, tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(kit.picture())
    code = f"""
import sys
from fastapi.testclient import TestClient
from mfkd.cli import app as commands
from mfkd.serve import server
def run(app, listening):
    with TestClient(app, base_url="http://localhost") as client:
        assert client.post("/predict", files={{"image": open({str(picture)!r}, "rb")}}).status_code == 200
server.run = run
commands(["serve", {str(graph)!r}, "--port", "0"], standalone_mode=False)
print([name for name in {TRAINING} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr
