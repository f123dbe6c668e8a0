"""A network from a single file of the user, with a checkpoint saved from DataParallel, distilled by the command."""

import json
from pathlib import Path

import torch

from mfkd import load_student
from mfkd.models import build_model

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=8):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.last = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, x):
        return self.head(self.last(self.body(self.stem(x))).mean((2, 3)))
"""
SMALL = ["train.epochs=1", "train.batch_size=32", "data.fraction=0.1", "log.trackers=[]", "seeds=[0]"]


def test_teacher_and_student_of_one_file(mfkd, tmp_path):
    Path("net.py").write_text(NET)
    teacher = build_model("net.py:Net", num_classes=10, width=16)
    teacher(torch.randn(4, 1, 8, 8))  # moves the statistics
    wrapped = torch.nn.DataParallel(teacher).state_dict()
    assert all(name.startswith("module.") for name in wrapped)
    torch.save({"epoch": 3, "state_dict": wrapped}, "teacher.pth.tar")
    other = build_model("net.py:Net", num_classes=7).state_dict()
    torch.save({"model": {f"module.{name}": tensor for name, tensor in other.items()}}, "start.pth")
    words = [
        *SMALL,
        "teacher.model=net.py:Net",
        "teacher.options.width=16",
        "teacher.weights=teacher.pth.tar",
        "student.model=net.py:Net",
        "student.weights=start.pth",
        "out=run",
    ]
    refused = mfkd("distill", *words)
    assert str(refused.exception) == (
        "student weights start.pth have a head of 7 classes, expected 10 classes; give the same number of classes, "
        "or student.head=reset (in Python load_weights(..., head='reset')) to load the rest."
    )
    assert not Path("run").exists()
    result = mfkd("distill", *words, "student.head=reset", "--json")
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)
    assert record["kind"] == "distilled"
    student = load_student("run/distilled/seed-0").eval()
    assert (student.head.out_features, student.stem[0].out_channels) == (10, 8)

    # The same words find the finished run; a changed file is another one.
    assert mfkd("distill", *words, "student.head=reset").exit_code == 0
    Path("net.py").write_text(NET.replace("mean((2, 3))", "amax((2, 3))"))
    changed = mfkd("distill", *words, "student.head=reset")
    assert str(changed.exception).startswith("run/distilled/seed-0 holds a run of other settings")
