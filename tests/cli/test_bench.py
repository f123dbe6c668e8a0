"""`mfkd bench`, `mfkd compare` and `mfkd sweep`: what they print, leave and refuse."""

import csv
import json
from io import StringIO

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from inprocess import Here
from mfkd.bench.foresee import foresee
from mfkd.bench.plan import load_bench
from mfkd.bench.run import open_board
from mfkd.cli import app
from mfkd.cli.bench import board_table
from mfkd.train import cost

PLAN = {
    "base": {
        "data": {"name": "digits", "fraction": 0.2},
        "teacher": {"model": "resnet8"},
        "student": {"model": "resnet8"},
        "train": {"epochs": 1, "batch_size": 32, "schedule": "constant"},
        "log": {"trackers": []},
    },
    "methods": {"kd": "kd", "broken": {"mfkd": {"student_taps": ["nowhere"]}}},
    "seeds": [0, 1],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(plan file, folder, what `mfkd bench` printed) of a small plan without its broken method."""
    folder = tmp_path_factory.mktemp("bench")
    file = folder / "plan.yaml"
    file.write_text(yaml.safe_dump({**PLAN, "out": str(folder / "out")}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mfkd.bench.local.Local", Here)
        patch.setattr(cost, "SECONDS", 0.0)
        result = CliRunner().invoke(app, ["bench", str(file), "--only", "kd"], catch_exceptions=False)
    return file, folder / "out", result


def test_bench_tells_every_cell_and_ends_with_the_comparison(done):
    _, folder, result = done
    assert result.exit_code == 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("[")]
    assert [line.split(":")[0] for line in lines] == [
        "[1/5] resnet8-resnet8, teacher",
        "[2/5] resnet8-resnet8, none, seed 0",
        "[3/5] resnet8-resnet8, kd, seed 0",
        "[4/5] resnet8-resnet8, none, seed 1",
        "[5/5] resnet8-resnet8, kd, seed 1",
    ]
    assert "over alone" in result.stdout
    assert "Not done yet: 2 of broken." in result.stdout
    names = ("bench.json", "comparison.md", "comparison.csv", "comparison.json")
    assert result.stdout.splitlines()[-1] == f"Files: {', '.join(str(folder / name) for name in names)}"
    assert (folder / "comparison.md").read_text().startswith("## resnet8 teaches resnet8 on digits, teacher ")


def test_compare_gives_what_the_bench_ended_with(done, mfkd, tmp_path):
    _, folder, result = done
    printed = mfkd("compare", folder, "--markdown", "a/table.md", "--csv", "table.csv")
    assert printed.exit_code == 0
    assert printed.stdout.split("Files:")[0] == result.stdout.split("Files:")[0]
    assert (tmp_path / "a" / "table.md").read_text() == (folder / "comparison.md").read_text()
    rows = list(csv.DictReader((tmp_path / "table.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"none", "kd"}
    assert printed.stdout.splitlines()[-1] == f"Files: a/table.md, table.csv, {folder}"
    value = mfkd("compare", folder, "--json")
    assert json.loads(value.stdout) == json.loads((folder / "comparison.json").read_text())


def test_compare_refuses_unlike_runs_and_allows_them_when_told(done, finished, mfkd):
    _, folder, _ = done
    run, _, _ = finished
    result = mfkd("compare", folder, run)
    assert result.exit_code != 0
    assert str(result.exception).startswith("unlike things: data.val_fraction is 0.0 in ")
    allowed = [word for field in ("data", "train", "teacher") for word in ("--allow", field)]
    assert mfkd("compare", folder, run, *allowed).exit_code != 0  # the student alone was trained twice, otherwise
    assert "was trained twice" in str(mfkd("compare", folder, run, *allowed).exception)
    assert mfkd("compare", folder, run / "distilled", *allowed).exit_code == 0


def test_a_failure_ends_the_command_with_one_and_its_line(done, mfkd, monkeypatch):
    file, folder, _ = done
    monkeypatch.setattr("mfkd.bench.local.Local", Here)
    result = mfkd("bench", file, f"out={folder}", "seeds=[0]")
    assert result.exit_code == 1
    assert "[4/4] resnet8-resnet8, broken, seed 0: failed: unknown tap 'nowhere'" in result.stderr
    assert result.stderr.splitlines()[-1].startswith(
        "mfkd: 1 of 4 cells failed, first resnet8-resnet8, broken, seed 0: unknown tap 'nowhere'"
    )
    assert result.stderr.splitlines()[-1].endswith("; --retry does them again.")
    shown = StringIO()
    Console(width=300, file=shown).print(board_table(open_board(load_bench(file, ["seeds=[0]"])), 1))
    shown = shown.getvalue()
    assert "3 of 4 done" in shown
    assert "seed 0 failed: unknown tap 'nowhere'" in shown


def test_dry_run_tells_time_disk_and_what_would_fail_and_writes_nothing(done, mfkd, tmp_path):
    file, folder, _ = done
    before = sorted(folder.rglob("*"))
    value = json.loads(mfkd("bench", file, "cache.views=2", "out=new", "seeds=[0]", "--dry-run", "--json").stdout)
    found = {cell["key"].split("/", 1)[1]: cell for cell in value["cells"]}
    assert found["kd/seed-0"]["seconds"] > 0
    assert found["kd/seed-0"]["megabytes"] > 0
    assert "unknown tap 'nowhere'" in found["broken/seed-0"]["error"]
    (cache,) = value["caches"]
    assert cache["megabytes"] == pytest.approx(
        2 * 269 * 10 * 2 / 1e6, rel=0.05
    )  # views, images, logits, half precision
    assert value["seconds"] == pytest.approx(sum(one["seconds"] for one in (*value["cells"], cache)))
    done_before = json.loads(mfkd("bench", file, "--only", "kd", "--dry-run", "--json").stdout)
    assert (done_before["seconds"], done_before["megabytes"]) == (0, 0)
    failed = open_board(load_bench(file, ["out=new", "seeds=[0]"]))
    for row in failed.rows:
        row.state = "failed"
    assert foresee(failed)["seconds"] == 0  # it is done again with --retry alone
    result = mfkd("bench", file, "out=new", "seeds=[0]", "--dry-run")
    text, told = result.stdout, result.stderr.splitlines()
    assert told[0] == "Measuring a few updates: resnet8-resnet8, teacher"
    assert [line.rpartition(", seed")[0].rpartition(", ")[2] for line in told[1:]] == ["none", "broken", "kd"]
    assert "Would fail: unknown tap 'nowhere'" in text
    assert text.splitlines()[-1] == "Nothing was written."
    assert sorted(folder.rglob("*")) == before
    assert list(tmp_path.iterdir()) == []


def test_sweep_prints_its_trials_and_where_the_best_options_are(mfkd, monkeypatch):
    pytest.importorskip("optuna", reason="the extra [sweep] is not installed")
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    small = ["data.fraction=0.2", "teacher.model=resnet8", "train.epochs=1", "teacher.train.epochs=1", "out=s"]
    words = [*small, "log.trackers=[]", "seeds=[0,3]", "weight=1..2", "temperature=[2.0,4.0]"]
    result = mfkd("sweep", *words, "--method", "kd", "--trials", 2)
    assert result.exit_code == 0
    assert "2 trials, Top-1 on the validation images, mean of seeds [0, 3]" in result.stdout
    assert "the test images were not looked at." in result.stdout
    assert result.stdout.splitlines()[-1] == "Files: s/sweep-kd/best.yaml, s/sweep-kd/trials.json"
    value = json.loads(mfkd("sweep", *words, "--method", "kd", "--trials", 2, "--json").stdout)
    assert [trial["number"] for trial in value["trials"]] == [0, 1]
    assert list(value["trials"][0]["by_seed"]) == ["0", "3"]  # a list that a recipe takes is no choice
    assert value["space"]["method.kd.temperature"] == [2.0, 4.0]
