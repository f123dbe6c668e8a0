from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mfkd.config import load_config
from mfkd.data import train_loader
from mfkd.distill import Distiller
from mfkd.errors import CacheError, ConfigError
from mfkd.methods import known_methods
from mfkd.methods.base import Method
from mfkd.methods.objective import Objective
from mfkd.models import build_model
from mfkd.plan import open_plan
from mfkd.seeding import seeded
from mfkd.teacher import FrozenTeacher
from mfkd.teacher.cache import CachedSource, check_cacheable, tensors
from mfkd.teacher.identity import LOGITS, _tap, fields
from mfkd.teacher.journal import units
from mfkd.teacher.manifest import Manifest
from mfkd.teacher.store import Store
from mfkd.teacher.writing import Writer, alone, begin, finish
from mfkd.types import Batch, Needs, TapSpec

LEARNT = "method={mfkd: {kind: attention}, kd: {}}"  # its fused map depends on everything
VIEWS = 2
RECIPE = (
    "data.name=digits", "data.fraction=0.1", "teacher.model=resnet8", "student.model=resnet8", "cache.views=2",
    "train.batch_size=32",
)  # fmt: skip


class Made:
    """A plan, a distiller with a prepared fusion, and its loader."""

    def __init__(self, *overrides, weights=0, calibration=0, seed=0):
        self.plan = open_plan(load_config(None, [*RECIPE, *overrides]))
        with seeded(weights, "weights"):
            self.teacher = FrozenTeacher(build_model("resnet8", num_classes=10, in_channels=1))
            self.distiller = Distiller(
                self.teacher,
                build_model("resnet8", num_classes=10, in_channels=1),
                self.plan.config.method,
                input_shape=(1, 8, 8),
                seed=seed,
            )
        config = self.plan.config
        self.loader = train_loader(
            self.plan.data, config.data, config.augment, batch_size=32, seed=seed, device="cpu", views=VIEWS
        )
        with seeded(calibration, "calibration"):
            for part in self.distiller.objective.modules():
                if hasattr(part, "teacher_side"):
                    for value in part.teacher_side.parameters():
                        value.data = torch.randn_like(value)
                    part.teacher_side.finish()

    @property
    def manifest(self):
        batch = next(iter(self.loader.epoch(0)))
        found = tensors(self.distiller.source.knowledge(batch))
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in found.items()}
        config, source = self.plan.config, self.distiller.source
        return Manifest(fields(config, self.plan.data, source, shapes, VIEWS))

    def build(self, folder):
        manifest, source = self.manifest, self.distiller.source
        with alone(folder):
            begin(folder, manifest)
            with Writer(folder, manifest) as writer:
                for view, chunk in units(manifest):
                    plan = [torch.arange(manifest.images)[chunk * manifest.chunk :][: manifest.chunk]]
                    writer.write((view, chunk), tensors(source.knowledge(*self.loader.loader.batches(plan, view))))
            finish(folder)
        return CachedSource(
            Store(folder, manifest.fields), manifest.names, self.plan.data.train.rows, self.distiller.objective, source
        )


@pytest.fixture(scope="module")
def made():
    return Made(LEARNT)


@pytest.fixture(scope="module")
def cached(made, tmp_path_factory):
    return made.build(tmp_path_factory.mktemp("cache") / "made")


def test_every_batch_gets_the_knowledge_of_its_own_pixels(made, cached):
    for epoch in range(3):
        for batch in made.loader.epoch(epoch):
            assert batch.view == epoch % VIEWS
            assert torch.equal(batch.host_index, batch.index)
            live, kept = made.distiller.source.knowledge(batch), cached.knowledge(batch)
            torch.testing.assert_close(kept.logits, live.logits, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(kept.taps["mfkd/fused"], live.taps["mfkd/fused"], rtol=1e-3, atol=2e-3)
            assert kept.logits.dtype == torch.float32
    other = made.loader.loader.batches([torch.arange(8)], 0), made.loader.loader.batches([torch.arange(8)], 1)
    first, second = (cached.knowledge(next(batches)).logits for batches in other)
    assert not torch.allclose(first, second, atol=0.01)


def test_rows_of_a_split_are_not_positions(made, cached):
    rows = made.plan.data.train.rows
    assert not torch.equal(rows, torch.arange(len(rows)))  # a tenth of the digits
    batch = next(made.loader.loader.batches([torch.tensor([5])], 1))
    assert int(batch.index) == int(rows[5])
    expected = cached.store.read(LOGITS, 1, torch.tensor([5])).float()
    assert torch.equal(cached.knowledge(batch).logits, expected)
    unknown_on_the_host = Batch(batch.image, batch.label, batch.index, view=1)
    assert torch.equal(cached.knowledge(unknown_on_the_host).logits, expected)


def test_raw_knowledge_is_the_networks_own(made, cached):
    batch = next(iter(made.loader.epoch(0)))
    assert torch.equal(cached.raw(batch).logits, made.teacher.logits(batch.image))
    assert made.distiller.source.ahead(batch) is None
    assert cached.ahead(batch).taps.keys() == {"mfkd/fused"}


def test_what_a_faded_method_made_is_not_read(made, cached, monkeypatch):
    batch = next(iter(made.loader.epoch(0)))
    monkeypatch.setattr(made.distiller.objective, "resting", lambda name: name == "mfkd")
    for source in (cached, made.distiller.source):
        known = source.knowledge(batch)
        assert known.logits is not None
        assert not known.taps


def test_a_batch_that_is_not_kept_is_refused(made, cached):
    image, label = torch.zeros(2, 1, 8, 8), torch.zeros(2).long()
    folder = cached.store.folder
    for view in (None, 2):
        with pytest.raises(CacheError) as caught:
            cached.knowledge(Batch(image, label, torch.arange(2), view=view))
        assert str(caught.value) == (
            f"knowledge cache {folder} holds views 0 to 1, got a batch of view {view}; "
            "feed it from train_loader(..., views=2)."
        )
    known = int(made.plan.data.train.rows[0])
    missing = next(row for row in range(2000) if row not in made.plan.data.train.rows.tolist())
    for row in (missing, 10**6, -1):
        with pytest.raises(CacheError) as caught:
            cached.knowledge(Batch(image, label, torch.tensor([known, row]), view=0))
        assert str(caught.value) == (
            f"knowledge cache {folder} does not know the image of row {row}; it was made for another training split."
        )


class Moving(Method):
    not_cached = "its teacher side learns with the student"


def test_a_method_that_cannot_be_cached_says_so():
    check_cacheable(Objective({"a": Method()}))
    with pytest.raises(ConfigError) as caught:
        check_cacheable(Objective({"a": Method(), "moving": Moving()}))
    assert str(caught.value) == (
        "cache.views: moving cannot be cached, its teacher side learns with the student; set cache.views=null."
    )


@pytest.mark.parametrize(
    ("changes", "differing"),
    [
        ({"weights": 1}, "teacher.weights"),
        ({"calibration": 1}, "tensors.mfkd/fused.weights"),
        ({"overrides": ["data.fraction=0.2"]}, "data.fraction"),
        ({"overrides": ["data.split_seed=1"]}, "data.split_seed"),
        ({"overrides": ["data.val_fraction=0.1"]}, "data.val_fraction"),
        ({"overrides": ["data.mean=[0.4]"]}, "preprocessing.mean"),
        ({"overrides": ["augment.view_seed=1"]}, "view_seed"),
        ({"overrides": ["augment.flip=true"]}, "augment.flip"),
        ({"overrides": ["augment.crop_padding=2"]}, "augment.crop_padding"),
        ({"overrides": ["cache.dtype=bfloat16"]}, "storage"),
        ({"overrides": ["train.precision=bf16"]}, "compute"),
        (
            {"overrides": [LEARNT.replace("attention", "attention, teacher_taps: [middle, bottom]")]},
            "tensors.mfkd/fused.taps",
        ),
        ({"overrides": [LEARNT.replace("attention", "attention, channels: 8")]}, "tensors.mfkd/fused.shape"),
    ],
)
def test_the_fingerprint_covers_what_the_knowledge_depends_on(cached, changes, differing):
    overrides = changes.pop("overrides", [LEARNT])
    if not any(word.startswith("method") for word in overrides):
        overrides = [*overrides, LEARNT]
    other = Made(*overrides, **changes)
    with pytest.raises(CacheError) as caught:
        Store(cached.store.folder, other.manifest.fields)
    assert f"belongs to another run: {differing} is " in str(caught.value)


def test_the_fingerprint_leaves_out_what_the_knowledge_does_not_depend_on(cached):
    words = (
        "method={mfkd: {kind: attention, weight: 9, distance: mse, student_taps: [bottom]}, kd: {temperature: 2}}",
        "train.lr=0.3", "cache.folder=elsewhere", "data.workers=1", "seeds=[4]", "student.model=resnet14",
    )  # fmt: skip
    assert Made(*words, seed=4).manifest.hash == cached.store.manifest.hash
    assert Store(cached.store.folder, Made("method=kd").manifest.fields)


def test_the_fingerprint_names_copies_where_there_are_some(made, cached):
    shapes = {name: cached.store.manifest.shape(name) for name in cached.store.manifest.names}
    config, told = made.plan.config, []
    for copies in (None, 64):
        other = config.model_copy(update={"data": config.data.model_copy(update={"copies": copies})})
        told.append(fields(other, made.plan.data, made.distiller.source, shapes, VIEWS)["preprocessing"])
    assert "copies" not in told[0]  # so that caches from before there were any go on
    assert told[1] == {**told[0], "copies": 64}


def test_the_fingerprint_sees_other_pixels_and_labels(made, cached):
    data = made.plan.data
    for name in ("images", "labels"):
        changed = getattr(data.train, name).clone()
        changed.view(-1)[-1] += 1
        split = type(data.train)(**{**vars(data.train), name: changed})
        other = type(data)(**{**vars(data), "train": split})
        shapes = {name: cached.store.manifest.shape(name) for name in cached.store.manifest.names}
        told = fields(made.plan.config, other, made.distiller.source, shapes, VIEWS)["data"]
        differing = [key for key, value in made.manifest.fields["data"].items() if told[key] != value]
        assert differing == [{"images": "pixels"}.get(name, name)]


def test_every_option_that_a_method_names_is_one_of_its_own():
    for name, method in known_methods().items():
        assert set(method.knowledge_options or ()) <= set(method.Config.model_fields), name


class RawTap(Method):
    def __init__(self):
        super().__init__()
        self.needs = Needs(teacher=("front",), logits=True)

    def forward(self, student, teacher, batch) -> dict[str, Tensor]:
        return {"raw": teacher.taps["front"].mean()}


def test_any_tap_can_be_cached_as_it_is(made, tmp_path):
    other = Made("method=kd")
    other.distiller = Distiller(other.teacher, build_model("resnet8", 10, 1), RawTap(), input_shape=(1, 8, 8))
    source = other.build(tmp_path / "raw")
    batch = next(iter(other.loader.epoch(1)))
    live = other.distiller.source.knowledge(batch)
    assert source.store.manifest.names == ["front", LOGITS]
    assert source.store.manifest.fields["tensors"]["front"]["tap"]["path"] == "layer1.0.relu2"
    torch.testing.assert_close(source.knowledge(batch).taps["front"], live.taps["front"], rtol=1e-3, atol=1e-3)


def test_a_cache_of_a_map_before_copies_is_another_only_where_they_matter():
    spec = TapSpec("layer1.bn2", "layer1.bn2", 16)
    assert "overwritten" not in _tap(spec)
    assert _tap(replace(spec, overwritten=True)) == {**_tap(spec), "overwritten": True}
