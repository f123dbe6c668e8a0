import json

import numpy as np
import pytest
import torch
from PIL import Image

from mfkd import load_student
from mfkd.config import load_config
from mfkd.errors import ConfigError
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.records import RunRecord
from mfkd.teachers import obtain_teacher
from mfkd.train import cost, loop
from mfkd.train.student import load_with_card

TINY = (
    "data.name=digits", "data.fraction=0.2", "teacher.model=resnet14", "student.model=resnet8", "train.epochs=1",
    "train.batch_size=32", "train.schedule=constant", "log.trackers=[]", "teacher.train.epochs=2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cost, "SECONDS", 0.0)


@pytest.fixture
def do(tmp_path):
    """(summary, lines) of `mfkd run` on a few digits."""

    def do(*overrides):
        lines = []
        plan = open_plan(load_config(None, [*TINY, f"out={tmp_path}/run", *overrides]))
        return run(plan, lines.append), lines

    return do


@pytest.fixture
def untrained(monkeypatch):
    return lambda: monkeypatch.setattr(loop.Fit, "update", lambda *_: pytest.fail("trained again"))


def times(folder):
    kept = ("record.json", "last.pt", "log.csv", "head.safetensors", "metrics.json")
    files = (path for path in folder.rglob("*") if path.name in kept or path.parent.name.startswith("seed-"))
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_the_whole_job_and_what_it_leaves(do, tmp_path, untrained):
    summary, lines = do("seeds=[3]")
    folder = tmp_path / "run"
    assert len(lines) == 3
    assert json.loads((folder / "summary.json").read_text()) == summary
    for name in ("teacher", "student_alone", "student_distilled"):
        for metric in ("top1", "top5", "balanced", "ece", "parameters", "flops", "latency_ms"):
            assert summary[name][metric].keys() >= {"mean", "std", "n", "last"}, (name, metric)
        assert len(summary[name]["top1"]["best"]) == 1
    assert "agreement" not in summary["teacher"]
    assert 0 <= summary["student_distilled"]["agreement"]["mean"] <= 100
    assert summary["gain"].keys() >= {"mean", "ci95"}
    assert summary["gain"]["ci95"] is None
    alone, distilled = (RunRecord.load(folder / kind / "seed-3" / "record.json") for kind in ("alone", "distilled"))
    assert summary["gain"]["mean"] == distilled.metrics["top1"] - alone.metrics["top1"]
    assert distilled.curves[0].keys() >= {"ce", "mfkd", "kd"}
    assert alone.curves[0].keys().isdisjoint({"mfkd", "kd"})
    assert distilled.method.keys() == {"ce", "mfkd", "kd"}
    assert (alone.method, alone.training["epochs"]) == ({}, 1)
    assert RunRecord.load(folder / "teacher" / "record.json").training["epochs"] == 2
    config = load_config(folder / "config.yaml")
    assert (config.augment.crop_padding, config.augment.flip) == (1, False)  # the defaults of the data, written down
    network, card = load_with_card(folder)
    assert (card.model, card.classes, card.size, card.channels) == ("resnet8", tuple("0123456789"), (8, 8), 1)
    kept = load_student(folder / "distilled" / "seed-3").state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())

    before = times(folder)
    assert len(before) > 8
    untrained()
    assert do("seeds=[3]")[0] == summary
    assert times(folder) == before


def test_a_seed_is_added_and_only_that_one_runs(do, tmp_path):
    do("seeds=[0]")
    before = times(tmp_path / "run")
    summary, _ = do("seeds=[0,1]", "data.workers=1", "log.trackers=[tensorboard]")
    assert {path: times(tmp_path / "run")[path] for path in before} == before
    assert summary["seeds"] == [0, 1]
    assert summary["gain"]["n"] == 2
    low, high = summary["gain"]["ci95"]
    assert low <= summary["gain"]["mean"] <= high
    first, second = (load_student(tmp_path / "run" / "alone" / f"seed-{seed}").fc.weight for seed in (0, 1))
    assert not torch.equal(first, second)


def test_other_settings_in_the_same_folder_are_refused(do, tmp_path, monkeypatch):
    monkeypatch.setattr("mfkd.pipeline.obtain_teacher", lambda plan: (_ for _ in ()).throw(KeyError))
    with pytest.raises(KeyError):
        do()
    for override, key, values in (
        ("train.lr=0.3", "train.lr", "is 0.05 there and 0.3 here"),
        ("method={kd: {weight: 2.0}}", "method", "is 'mfkd' there and {'kd': {'weight': 2.0}} here"),
        ("teacher.train.lr=0.3", "teacher.train.lr", "is None there and 0.3 here"),
    ):
        with pytest.raises(ConfigError) as caught:
            do(override)
        folder = tmp_path / "run"
        assert str(caught.value) == f"{folder} holds another run: {key} {values}; choose another folder with out=."


def test_a_run_that_cannot_work_is_refused_before_anything_is_written(do, tmp_path):
    for override, text in (
        ("train.batch_size=5000", "train.batch_size=5000 is larger than"),
        ("method={mfkd: {student_taps: [front, botom]}}", "unknown tap 'botom'"),
        ("student.model=resnet9", "unknown model 'resnet9'"),
        ("method={kd: {wight: 1}}", "unknown key 'method.kd.wight'"),
        ("method=ab", "ab prepares the student for 1 of 1 epochs, which leaves none to train"),
    ):
        with pytest.raises(ConfigError, match=text):
            do(override)
    assert not (tmp_path / "run").exists()


def test_unlabelled_images_take_part_without_cross_entropy(do, tmp_path):
    folder = tmp_path / "more"
    folder.mkdir()
    drawn = np.random.default_rng(0)
    for number in range(40):
        Image.fromarray(drawn.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    summary, _ = do(f"data.unlabelled={folder}")
    with_them = RunRecord.load(tmp_path / "run" / "distilled" / "seed-0" / "record.json")
    plan = open_plan(load_config(None, [*TINY, f"data.unlabelled={folder}"]))
    assert with_them.images == (len(plan.data.train) // 32) * 32
    assert (plan.data.train.labels == -1).sum() == 40
    assert summary["student_distilled"]["top1"]["n"] == 1
    assert with_them.metrics["n"] == 450  # the test split is as it was


def test_a_loaded_teacher_is_measured_once_and_a_tuned_head_is_kept(do, tmp_path, untrained):
    do("seeds=[0]")
    weights = tmp_path / "run" / "teacher" / "teacher.safetensors"
    loaded, lines = do(f"out={tmp_path}/loaded", f"teacher.weights={weights}")
    own = RunRecord.load(tmp_path / "run" / "teacher" / "record.json").metrics
    assert lines[0] == "Teacher resnet14: loading"
    assert loaded["teacher"]["top1"]["mean"] == pytest.approx(own["top1"])
    assert "best" not in loaded["teacher"]["top1"]
    tuned, _ = do(f"out={tmp_path}/tuned", f"teacher.weights={weights}", "teacher.head=tune")
    assert tuned["teacher"]["top1"]["mean"] > own["top1"]
    for place in ("loaded", "tuned"):
        assert (tmp_path / place / "teacher" / "metrics.json").exists()
    assert (tmp_path / "tuned" / "teacher" / "head.safetensors").exists()
    untrained()
    before = times(tmp_path / "tuned")
    do(f"out={tmp_path}/tuned", f"teacher.weights={weights}", "teacher.head=tune")
    assert times(tmp_path / "tuned") == before


def test_a_teacher_of_other_classes_gives_its_maps_and_says_so(do, tmp_path):
    from mfkd.models import build_model
    from mfkd.models.weights import save_weights

    path = tmp_path / "foreign.safetensors"
    save_weights(path, build_model("resnet14", num_classes=7, in_channels=1).state_dict(), {})
    summary, _ = do(f"teacher.weights={path}")
    assert summary["notes"] == [
        "kd is off: the teacher's head has other classes than the student; teacher.head=tune fits a new one."
    ]
    assert "top1" not in summary["teacher"]
    assert "agreement" not in summary["student_distilled"]
    assert summary["method"].keys() == {"ce", "mfkd"}


def test_double_precision_trains_and_gives_the_teacher_back_as_it_was(tmp_path):
    plan = open_plan(load_config(None, [*TINY, f"out={tmp_path}/run", "train.precision=fp64"]))
    teacher = obtain_teacher(plan)
    from mfkd.pipeline import train_student

    record = train_student(plan, "distilled", 0, teacher)
    assert {p.dtype for p in teacher.parameters()} == {torch.float32}
    assert 0 <= record.metrics["agreement"] <= 100
    weights = load_student(tmp_path / "run" / "distilled" / "seed-0").state_dict()
    assert weights["fc.weight"].dtype == torch.float32
