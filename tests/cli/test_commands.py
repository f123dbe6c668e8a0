"""Every command on a small finished run: what it prints and what it gives to machines."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from mfkd.config import describe_keys, load_config
from mfkd.methods import METHODS
from mfkd.models import model_names
from mfkd.records import RunRecord


def rows(text):
    """Cells of a printed table by the first cell."""
    cells = (re.split(r" {2,}", line.strip()) for line in text.splitlines())
    return {first: rest for first, *rest in cells}


def test_run_prints_the_three_networks_and_where_the_files_are(finished):
    folder, _, result = finished
    found = rows(result.stdout)
    summary = json.loads((folder / "summary.json").read_text())
    assert found["network"] == ["resnet20", "resnet8", "resnet8"]
    top1 = summary["student_distilled"]["top1"]
    assert found["Top-1, %"][2] == f"{top1['mean']:.2f} ± {top1['std']:.2f}"
    assert found["agrees with teacher, %"][0] == "-"
    assert found["parameters"] == ["272,186", "77,754", "77,754"]
    low, high = summary["gain"]["ci95"]
    assert f"{summary['gain']['mean']:+.2f} points of Top-1, 95% interval {low:+.2f} to {high:+.2f}" in result.stdout
    assert result.stdout.splitlines()[-1] == f"Files: {folder}/summary.json, {folder}/student.safetensors"
    assert "Student resnet8 distilled, seed 1 (2 of 2)" in result.stderr


def test_table_of_a_run_fits_eighty_columns(finished, mfkd, monkeypatch):
    _, words, _ = finished
    monkeypatch.setenv("COLUMNS", "80")
    table = mfkd("run", *words).stdout.split("Gain by")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert len(table) == 14  # title, head with its lines, nine rows: nothing is wrapped


def test_finished_run_as_json_is_the_summary_alone(finished, mfkd):
    folder, words, _ = finished
    result = mfkd("run", *words, "--json")
    assert json.loads(result.stdout) == json.loads((folder / "summary.json").read_text())
    assert f"Files: {folder}/summary.json" in result.stderr


def test_dry_run_of_a_finished_run_is_done(finished, mfkd):
    _, words, _ = finished
    value = json.loads(mfkd("run", *words, "--dry-run", "--json").stdout)
    assert [step["step"] for step in value["steps"]] == [
        "teacher, seed 0",
        "student alone, seed 0",
        "student distilled, seed 0",
        "student alone, seed 1",
        "student distilled, seed 1",
    ]
    assert value["seconds"] == value["megabytes"] == 0


def test_dry_run_writes_nothing(mfkd, tmp_path):
    result = mfkd("run", "data.fraction=0.2", "train.epochs=1", "teacher.train.epochs=1", "seeds=[0]", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "Nothing was written."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("command", "kind"), [("train", "alone"), ("distill", "distilled")])
def test_single_steps_take_what_the_run_has_done(finished, mfkd, command, kind):
    folder, words, _ = finished
    result = mfkd(command, *words)
    record = RunRecord.load(folder / kind / "seed-1" / "record.json")
    assert rows(result.stdout)["1"][0] == f"{record.metrics['top1']:.2f}"
    assert result.stdout.splitlines()[-1] == f"Files: {folder}/{kind}/seed-0, {folder}/{kind}/seed-1"
    records = json.loads(mfkd(command, *words, "--json").stdout)
    assert [(found["kind"], found["seed"]) for found in records] == [(kind, 0), (kind, 1)]


def test_evaluate_repeats_the_record(finished, mfkd):
    folder, _, _ = finished
    record = RunRecord.load(folder / "distilled" / "seed-0" / "record.json").metrics
    found = json.loads(mfkd("evaluate", folder, "--json").stdout)
    for name in ("top1", "top5", "balanced", "ece", "agreement", "loss", "n", "parameters", "flops"):
        assert found[name] == pytest.approx(record[name], rel=1e-5), name
    printed = mfkd("evaluate", folder)
    assert rows(printed.stdout)["Top-1"] == [f"{record['top1']:.2f}", "%"]
    assert printed.stdout.splitlines()[-1] == f"Files: {folder}/student.safetensors"


def test_predict_names_every_class_once(finished, mfkd, tmp_path):
    folder, _, _ = finished
    pixels = (load_digits().images[0] * 255 / 16).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "zero[red].png")
    found = json.loads(mfkd("predict", "zero[red].png", "--model", folder, "--top", 99, "--json").stdout)
    assert [row["image"] for row in found] == ["zero[red].png"]
    names, shares = zip(*found[0]["top"], strict=True)
    assert sorted(names) == [str(digit) for digit in range(10)]
    assert sum(shares) == pytest.approx(1)
    assert sorted(shares, reverse=True) == list(shares)
    line = mfkd("predict", ".", "-m", folder).stdout.splitlines()[0]
    assert line == "zero[red].png: " + ", ".join(f"{name} {share:.1%}" for name, share in found[0]["top"][:5])


def test_models_are_listed_with_their_size(mfkd):
    found = {row["model"]: row for row in json.loads(mfkd("models", "--json").stdout)}
    assert tuple(found) == model_names()
    assert found["resnet20"]["parameters"] == 278324
    assert "stage1.pre" in found["resnet20"]["taps"]
    assert rows(mfkd("models").stdout)["resnet20"] == ["stem stage1 stage2 stage3 penultimate", "278,324"]


def test_methods_are_listed_and_explained(mfkd):
    assert [row["method"] for row in json.loads(mfkd("methods", "--json").stdout)] == list(METHODS)
    text = mfkd("methods").stdout
    assert "Hinton et al., 2015" in text
    assert "method=none stands for plain training, without a teacher." in text
    assert "https://arxiv.org/abs/1503.02531" in mfkd("methods", "kd").stdout
    assert json.loads(mfkd("methods", "kd", "--json").stdout)["needs"] == ["logits"]
    assert rows(mfkd("methods", "kd").stdout)["temperature"] == ["4.0", "T that softens both distributions"]


def test_taps_have_shapes(mfkd):
    found = rows(mfkd("taps", "resnet8", "--input", "1x16x16").stdout)
    assert found["bottom"][:3] == ["layer3.0.relu2", "output", "64 x 4 x 4"]
    shown = json.loads(mfkd("taps", "resnet8", "--input", "1x16x16", "--json").stdout)
    assert {row["name"]: row["shape"] for row in shown}["bottom"] == [64, 4, 4]


def test_keys_and_recipes_are_listed(mfkd):
    found = rows(mfkd("run", "--keys").stdout)
    for key, default, meaning in describe_keys():
        assert found[key] == [default, meaning]
    recipes = json.loads(mfkd("run", "--recipes", "--json").stdout)
    assert "digits" in {row["recipe"] for row in recipes}
    for row in recipes:
        load_config(row["recipe"])
        assert row["meaning"]
