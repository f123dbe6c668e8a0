from dataclasses import replace

import pytest
import torch

from mfkd.config import AugmentConfig, DataConfig
from mfkd.data import eval_loader, load_data, train_loader
from mfkd.data.augment import crop_and_flip
from mfkd.errors import ConfigError

CONFIG = DataConfig(name="digits", fraction=0.1)
AUGMENT = AugmentConfig(crop_padding=2, flip=True)


@pytest.fixture(scope="module")
def data():
    return load_data(CONFIG)


def make(data, augment=AUGMENT, **options):
    return train_loader(data, CONFIG, augment, **{"batch_size": 24, "seed": 1, "device": "cpu", **options})


def same(first, second):
    fields = [(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(flat(x), flat(y), strict=True)]
    return len(fields) > 0 and all(torch.equal(a, b) for a, b in fields)


def flat(batch):
    return [batch.image, batch.label, batch.index, *([] if batch.target is None else [batch.target])]


def test_an_epoch_drops_the_last_incomplete_batch(data):
    loader = make(data)
    batches = list(loader.epoch(0))
    assert len(data.train) == 136
    assert loader.steps == len(batches) == 5
    assert [len(batch) for batch in batches] == [24] * 5
    rows = torch.cat([batch.index for batch in batches])
    assert len(rows.unique()) == 120
    assert set(rows.tolist()) <= set(data.train.rows.tolist())


def test_pixels_are_the_normalised_augmented_ones_of_their_row(data):
    batch = list(make(data, augment=AugmentConfig(crop_padding=2, flip=True, view_seed=5)).epoch(3))[2]
    for image, label, row in zip(batch.image, batch.label, batch.index, strict=True):
        position = int((data.train.rows == row).nonzero())
        raw = data.train.images[position][None]
        pixels = crop_and_flip(raw, row[None], 5, 3, padding=2, flip=True)[0]
        assert torch.allclose(image, (pixels / 255 - data.mean[0]) / data.std[0], atol=1e-6)
        assert label == data.train.labels[position] == data.train_labels()[row]


def test_the_sets_own_augmentation_is_the_default(data):
    own = make(data, AugmentConfig())
    asked = make(data, AugmentConfig(crop_padding=1, flip=False))
    off = make(data, AugmentConfig(crop_padding=0, flip=False))
    assert same(list(own.epoch(0)), list(asked.epoch(0)))
    assert not same(list(own.epoch(0)), list(off.epoch(0)))


@pytest.mark.parametrize("augment", [AUGMENT, AugmentConfig(mixup=0.4, cutmix=1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize("start", [0, 1, 4, 5])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_epoch_gives_the_same_batches(data, augment, start, accumulate):
    loader = make(data, augment, accumulate=accumulate)
    whole = list(loader.epoch(2))
    resumed = list(make(data, augment, accumulate=accumulate).epoch(2, start))
    assert len(resumed) == (5 - start) * accumulate
    assert not resumed or same(resumed, whole[start * accumulate :])


@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 3), (2, 3), (4, 2)])
def test_ranks_and_parts_together_are_one_process(data, world, accumulate):
    one = list(make(data).epoch(1))
    ranks = [list(make(data, rank=r, world=world, accumulate=accumulate).epoch(1)) for r in range(world)]
    for step, batch in enumerate(one):
        parts = [rank[step * accumulate + part] for rank in ranks for part in range(accumulate)]
        for field in ("image", "label", "index"):
            assert torch.equal(torch.cat([getattr(part, field) for part in parts]), getattr(batch, field))


def test_order_depends_on_seed_and_epoch(data):
    orders = [
        torch.cat([b.index for b in make(data, seed=s).epoch(e)]).tolist() for s, e in [(1, 0), (1, 1), (2, 0), (1, 0)]
    ]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def pixels_by_row(batches):
    return {int(row): image for batch in batches for row, image in zip(batch.index, batch.image, strict=True)}


def test_views_repeat_after_as_many_epochs(data):
    looped = make(data, views=2)
    first, second, third = (pixels_by_row(looped.epoch(epoch)) for epoch in range(3))
    shared = first.keys() & second.keys() & third.keys()
    assert len(shared) > 50
    assert all(torch.equal(first[row], third[row]) for row in shared)
    assert sum(torch.equal(first[row], second[row]) for row in shared) < len(shared) / 4


def test_the_seed_of_a_run_does_not_change_the_pixels(data):
    first, second = (pixels_by_row(make(data, seed=seed).epoch(4)) for seed in (1, 2))
    assert all(torch.equal(first[row], second[row]) for row in first.keys() & second.keys())


def test_mixed_batches_have_targets_and_ranks_draw_alike(data):
    augment = AugmentConfig(crop_padding=0, flip=False, mixup=1.0)
    ranks = [next(make(data, augment, world=2, rank=rank).epoch(0)) for rank in range(2)]
    for batch in ranks:
        assert batch.target.shape == (12, 10)
        assert torch.allclose(batch.target.sum(1), torch.ones(12))
    shares = [{round(v, 4) for v in batch.target.flatten().tolist() if 0 < v < 1} for batch in ranks]
    assert shares[0] == shares[1]
    assert len(shares[0]) == 2  # lambda and 1 - lambda


def test_no_draw_touches_the_global_generator(data):
    before = torch.get_rng_state()
    list(make(data, AugmentConfig(crop_padding=1, flip=True, mixup=1.0, cutmix=1.0)).epoch(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_and_memory_format(data, dtype):
    batch = next(make(data, dtype=dtype).epoch(0))
    assert batch.image.dtype == dtype
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert next(make(data, channels_last=False).epoch(0)).image.is_contiguous()
    assert batch.label.dtype == batch.index.dtype == torch.int64


@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_takes_every_image_once_in_order(data, world):
    loaders = [
        eval_loader(data.test, data, CONFIG, batch_size=64, device="cpu", rank=r, world=world) for r in range(world)
    ]
    for rank, loader in enumerate(loaders):
        batches = list(loader)
        assert len(batches) == len(loader)
        assert torch.cat([b.index for b in batches]).tolist() == data.test.rows[rank::world].tolist()
        image = torch.cat([b.image for b in batches])
        expected = (data.test.images[rank::world].double() / 255 - data.mean[0]) / data.std[0]
        assert torch.allclose(image.double(), expected, atol=1e-6)
        assert same(list(loader), batches)


def test_a_rank_without_images_gets_no_batch(data):
    one = data.test.take(torch.tensor([3]))
    loader = eval_loader(one, data, CONFIG, batch_size=64, device="cpu", rank=1, world=2)
    assert len(loader) == 0
    assert list(loader) == []


def test_refuses_a_batch_larger_than_the_set(data):
    with pytest.raises(ConfigError) as error:
        make(data, batch_size=200)
    assert str(error.value) == "train.batch_size=200 is larger than the 136 training images; set it to 136 or less."


def test_refuses_unequal_parts(data):
    with pytest.raises(ConfigError) as error:
        make(data, batch_size=64, world=3, accumulate=2)
    assert str(error.value) == (
        "train.batch_size=64 does not divide into 3 processes x train.accumulate=2 equal parts; "
        "make it a multiple of 6."
    )


def test_further_passes_have_orders_and_views_of_their_own_and_resume(data):
    loader = make(data, steps=12)
    assert (loader.steps, loader.passes) == (12, 3)
    epoch = list(loader.epoch(2))
    single = make(data)
    expected = [*single.epoch(6), *single.epoch(7), *list(single.epoch(8))[:2]]
    assert same(epoch, expected)
    for start in (3, 5, 11):
        assert same(epoch[start:], loader.epoch(2, start))


def test_unlabelled_images_can_be_left_out(data):
    labels = data.train.labels.clone()
    labels[::2] = -1
    mixed = replace(data, train=replace(data.train, labels=labels))
    assert all((batch.label >= 0).all() for batch in make(mixed, labelled_only=True).epoch(0))
    assert any((batch.label < 0).any() for batch in make(mixed).epoch(0))
    assert make(mixed, labelled_only=True).steps == 68 // 24
