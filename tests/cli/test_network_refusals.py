"""Networks and weights that will not do, as a person at a terminal meets them: one line, exit code 2, no file."""

import pickle
import struct
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mfkd.cli import main
from mfkd.models import build_model
from mfkd.models.weights import save_weights

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=1, width=4):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(in_channels, width, 3), nn.Linear(width, num_classes)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))

def flat(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, num_classes))

def needy(num_classes, depth):
    return Net(num_classes)

def count(num_classes):
    return num_classes

def fails(num_classes):
    return nn.Linear(-1, num_classes)

class Pair(Net):
    def forward(self, x):
        return {"logits": super().forward(x)}
"""


class Runs:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("owned"),)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("broken.py").write_text("def build(num_classes)\n    pass\n")
    Path("raises.py").write_text("\nraise RuntimeError('no luck')\n")
    state = build_model("resnet8", num_classes=10, in_channels=1).state_dict()
    torch.save({"model": state}, "ten.pth")
    torch.save({"model": build_model("resnet8", num_classes=7, in_channels=1).state_dict()}, "seven.pth")
    Path("cut.pth").write_bytes(Path("ten.pth").read_bytes()[:20_000])
    Path("empty.pth").touch()
    Path("folder").mkdir()
    save_weights(Path("folder/best.safetensors"), state)
    save_weights(Path("cut.safetensors"), state)
    Path("cut.safetensors").write_bytes(Path("cut.safetensors").read_bytes()[:20_000])
    Path("text.pth").write_text("epoch 1: 0.93\n" * 20)
    Path("image.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    Path("code.pth").write_bytes(pickle.dumps(Runs(), protocol=2))
    Path("newer.pth").write_bytes(pickle.dumps(Runs()))
    torch.save({"model": state, "extra": Runs()}, "mixed.pth")
    Path("huge.safetensors").write_bytes(struct.pack("<Q", 2**60) + b'{"a": 1}')
    Path("garbage.safetensors").write_bytes(struct.pack("<Q", 8) + b"{garbage")
    save_weights(Path("card.safetensors"), state, {"mfkd": '{"mean": "bright"}'})
    torch.save({"net": {"weights": [1, 2]}}, "lists.pth")
    torch.save(nn.Linear(2, 3), "whole.pth")
    return tmp_path


def weights(name: str) -> list[str]:
    return ["teacher.model=resnet8", f"teacher.weights={name}"]


DAMAGED = "is damaged or holds no weights"
REFUSED = {
    # weights
    "wrong head": (["student.weights=seven.pth"], "student weights seven.pth have a head of 7 classes, expected 10 "),
    "wrong head, said": (
        [*weights("seven.pth"), "teacher.classes=10"],
        "teacher weights seven.pth have a head of 7 classes, expected 10 classes; use teacher.head=tune to fit a new ",
    ),
    "other number of classes": (
        [*weights("seven.pth"), "method=kd"],
        "kd needs a teacher with the student's classes, but this teacher's head has others; fit a new one with teacher",
    ),
    "wrong architecture": (
        ["teacher.model=resnet14", "teacher.weights=ten.pth"],
        "teacher weights ten.pth belong to another network than ResNet: 30 missing (layer1.1.conv1.weight, ",
    ),
    "truncated": (weights("cut.pth"), f"weights file cut.pth {DAMAGED} ("),
    "truncated safetensors": (weights("cut.safetensors"), f"weights file cut.safetensors {DAMAGED} (SafetensorError);"),
    "zero bytes": (weights("empty.pth"), "weights file empty.pth is empty; fetch it again."),
    "folder": (weights("folder"), "weights folder is a folder; name a file in it, such as best.safetensors."),
    "text": (weights("text.pth"), f"weights file text.pth {DAMAGED}"),
    "image": (weights("image.pth"), f"weights file image.pth {DAMAGED} (UnpicklingError); expected safetensors"),
    "code": (weights("code.pth"), "weights file code.pth would run code ("),
    "newer code": (weights("newer.pth"), "weights file newer.pth is pickled in a way that can run code and was not "),
    "code beside weights": (weights("mixed.pth"), "weights file mixed.pth would run code ("),
    "whole network": (weights("whole.pth"), "weights file whole.pth would run code (torch.nn.modules.linear.Linear) "),
    "oversized header": (weights("huge.safetensors"), f"weights file huge.safetensors {DAMAGED} (SafetensorError);"),
    "garbage header": (weights("garbage.safetensors"), f"weights file garbage.safetensors {DAMAGED} (SafetensorError)"),
    "garbage card": (
        weights("card.safetensors"),
        "teacher weights card.safetensors: their description cannot be read; export them again.",
    ),
    "no tensors": (weights("lists.pth"), "weights file lists.pth holds no state dict, but 1 entries (net); expected "),
    "reset of nothing": (
        ["student.head=reset"],
        "student: head=reset is for a student that starts from a file; name it with student.weights",
    ),
    "classes as an option": (
        ["student.options.num_classes=10"],
        "student.options: num_classes is no option, the data tell it, and teacher.classes for a teacher's own head; ",
    ),
    # names
    "no map": (
        ["student.model=nets.py:flat"],
        "Sequential has no feature map larger than 1 x 1 for images (1, 8, 8); name module paths as taps, or set",
    ),
    "no logits": (["student.model=nets.py:Pair"], "Pair returned dict"),
    "no file": (["student.model=none.py:Net"], "file none.py does not exist; check the path."),
    "no factory": (["student.model=nets.py:Nett"], "unknown factory 'Nett'; did you mean Net? name a function or "),
    "file without factory": (
        ["student.model=nets.py"],
        "nets.py is a file, expected a factory in it; name a function or class, nets.py:NAME.",
    ),
    "needy factory": (
        ["student.model=nets.py:needy"],
        "nets.py:needy needs further arguments: depth; give them as options of the network.",
    ),
    "no module": (
        ["student.model=nets.py:count"],
        "nets.py:count returned int, expected a torch.nn.Module; return the network.",
    ),
    "factory that fails": (
        ["student.model=nets.py:fails"],
        "nets.py:fails fails when it is called (RuntimeError: Trying to create tensor with negative dimension -1",
    ),
    "syntax error": (
        ["student.model=broken.py:build"],
        "broken.py fails when it is imported (SyntaxError: expected ':' (broken.py, line 1)); correct it.",
    ),
    "raises": (
        ["student.model=raises.py:build"],
        "raises.py fails when it is imported (RuntimeError: no luck, raises.py line 2); correct it.",
    ),
    "unknown option": (
        ["student.model=nets.py:Net", "student.options.depth=3"],
        "nets.py:Net does not take depth; accepted: in_channels, num_classes, width.",
    ),
    "unknown option of timm": (
        ["student.model=timm/resnet18", "student.options.foo=3"],
        "timm/resnet18 has no option 'foo'; accepted: ",
    ),
    "unknown name of timm": (
        ["teacher.model=timm/resnet19", *weights("ten.pth")[1:]],
        "unknown model 'timm/resnet19'; did you mean timm/resnet18 or ",
    ),
    "no folder of timm": (
        ["teacher.model=local-dir:none", "teacher.options.pretrained=true"],
        "timm/local-dir:none cannot be read (FileNotFoundError: Config file not found: none/config.json); expected a ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_one_line_and_no_run_folder(
    case: str, files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, text = REFUSED[case]
    before = sorted(files.iterdir())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "argv", ["mfkd", "distill", "data.fraction=0.1", "log.trackers=[]", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    out, err = capsys.readouterr()
    assert err.startswith(f"mfkd: error: {text}"), err
    assert (caught.value.code, err.count("\n"), out) == (2, 1, "")
    assert sorted(files.iterdir()) == before
