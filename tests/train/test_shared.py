"""What all distilled students of a run share: one calibration, and one cache that replaces the teacher exactly."""

import json
from itertools import chain, count, islice

import numpy as np
import pytest
import torch
from PIL import Image

from mfkd.config import load_config
from mfkd.distill import Distiller
from mfkd.errors import CacheError, ConfigError
from mfkd.models.weights import read_weights
from mfkd.pipeline import build_student, share_knowledge, shared_job, train_student
from mfkd.plan import open_plan
from mfkd.seeding import seeded
from mfkd.teacher.cache import CachedSource
from mfkd.teacher.manifest import read_manifest
from mfkd.teacher.store import Store
from mfkd.teachers import obtain_teacher
from mfkd.train import build, cost, shared
from mfkd.train.batches import training_batches
from mfkd.train.interrupt import Interrupt, Interrupted
from mfkd.train.shared import foresee, has_cache, known_place

TINY = (
    "data.name=digits", "data.fraction=0.2", "teacher.model=resnet8", "teacher.train.epochs=1", "student.model=resnet8",
    "train.batch_size=32", "train.epochs=3", "train.schedule=constant", "log.trackers=[]", "train.evaluate_every=3",
)  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "SECONDS", 0.0)
    monkeypatch.setattr(shared, "ROOT", str(tmp_path / "root"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A teacher of one epoch."""
    plan = open_plan(load_config(None, [*TINY, f"out={tmp_path_factory.mktemp('teacher')}"]))
    obtain_teacher(plan)
    return plan.teacher_job().weights


@pytest.fixture
def do(tmp_path, weights):
    """(plan, what is shared, lines, records) of the distilled students of a run with that teacher."""

    def do(name, *overrides, train=True):
        words = [*TINY, f"out={tmp_path}/{name}", f"teacher.weights={weights}", *overrides]
        plan, lines = open_plan(load_config(None, words)), []
        teacher = obtain_teacher(plan)
        made = share_knowledge(plan, teacher, lines.append)
        records = [
            train_student(plan, "distilled", seed, teacher, made) for seed in (plan.config.seeds if train else ())
        ]
        return plan, made, lines, records

    return do


def losses(plan, made, steps=20):
    """Of the first updates of a student, fed as the trainer feeds it."""
    with seeded(0, "weights"):
        distiller = made.give(build_student(plan, "distilled", 0, obtain_teacher(plan)))
    loader = training_batches(plan.student_job("distilled", 0), plan.data, "cpu")
    optimizer = torch.optim.SGD(distiller.trainable_parameters(), lr=0.003, momentum=0.9)
    distiller.train()
    found = []
    for batch in islice(chain.from_iterable(map(loader.epoch, count())), steps):
        out = distiller(batch.image, batch.label, batch.index, None, distiller.ahead(batch))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        found.append(out.loss.item())
    return found


@pytest.fixture
def built(monkeypatch):
    """Folders that were built."""
    found = []
    real = shared.build_cache
    monkeypatch.setattr(shared, "build_cache", lambda folder, *a, **k: (found.append(folder), real(folder, *a, **k)))
    return found


@pytest.fixture
def calibrated(monkeypatch):
    """Seeds of distillers that ran a stage."""
    found = []
    real = Distiller._run_stage
    monkeypatch.setattr(Distiller, "_run_stage", lambda self, *a, **k: (found.append(a[0]), real(self, *a, **k)))
    return found


@pytest.mark.parametrize("options", ["weight: 4", "weight: 4, kind: attention, distance: mse, head_weight: 0.5"])
def test_cached_and_live_training_have_the_same_losses_step_by_step(do, options):
    method = f"method={{mfkd: {{{options}}}, kd: {{}}}}"
    live, half, full, fewer = (
        losses(*do(name, *words, method, train=False)[:2])
        for name, *words in (
            ("live", "augment.views=2"),
            ("half", "cache.views=2"),
            ("full", "cache.views=2", "cache.dtype=float32"),
            ("fewer", "augment.views=1"),
        )
    )
    assert half == pytest.approx(live, rel=1e-3)
    assert full[:8] == pytest.approx(live[:8], rel=1e-6)  # later on training magnifies whatever differs
    assert full == pytest.approx(live, rel=1e-3)
    assert half != pytest.approx(live, rel=1e-6)  # the knowledge was rounded on its way over the disk
    assert live[19] < 0.9 * live[0]
    assert fewer[:8] == pytest.approx(live[:8], rel=1e-4)  # the first epoch has 8 steps and view 0 in any case
    assert fewer[8:] != pytest.approx(live[8:], rel=1e-3)


def test_the_teacher_is_not_asked_while_a_student_trains(do, monkeypatch):
    _, made, *_ = do("run", "cache.views=2", train=False)
    asked = []
    real = shared.LiveSource.knowledge
    monkeypatch.setattr(shared.LiveSource, "knowledge", lambda self, b: (asked.append(len(b)), real(self, b))[1])
    _, again, lines, _ = do("run", "cache.views=2")
    assert asked == [2, 2]  # shapes, and the check of two answers
    assert lines == []  # nothing was built
    assert again.store.folder == made.store.folder


@pytest.mark.parametrize("views", ["cache.views=2", "augment.views=2"])
def test_all_seeds_share_one_calibration_live_or_cached(do, calibrated, tmp_path, views):
    plan, made, _, (first, second) = do("run", views, "seeds=[0,1]", "train.epochs=1", "train.evaluate_every=1")
    assert calibrated == ["mfkd"]
    state, metadata = read_weights(tmp_path / "run" / "distilled" / "prepared.safetensors")
    assert state.keys() == made.state.keys()
    assert all(name.startswith("methods.mfkd.teacher_side.") for name in state)
    assert first.shared_seconds == second.shared_seconds
    assert first.preparation_seconds < first.shared_seconds["preparation"]
    assert first.shared_seconds.keys() == {"preparation", *(["cache"] if "cache" in views else [])}
    assert first.shared_seconds["preparation"] == float(metadata["seconds"]) > 0
    for seed in (0, 1):
        checkpoint = torch.load(plan.student_job("distilled", seed).checkpoint, weights_only=True)["model"]
        assert all(torch.equal(checkpoint[f"objective.{name}"], value) for name, value in state.items())
    do("run", views, "seeds=[0,1,2]", "train.epochs=1", "train.evaluate_every=1")  # a seed is added
    assert calibrated == ["mfkd"]


def test_the_calibration_belongs_to_the_teachers_seed(do):
    words = ("method={mfkd: {kind: attention}, kd: {}}",)
    states = [do(f"run-{n}", f"teacher.seed={seed}", *words, train=False)[1].state for n, seed in enumerate((0, 0, 1))]
    name = next(name for name in states[0] if name.endswith("weight"))
    assert torch.equal(states[0][name], states[1][name])
    assert not torch.equal(states[0][name], states[2][name])


def test_a_calibration_of_another_teacher_is_refused(do, weights, monkeypatch):
    do("run", train=False)
    monkeypatch.setattr(shared, "teacher_fields", lambda *_: {"weights": "other"})
    with pytest.raises(
        ConfigError, match=r"prepared\.safetensors was prepared for another teacher or other settings; "
    ):
        do("run", train=False)


def test_runs_with_other_weights_methods_and_students_share_a_cache(do, built):
    folders = {
        do(name, "cache.views=2", *overrides, train=False)[1].store.folder
        for name, *overrides in (
            ("a",),
            ("b", "method={mfkd: {weight: 1}, kd: {weight: 2}}"),
            ("c", "student.model=resnet14", "train.lr=0.2"),
            ("d", "method=kd"),
        )
    }
    assert built == [*folders]
    do("e", "cache.views=3", "method=kd", train=False)
    assert len(built) == 2


def test_a_plain_objective_shares_nothing(do):
    assert do("run", "cache.views=2", "method=none", train=False)[1] == shared.Shared()


def test_another_teacher_in_the_same_folder_is_refused_by_name(do, tmp_path):
    words = ("cache.views=1", f"cache.folder={tmp_path}/mine", "method=kd")
    assert do("a", *words, train=False)[1].store.folder == tmp_path / "mine"
    do("b", *words, train=False)
    for override, field in (
        ("augment.view_seed=3", "view_seed"),
        ("data.fraction=0.1", "data.fraction"),
        ("cache.dtype=bfloat16", "storage"),
    ):
        with pytest.raises(CacheError, match=f"mine belongs to another run: {field} is "):
            do(f"c-{field}", *words, override, train=False)
    plan = open_plan(load_config(None, [*TINY, f"out={tmp_path}/d", *words, "teacher.seed=1", "train.epochs=1"]))
    with pytest.raises(CacheError, match=r"mine belongs to another run: teacher\.weights is "):
        share_knowledge(plan, obtain_teacher(plan), print)


def test_knowledge_that_the_teacher_would_not_give_is_refused(do, monkeypatch):
    do("run", "cache.views=2", train=False)
    real = CachedSource.knowledge

    def wrong(self, batch):
        found = real(self, batch)
        found.taps["mfkd/fused"] = found.taps["mfkd/fused"].flip(0)
        return found

    monkeypatch.setattr(CachedSource, "knowledge", wrong)
    with pytest.raises(CacheError, match=r"mfkd/fused differs from the teacher's own answer by \d+%; remove it with "):
        do("run", "cache.views=2", train=False)


def test_interrupted_building_goes_on_to_the_same_bytes(do, tmp_path, monkeypatch):
    whole = do("whole", "cache.views=1", f"cache.folder={tmp_path}/whole-cache", train=False)[1].store
    monkeypatch.setattr(Interrupt, "__enter__", lambda self: (setattr(self, "pending", True), self)[1])
    monkeypatch.setattr(Interrupt, "__exit__", lambda *_: None)
    words = ("cache.views=1", f"cache.folder={tmp_path}/part-cache")
    (tmp_path / "parts" / "distilled").mkdir(parents=True)
    prepared = (tmp_path / "whole" / "distilled" / "prepared.safetensors").read_bytes()
    (tmp_path / "parts" / "distilled" / "prepared.safetensors").write_bytes(prepared)
    for _ in range(3):
        with pytest.raises(Interrupted) as caught:
            do("parts", *words, train=False)
    assert str(caught.value) == (
        "knowledge cache: stopped in view 1 of 1 (3 chunks in all); the same command goes on from here. "
        f"Everything is in {tmp_path}/part-cache."
    )
    monkeypatch.undo()
    parts = do("parts", *words, train=False)[1].store
    assert read_manifest(parts.folder).checksums == whole.manifest.checksums
    for name in ("0.bin", "1.bin", "checksums.bin"):
        assert (parts.folder / name).read_bytes() == (whole.folder / name).read_bytes()


def test_building_tells_size_and_time_first_and_leaves_where_it_is(do, tmp_path):
    plan, made, (line,), _ = do("run", "cache.views=2", train=False)
    images = len(plan.data.train)
    size = 2 * 2 * images * ((16 + 32 + 64) * 2 * 2 + 10)
    assert made.store.manifest.total == size
    assert line.startswith(
        f"Knowledge cache: 2 views of {images} images, mfkd/fused 0.5 MB, teacher/logits 0.0 MB; 0.5"
    )
    assert line.endswith(f" s, in {made.store.folder}")
    assert known_place(plan.config) == made.store.folder
    assert has_cache(plan.config)
    assert json.loads((tmp_path / "run" / "distilled" / "knowledge.json").read_text()) == {
        "folder": str(made.store.folder)
    }


def test_foresight_writes_nothing_and_knows_the_size(do, tmp_path, weights):
    made = do("run", "cache.views=2", train=False)[1]
    words = [*TINY, f"out={tmp_path}/none", f"teacher.weights={weights}", "cache.views=4"]
    other = open_plan(load_config(None, words))
    teacher = obtain_teacher(other)
    told = foresee(shared_job(other), lambda seed: build_student(other, "distilled", seed, teacher), other.data)
    assert told["bytes"] == 2 * made.store.manifest.total == sum(told["tensors"].values())
    assert told["tensors"].keys() == {"mfkd/fused", "teacher/logits"}
    assert 0 < told["seconds"] < 60
    assert not (tmp_path / "none").exists()
    assert not has_cache(other.config)


def test_mixing_and_a_second_number_of_views_are_refused():
    for words, text in (
        (
            ["cache.views=2", "augment.mixup=0.2"],
            "augment.mixup mixes images anew each time, and cache.views=2 keeps what the teacher said of unmixed ones; "
            "set cache.views=null or augment.mixup=0.",
        ),
        (
            ["cache.views=2", "augment.views=3"],
            "augment.views=3 and cache.views=2 must be the same; leave augment.views out.",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            load_config(None, words)
        assert str(caught.value) == text


def test_cache_is_part_of_what_a_student_is_but_not_where_it_lies(tmp_path):
    def hashes(*words):
        plan = open_plan(load_config(None, [*TINY, *words]))
        return [plan.student_job(kind, 0).hash for kind in ("alone", "distilled")] + [plan.teacher_job().hash]

    live, cached = hashes("augment.views=2"), hashes("cache.views=2")
    assert (live[0], live[2]) == (cached[0], cached[2])  # the student alone sees the same views
    assert live[1] != cached[1]
    assert hashes("cache.views=2", "cache.folder=x") == cached
    assert hashes("cache.views=2", "cache.dtype=bfloat16")[1] != cached[1]
    unlimited = hashes()
    assert unlimited[0] != live[0]
    assert unlimited[2] == live[2]  # the teacher learns from ever new views


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_large_images_with_unlabelled_ones_are_cached(tmp_path, workers):
    drawn = np.random.default_rng(0)
    for place, images in (("train/a", 6), ("train/b", 6), ("test/a", 2), ("test/b", 2), ("more", 5)):
        (tmp_path / "images" / place).mkdir(parents=True)
        for number in range(images):
            pixels = drawn.integers(0, 255, (100, 120, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / place / f"{number}.png")
    (tmp_path / "images" / "more").rename(tmp_path / "more")
    words = (
        f"data.name=folder:{tmp_path}/images", f"data.unlabelled={tmp_path}/more", "data.image_size=32",
        f"data.workers={workers}", "data.fraction=1.0", "train.batch_size=4", "train.epochs=1",
        "train.evaluate_every=1", "cache.views=2", f"out={tmp_path}/run",
    )  # fmt: skip
    plan = open_plan(load_config(None, [*TINY, *words]))
    teacher = obtain_teacher(plan)
    made = share_knowledge(plan, teacher, print)
    assert made.store.manifest.images == 17
    record = train_student(plan, "distilled", 0, teacher, made)
    assert record.images == 16
    assert [*made.store.verify()][-1] == made.store.manifest.total


def test_a_second_builder_finds_the_work_done(do, monkeypatch, tmp_path):
    """As if another process had finished while this one waited for the lock."""
    words = ("cache.views=2", f"cache.folder={tmp_path}/one", "method=kd")
    real = build.alone
    other = []

    def late(folder, wait=True):
        if not other:
            other.append(1)
            do("first", *words, train=False)
        return real(folder, wait)

    monkeypatch.setattr(build, "alone", late)
    filled = []
    fill = build._fill
    monkeypatch.setattr(build, "_fill", lambda *a: (filled.append(1), fill(*a)))
    made = do("second", *words, train=False)[1]
    assert filled == [1]
    assert Store(made.store.folder).manifest.complete
