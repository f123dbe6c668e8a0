"""The estimate of a run against what a real run takes, without a trace on disk."""

import pytest
import torch

from mfkd import estimate as module
from mfkd.config import load_config
from mfkd.errors import ConfigError
from mfkd.estimate import estimate
from mfkd.methods.objective import Objective
from mfkd.models import build_model
from mfkd.models.weights import save_weights
from mfkd.pipeline import run
from mfkd.plan import open_plan
from mfkd.teacher.frozen import FrozenTeacher

WORDS = ["train.epochs=2", "teacher.train={epochs: 2}", "data.fraction=0.2", "log.trackers=[]"]


@pytest.fixture
def plan(tmp_path):
    def make(*words):
        return open_plan(load_config(None, ["seeds=[0]", *WORDS, f"out={tmp_path / 'run'}", *words]))

    return make


def test_every_step_is_estimated_and_nothing_written(plan, tmp_path):
    said = []
    value = estimate(plan("seeds=[3, 5]"), said.append)
    assert [(step["step"], step["folder"]) for step in value["steps"]] == [
        ("teacher, seed 0", str(tmp_path / "run" / "teacher")),
        ("student alone, seed 3", str(tmp_path / "run" / "alone" / "seed-3")),
        ("student distilled, seed 3", str(tmp_path / "run" / "distilled" / "seed-3")),
        ("student alone, seed 5", str(tmp_path / "run" / "alone" / "seed-5")),
        ("student distilled, seed 5", str(tmp_path / "run" / "distilled" / "seed-5")),
    ]
    assert all(step["seconds"] > 0 and step["megabytes"] > 0 for step in value["steps"])
    assert value["seconds"] == pytest.approx(sum(step["seconds"] for step in value["steps"]))
    assert list(tmp_path.iterdir()) == []
    assert said == [
        f"Measuring a few updates: {name}, seed {3 * (name != 'teacher')}"
        for name in ("teacher", "student alone", "student distilled")
    ]


def test_disk_is_right_and_finished_steps_are_free(plan, tmp_path):
    before = estimate(plan())
    run(plan(), lambda _: None)
    for step in before["steps"]:
        files = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and step["folder"] in str(path)]
        assert step["megabytes"] == pytest.approx(sum(path.stat().st_size for path in files) / 1e6, rel=0.15)
    after = estimate(plan("seeds=[0, 1]"))
    assert [step["seconds"] > 0 for step in after["steps"]] == [False, False, False, True, True]
    assert [step["megabytes"] > 0 for step in after["steps"]] == [False, False, False, True, True]


def test_time_follows_the_measured_update(plan, monkeypatch):
    """A clock that ticks once a look: an update, a batch of evaluation and a pass of preparation take 1 s each."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))
    alone = estimate(plan("train.epochs=10", "train.evaluate_every=4"))["steps"][1]
    updates = 10 * (269 // 64)  # a fifth of 1347 images, in batches of 64
    evaluations = 3 + 1  # one batch each: after epochs 4, 8 and 10, and at the end
    preparation, agreement = 1, 1
    assert alone["seconds"] == pytest.approx(updates + evaluations + preparation + agreement + module.COST_SECONDS)


def test_a_term_is_counted_until_it_has_faded_out(plan, monkeypatch):
    """An update takes 1 s, and 8 s more where the objective has a term of MFKD."""
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    def forward(objective, *given):
        now[0] += 8 * ("mfkd" in dict(objective.awake()))
        return real(objective, *given)

    real = Objective.forward
    monkeypatch.setattr(module.time, "perf_counter", clock)
    monkeypatch.setattr(Objective, "forward", forward)

    def seconds(fade):
        words = ("train.epochs=10", "method={mfkd: {}, kd: {}}", f"method.mfkd.fade={fade}")
        return estimate(plan(*words))["steps"][2]["seconds"]

    updates = 10 * (269 // 64)
    stays = seconds("null")
    assert stays - seconds(0.25) == pytest.approx(updates * 8 * 0.75)
    assert seconds(1.0) == pytest.approx(stays)


def test_slow_updates_are_few():
    def taken(*seconds):
        return next(count for count in range(99) if module._enough([*seconds, *[seconds[-1]] * 99][:count]))

    assert taken(0.1) == 12
    assert taken(9, 0.1) == 2  # one that took long
    assert taken(2.0) == 4


def test_loaded_teacher_is_not_trained(plan, tmp_path):
    torch.manual_seed(0)
    save_weights(tmp_path / "t.safetensors", build_model("resnet20", 10, 1).state_dict())
    first = estimate(plan(f"teacher.weights={tmp_path / 't.safetensors'}"))["steps"][0]
    assert first["step"] == "teacher, loaded"
    assert first["megabytes"] == 0
    assert first["seconds"] < 10


def test_what_the_run_would_refuse_is_refused(plan):
    with pytest.raises(ConfigError, match=r"^train\.batch_size=5000 is larger than the \d+ training images;"):
        estimate(plan("train.batch_size=5000"))


def test_a_teacher_is_measured_as_it_answers_in_its_own_size_and_precision(plan, tmp_path, monkeypatch):
    file = tmp_path / "vit.safetensors"
    vit = build_model(
        "timm/vit_tiny_patch16_224", num_classes=10, in_channels=1, depth=1, img_size=32, embed_dim=12, num_heads=2
    )
    save_weights(file, vit.state_dict(), {})
    words = ("teacher.model=timm/vit_tiny_patch16_224", f"teacher.weights={file}", "teacher.train={}", "method=kd")
    options = "teacher.options={depth: 1, img_size: 32, embed_dim: 12, num_heads: 2}"
    asked = []
    logits = FrozenTeacher.logits
    monkeypatch.setattr(FrozenTeacher, "logits", lambda own, image: (asked.append(image), logits(own, image))[1])
    value = estimate(plan(*words, options, "teacher.image_size=32", "train.precision=fp64"))
    assert len(value["steps"]) == 3
    assert {(tuple(image.shape[1:]), image.dtype) for image in asked} == {((1, 8, 8), torch.float32)}
