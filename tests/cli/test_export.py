"""`mfkd export` and `mfkd latency` on a small finished run."""

import json
import re

import pytest

from mfkd.records import RunRecord


@pytest.fixture(scope="module")
def exported(finished):
    """(run folder, export folder, typer's result of exporting the first)."""
    from typer.testing import CliRunner

    from mfkd.cli import app

    run = finished[0]
    words = ["export", str(run), "--out", str(run.parent / "out"), "--int8", "--max-drop", "100"]
    return run, run.parent / "out", CliRunner().invoke(app, words, catch_exceptions=False)


def test_export_prints_what_it_proved_and_where_it_is(exported):
    run, folder, result = exported
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "resnet8 on 450 test images, beside PyTorch"
    rows = {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in lines)}
    for form in ("model.onnx", "model.pt2", "load_student"):
        assert any(line.strip().startswith(form) and line.split()[-2:] == ["0", "0"] for line in lines)
    top1 = RunRecord.load(run / "distilled" / "seed-0" / "record.json").metrics["top1"]
    assert rows["model.onnx"][0] == f"{top1:.2f}"
    assert any(line.startswith(f"Top-1 of the trained network {top1:.2f} %, 95% interval") for line in lines)
    assert "model.int8.onnx" in rows
    assert lines[-1] == f"Files: {folder}"
    assert "Comparing all forms on 450 test images" in result.stderr


def test_export_tells_all_seeds_and_copies_the_record(exported):
    run, folder, _ = exported
    records = [RunRecord.load(run / "distilled" / f"seed-{seed}" / "record.json") for seed in (0, 1)]
    assert (folder / "record.json").read_bytes() == (run / "distilled" / "seed-0" / "record.json").read_bytes()
    seeds = json.loads((folder / "export.json").read_text())["seeds"]
    assert seeds["n"] == 2
    assert seeds["mean"] == pytest.approx(sum(record.metrics["top1"] for record in records) / 2)
    card = (folder / "README.md").read_text()
    assert f"Over the 2 seeds of the run: mean {seeds['mean']:.2f} %" in card
    assert "| teacher resnet20 | none beyond that of the data (trained in this run from random weights) |" in card


def test_refusals_are_one_line(exported, mfkd, tmp_path):
    run, folder, _ = exported
    again = mfkd("export", run, "--out", folder)
    assert str(again.exception) == (
        f"{folder} holds an export; replace it with --force, or choose another folder with --out."
    )
    assert str(mfkd("export", tmp_path / "none").exception) == (
        f"{tmp_path / 'none'} does not exist; give a run folder such as runs/digits."
    )
    assert str(mfkd("export", run, "train.lr=1", "--out", tmp_path / "x").exception) == (
        "got 'train.lr=1', expected a key of the data, such as data.name=folder:PATH."
    )
    assert list(tmp_path.iterdir()) == []


def test_latency_as_table_and_as_json(exported, mfkd, monkeypatch):
    _, folder, _ = exported
    monkeypatch.setattr("mfkd.export.contest._peak_of", lambda contender, batch: None)
    words = ["latency", folder / "model.onnx", "--batch", "1", "--batch", "3", "--rounds", "2"]
    table = mfkd(*words)
    assert table.exit_code == 0, table.output
    first, second = (re.split(r" {2,}", line.strip()) for line in table.stdout.splitlines()[4:6])
    assert first[:3] == [f"{folder}/model.onnx", "ONNX Runtime", "1"]
    assert first[-2:] == ["-", f"{(folder / 'model.onnx').stat().st_size / 1e6:.2f}"]
    assert (second[0], len(second)) == ("3", 4)
    found = json.loads(mfkd(*words, "--json").stdout)
    assert found["batches"] == [1, 3]
    assert found["rows"][0]["batches"]["3"]["calls"] == 2
    assert str(mfkd("latency", "resnet8", "--input", "32").exception) == (
        "--input: got '32', expected channels x height x width, for example 3x32x32."
    )
