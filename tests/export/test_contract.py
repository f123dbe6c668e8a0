"""Every kind of network leaves in every form, and all forms say the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mfkd import load_student
from mfkd.errors import ConfigError, MfkdError
from mfkd.export.folder import export_run
from mfkd.export.onnx import operators
from mfkd.methods.projected import Projected, Projection
from mfkd.models import build_model, trust
from mfkd.models.adapters import data_config
from mfkd.models.trust import remember

NET = """
import torch
from torch import nn
from parts import Block

class Net(nn.Module):
    def __init__(self, num_classes, in_channels=1, width=8):
        super().__init__()
        self.stem = Block(in_channels, width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.stem(x).mean((2, 3)))
"""
PARTS = """
from torch import nn

class Block(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())
"""
FILES = {"model.safetensors", "config.json", "model.onnx", "model.pt2", "labels.txt", "README.md", "export.json"}


def check(run, result, size):
    """What holds of every export."""
    folder = Path(result["folder"])
    assert folder == run.folder / "export"
    assert {file.name for file in folder.iterdir()} >= FILES
    assert [file.name for file in run.folder.iterdir() if file.name.startswith(".")] == []
    assert result["images"] == 450
    for told in result["parity"].values():
        assert told["largest"] <= 1e-4
        assert told["differing"] == 0
    image = torch.randn(3, 1, size, size)
    with torch.no_grad():
        expected = run.network(image)
        assert torch.equal(load_student(folder)(image), expected)
        graph = torch.export.load(folder / "model.pt2").module()
        assert torch.allclose(graph(image), expected, atol=1e-4)
        assert graph(image[:1]).shape == (1, 10)
    assert b"site-packages" not in (folder / "model.onnx").read_bytes() + (folder / "model.pt2").read_bytes()
    assert json.loads((folder / "export.json").read_text()) | {"folder": str(folder)} == result
    return folder


@pytest.mark.parametrize(
    "model", ["resnet8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet20", "vgg8", "MobileNetV2"))]
)
def test_network_of_the_cifar_tables(made, model):
    run = made(model, side=32 if model == "MobileNetV2" else 8)
    folder = check(run, export_run(run.folder), run.card.size[0])
    assert "BatchNormalization" not in operators(folder / "model.onnx")


TIMM = {
    "timm/test_resnet": (32, {}),
    "timm/vit_tiny_patch16_224": (32, {"img_size": 32, "depth": 1, "embed_dim": 48}),
}


@pytest.mark.parametrize("model", TIMM)
def test_network_of_timm_is_loaded_by_timm_itself(made, kit, model):
    import timm

    side, options = TIMM[model]
    run = made(model, side, **options)
    result = export_run(run.folder)
    folder = check(run, result, side)
    assert "timm local-dir" in result["parity"]
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = torch.randn(2, 1, side, side)
    assert torch.equal(again(image), run.network(image))
    assert again.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]
    found = data_config(again)
    assert (found.image_size, found.crop) == (side, 1.0)
    assert (found.mean, found.std) == (run.card.mean, run.card.std)
    assert again.pretrained_cfg["crop_mode"] == "squash"
    assert "license" not in json.loads((folder / "config.json").read_text())["pretrained_cfg"]  # that of other weights

    # And once more, from the folder that was exported: nothing refers to it.
    place = run.folder / "second"
    network = kit.settle(build_model(f"local-dir:{folder}", 10, 1), (1, side, side))
    second = kit.put(place, network, f"local-dir:{folder}", side)
    export_run(place)
    for file in folder.iterdir():
        file.unlink()
    assert torch.equal(load_student(place / "export")(image), second.network(image))


def test_network_of_a_users_file_takes_its_code_along(tmp_path, monkeypatch, kit):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)
    Path("parts.py").write_text(PARTS)
    network = kit.settle(build_model("net.py:Net", 10, 1, width=4), (1, 8, 8))
    run = kit.put(tmp_path / "run", network, "net.py:Net", options={"width": 4})
    result = export_run(run.folder)
    Path("net.py").unlink()
    Path("parts.py").unlink()
    monkeypatch.chdir(os.sep)
    folder = check(run, result, 8)
    assert result["code"] == ["net.py", "parts.py"]
    assert "Loading it runs code: `net.py`, `parts.py`." in (folder / "README.md").read_text()
    again = export_run(folder, run.folder / "again", overrides=["data.name=digits"])
    assert again["code"] == ["net.py", "parts.py"]


PACKAGE = {
    "pkg/__init__.py": "",
    "pkg/net.py": NET.replace("from parts import Block", "from pkg.blocks import Block"),
    "pkg/blocks.py": "from helpers import *\n" + PARTS,
    "pkg/broken.py": "print 'of another Python'\n",
    "helpers.py": "",
}
ASK = "import sys, torch, mfkd; print(mfkd.load_student(sys.argv[1])(torch.ones(1, 1, 8, 8)).tolist())"


def forget():
    """As if nothing of it had been imported, nor named by the user, in this process."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("pkg", "helpers", "hidden"):
            del sys.modules[name]
    trust._SEEN.clear()
    trust._NAMED.clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in the working folder; gives a function that writes it, with changes."""
    monkeypatch.chdir(tmp_path)

    def write(**changes):
        for name, text in (PACKAGE | changes).items():
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).write_text(text)

    yield write
    forget()


def ask(folder, **environment):
    """What a fresh process in another folder says of an export."""
    words = [sys.executable, "-c", ASK, str(folder)]
    told = {**os.environ, "HOME": str(folder), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(words, check=False, capture_output=True, text=True, cwd=os.sep, env=told)


@pytest.mark.parametrize("way", ["pkg.blocks", ".blocks"])
def test_network_of_a_package_takes_the_whole_package_along(package, tmp_path, kit, way):
    package(**{"pkg/net.py": PACKAGE["pkg/net.py"].replace("pkg.blocks", way)})
    run = kit.put(tmp_path / "run", kit.settle(build_model("pkg.net:Net", 10, 1), (1, 8, 8)), "pkg.net:Net")
    remember(["pkg.net:Net"])
    result = export_run(run.folder)
    folder = check(run, result, 8)
    copied = ["helpers.py", "mfkd_network.py", "pkg/__init__.py", "pkg/blocks.py", "pkg/broken.py", "pkg/net.py"]
    assert result["code"] == copied

    forget()
    assert torch.equal(load_student(folder)(torch.ones(1, 1, 8, 8)), run.network(torch.ones(1, 1, 8, 8)))
    stranger = ask(folder)
    assert stranger.returncode == 1
    assert "names code that you have not named yourself" in stranger.stderr
    for name in ("pkg", "helpers.py"):
        Path(name).rename(f"{name}.gone")
    trusted = ask(folder, MFKD_TRUST_CODE="1")
    assert trusted.returncode == 0, trusted.stderr
    assert torch.allclose(torch.tensor(json.loads(trusted.stdout)), run.network(torch.ones(1, 1, 8, 8)), atol=1e-5)
    forget()
    (folder / "pkg" / "blocks.py").write_text("print('changed')\n" + PARTS)
    with pytest.raises(ConfigError, match=r"names code that you have not named yourself, .*/pkg/blocks\.py "):
        load_student(folder)


def test_code_that_is_vouched_for_once_is_not_remembered(package, tmp_path, kit, monkeypatch):
    package()
    run = kit.put(tmp_path / "run", kit.settle(build_model("pkg.net:Net", 10, 1), (1, 8, 8)), "pkg.net:Net")
    forget()
    monkeypatch.setenv(trust.VARIABLE, "1")
    export_run(run.folder)
    assert trust._SEEN == {}
    assert not Path(trust.PLACE).exists()


def test_code_that_an_export_does_not_hold_is_told(package, tmp_path, kit):
    """Though it is there for the process that has trained with it."""
    package(**{"helpers.py": "import importlib\nimportlib.import_module('hidden')\n", "hidden.py": ""})
    run = kit.put(tmp_path / "run", kit.settle(build_model("pkg.net:Net", 10, 1), (1, 8, 8)), "pkg.net:Net")
    with pytest.raises(MfkdError) as caught:
        export_run(run.folder)
    text = str(caught.value)
    assert text.startswith("mfkd_network.py:Net cannot be built from its export alone: ")
    assert "(ModuleNotFoundError: No module named 'hidden', helpers.py line 2)" in text
    assert text.endswith("What it imports must lie beside it or in its package, or be installed.")
    assert "hidden" in sys.modules
    assert sorted(file.name for file in run.folder.iterdir()) == ["config.yaml", "student.safetensors"]


def test_student_with_the_teachers_classifier(tmp_path, kit):
    backbone = build_model("resnet8", 10, 1)
    tap = next(tap for tap in backbone.tap_points if tap.name == "stage3")
    plan = Projection(tap, "fc", (2, 2), 8, 16, 10, True)
    run = kit.put(tmp_path / "run", kit.settle(Projected(backbone, plan), (1, 8, 8)), "resnet8")
    folder = check(run, export_run(run.folder), 8)
    assert operators(folder / "model.onnx")["Conv"] == 12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "side", "options"),
    [
        ("timm/resnet10t", 64, {}),
        ("timm/resnet18", 64, {}),
        ("timm/mobilenetv3_small_050", 64, {}),
        ("timm/convnext_atto", 64, {}),
        ("timm/deit_tiny_patch16_224", 64, {"img_size": 64}),
        ("timm/efficientnet_b0", 64, {}),
    ],
)
def test_larger_network_of_timm(made, model, side, options):
    run = made(model, side, **options)
    check(run, export_run(run.folder), side)
    assert np.isfinite(json.loads((run.folder / "export" / "export.json").read_text())["top1"])
