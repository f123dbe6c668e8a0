"""An export is whole, measured and replaced only on purpose; or it is not there."""

import json
import math
import os
import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mfkd import load_student
from mfkd.errors import ConfigError, MfkdError
from mfkd.export import folder as module
from mfkd.export.folder import Wishes, export_run
from mfkd.export.layout import timm_preprocessing
from mfkd.export.onnx import OnnxModel
from mfkd.export.opened import open_trained
from mfkd.export.parity import Parity, require
from mfkd.files import sha256
from mfkd.handed import evaluate_run
from mfkd.train.interrupt import Interrupted


@pytest.fixture(scope="module")
def full(trained, tmp_path_factory):
    """Everything at once: (run, what export gave, folder)."""
    place = tmp_path_factory.mktemp("full") / "[out]"
    return trained, export_run(trained.folder, place, Wishes(embed=True, int8=True, fp16=True, max_drop=2)), place


def test_accuracy_is_that_of_evaluation_and_its_interval_is_wilsons(full):
    run, result, place = full
    top1 = evaluate_run(run.folder)["top1"]
    assert top1 > 80
    assert result["top1"] == result["forms"]["model.onnx"]["top1"] == pytest.approx(top1)
    p, n, z = top1 / 100, 450, 1.959963984540054
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert result["ci95"] == pytest.approx([100 * (middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)])
    assert evaluate_run(place, ["data.name=digits"])["top1"] == top1


def test_smaller_forms_are_measured_and_smaller(full):
    _, result, place = full
    assert list(result["forms"]) == ["model.onnx", "model.fp16.onnx", "model.int8.onnx"]
    for name, told in result["forms"].items():
        assert told["drop"] == pytest.approx(result["top1"] - told["top1"])
        assert told["drop"] <= 2
        assert told["agreement"] > 95
        assert told["ms"] > 0
        assert OnnxModel(place / name).feed.embedded
    sizes = {name: told["bytes"] for name, told in result["files"].items()}
    assert sizes["model.int8.onnx"] < sizes["model.fp16.onnx"] < 0.6 * sizes["model.onnx"]
    assert sizes["model.fp16.safetensors"] < 0.6 * sizes["model.safetensors"]
    assert all(told["sha256"] == sha256(place / name) for name, told in result["files"].items())
    half, whole = load_student(place / "model.fp16.safetensors"), load_student(place)
    image = torch.randn(4, 1, 8, 8)
    assert half(image).dtype == torch.float32
    assert 0 < (half(image) - whole(image)).abs().max() < 0.05


def test_raw_pixels_go_into_the_graphs(full):
    run, _, place = full
    raw = run.data.test.images[:5].permute(0, 2, 3, 1).contiguous()
    mean, std = run.card.mean[0], run.card.std[0]
    expected = run.network((run.data.test.images[:5] / 255 - mean) / std).detach()
    graph = torch.export.load(place / "model.pt2").module()
    assert torch.allclose(graph(raw), expected, atol=1e-4)
    assert np.allclose(OnnxModel(place / "model.onnx")(raw.numpy()), expected, atol=1e-4)


def test_labels_and_description(full):
    _, result, place = full
    assert (place / "labels.txt").read_text().splitlines() == [str(digit) for digit in range(10)]
    told = json.loads((place / "config.json").read_text())
    assert (told["architecture"], told["library"], told["num_classes"]) == ("resnet8", "mfkd", 10)
    assert told["pretrained_cfg"]["input_size"] == [1, 8, 8]
    assert (result["parameters"], result["seeds"], result["code"]) == (77754, None, [])
    assert set(result["parity"]) == {"model.onnx", "model.pt2", "load_student"}


@pytest.mark.parametrize("form", ["load_student", "OnnxModel", "_program"])
def test_form_that_says_something_else_leaves_nothing(trained, tmp_path, monkeypatch, form):
    real = getattr(module, form)

    def other(*args, **options):
        model = real(*args, **options)
        if form == "load_student":
            with torch.no_grad():
                next(model.parameters()).mul_(1.01)
            return model

        def answer(images):
            return 1.001 * model(images)

        answer.feed = getattr(model, "feed", None)
        return answer

    monkeypatch.setattr(module, form, other)
    name = {"load_student": "load_student", "OnnxModel": "model.onnx", "_program": "model.pt2"}[form]
    with pytest.raises(MfkdError, match=rf"^{name} does not repeat resnet8: on 450 test images"):
        export_run(trained.folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_int8_that_loses_too_much_is_refused(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "calibration", lambda opened: iter([np.zeros((8, 8, 8, 1), np.uint8)]))
    with pytest.raises(MfkdError) as caught:
        export_run(trained.folder, tmp_path / "out", Wishes(int8=True))
    text = str(caught.value)
    assert text.startswith("model.int8.onnx loses ")
    assert text.endswith(" %), allowed 0.5; nothing was written. Raise --max-drop, or leave out --int8.")
    assert list(tmp_path.iterdir()) == []


def test_earlier_export_is_replaced_on_purpose_alone(full, tmp_path, monkeypatch):
    run, _, _ = full
    place = tmp_path / "out"
    monkeypatch.setattr(module, "_fill", lambda part, *_: (part / "export.json").write_text("new") and {})
    export_run(run.folder, place)
    (place / "old.txt").write_text("old")
    with pytest.raises(ConfigError) as caught:
        export_run(run.folder, place)
    assert str(caught.value) == (
        f"{place} holds an export; replace it with --force, or choose another folder with --out."
    )
    assert (place / "old.txt").exists()
    export_run(run.folder, place, force=True)
    assert [file.name for file in place.iterdir()] == ["export.json"]
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_earlier_export_stays_where_the_new_one_fails(full, tmp_path, monkeypatch):
    run, _, _ = full
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text("old")

    def fails(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_fill", fails)
    with pytest.raises(KeyboardInterrupt):
        export_run(run.folder, tmp_path / "out", force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "export.json").read_text() == "old"


def test_other_folders_are_left_alone(full, tmp_path):
    run, _, _ = full
    (tmp_path / "notes.txt").write_text("mine")
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ConfigError) as caught:
            export_run(run.folder, place, force=True)
        assert str(caught.value) == f"{place} is there and no export; choose another folder with --out."
    with pytest.raises(MfkdError, match=r"^cannot write .*below: .*; choose another folder with --out\.$"):
        export_run(run.folder, tmp_path / "notes.txt" / "below")


@pytest.fixture
def quick(full, monkeypatch):
    """Export this run without doing the work."""
    monkeypatch.setattr(module, "_fill", lambda part, *_: (part / "export.json").write_text("new") and {})
    return lambda out, **options: export_run(full[0].folder, out, **options)


def test_signal_leaves_nothing_and_the_earlier_export(quick, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "export.json").write_text("old")

    def stop(part, *_):
        (part / "half").write_text("")
        signal.raise_signal(signal.SIGTERM)

    def swallowed(part, *_):
        try:
            stop(part)
        except Interrupted:
            raise RuntimeError("a library tells its own") from None

    for fill in (stop, swallowed):
        monkeypatch.setattr(module, "_fill", fill)
        with pytest.raises(Interrupted) as caught:
            quick(tmp_path / "out", force=True)
        assert (str(caught.value), caught.value.code) == (f"stopped; {tmp_path / 'out'} is as it was before.", 143)
        assert [file.name for file in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out" / "export.json").read_text() == "old"


def test_signal_between_old_and_new_leaves_the_old(quick, tmp_path, monkeypatch):
    quick(tmp_path / "out")
    (tmp_path / "out" / "old.txt").write_text("")
    real = Path.rename

    def rename(path, target):
        if path.name.endswith(".tmp"):
            signal.raise_signal(signal.SIGTERM)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(Interrupted):
        quick(tmp_path / "out", force=True)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "old.txt").exists()


def test_what_a_killed_export_left_goes_with_the_next(quick, tmp_path):
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    names = [f".out.{gone.pid}.tmp", f".out.{os.getpid()}.tmp", f".out.{os.getppid()}.tmp", f".other.{gone.pid}.tmp"]
    for name in [*names, f".out.{gone.pid}.old"]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "export.json").write_text("old")
    with pytest.raises(ConfigError, match=r"out holds an export; replace it with --force"):  # it has come back
        quick(tmp_path / "out")
    assert (tmp_path / "out" / "export.json").read_text() == "old"
    quick(tmp_path / "out", force=True)
    assert {file.name for file in tmp_path.iterdir()} == {"out", *names[2:]}  # of one at work, and of another place


def test_link_stays_a_link(quick, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    assert quick(tmp_path / "out")["folder"] == str(tmp_path / "out")
    quick(tmp_path / "out", force=True)
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "real" / "export.json").exists()
    assert {file.name for file in tmp_path.iterdir()} == {"out", "real"}


def test_working_folder_is_not_replaced(quick, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(ConfigError) as caught:
        quick(".")
    assert str(caught.value) == ". is where you are, and would be replaced; choose another folder with --out."
    assert quick("./new")["folder"] == "new"
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(("kept", "expected"), [((0, 1), 0), ((1,), None), ((), 1)])
def test_record_is_that_of_the_very_weights(trained, tmp_path, kept, expected):
    """The recipe names the seeds of a run that has begun, the weights are of one that has ended."""
    shutil.copytree(trained.folder, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    (tmp_path / "run" / "config.yaml").write_text("data: {name: digits}\nseeds: [1, 2]\n")
    for seed in (0, 1):
        folder = tmp_path / "run" / "distilled" / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_text("")
        if seed in kept:
            own = (tmp_path / "run" / "student.safetensors").read_bytes()
            (folder / "student.safetensors").write_bytes(own if seed == 0 else b"others")
    found = open_trained(tmp_path / "run").record_file
    assert found == (expected if expected is None else tmp_path / f"run/distilled/seed-{expected}/record.json")


def test_validation_images_are_not_called_test_images(trained, tmp_path):
    said = []
    words = ["data.val_fraction=0.02", "data.evaluate=val"]
    result = export_run(trained.folder, tmp_path / "out", overrides=words, say=said.append)
    assert result["split"] == "val"
    assert f"Comparing all forms on {result['images']} validation images" in said
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"Logits of all {result['images']} validation images beside those" in card
    assert "Accuracy holds for images like those of the validation split;" in card
    assert "test images" not in card
    assert evaluate_run(trained.folder, words)["split"] == "val"
    assert evaluate_run(trained.folder)["split"] == "test"
    with pytest.raises(MfkdError, match=r"^x does not repeat m: on 3 validation images its logits differ"):
        require(Parity(3, 1.0, 1, 0), "x", "m", "validation")


@pytest.mark.parametrize("side", [None, *range(224, 300)])
def test_crop_that_timm_rounds_is_ours(full, side):
    card = replace(full[0].card, size=(224, 224), side=side, interpolation="bicubic")
    told = timm_preprocessing(card)
    assert math.floor(224 / told["crop_pct"]) == (side or 224)
    assert told["crop_mode"] == ("center" if side else "squash")
    assert told["interpolation"] == "bicubic"
