import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mfkd.config import AugmentConfig
from mfkd.data.augment import crop_and_flip, drawing, large_transform, one_by_one, small_transform
from mfkd.seeding import seeded, uniform

ROWS = torch.tensor([5, 0, 49_999, 17, 3])


def images(count=5, channels=3, height=6, width=4):
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8)


def loop(batch, rows, view_seed, view, padding, flip):
    """Pixel by pixel, with no padding, no gather and no shared code but the draws."""
    out = torch.zeros_like(batch)
    count, channels, height, width = batch.shape
    for b in range(count):
        u, v, w = uniform(view_seed, view, rows[b : b + 1], 3, "crop-flip")[0].tolist()
        top, left = int(u * (2 * padding + 1)) - padding, int(v * (2 * padding + 1)) - padding
        for y in range(height):
            for x in range(width):
                target = width - 1 - x if flip and w < 0.5 else x
                if 0 <= y + top < height and 0 <= x + left < width:
                    for c in range(channels):
                        out[b, c, y, target] = batch[b, c, y + top, x + left]
    return out


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("view", [0, 7])
def test_equals_a_loop_over_pixels(padding, flip, view):
    batch = images()
    got = crop_and_flip(batch, ROWS, 1, view, padding=padding, flip=flip)
    assert got.dtype == torch.uint8
    assert torch.equal(got, loop(batch, ROWS, 1, view, padding, flip))


def test_nothing_to_do_returns_the_images_themselves():
    batch = images()
    assert crop_and_flip(batch, ROWS, 0, 0, padding=0, flip=False) is batch


def test_an_image_gets_the_same_pixels_in_any_batch():
    batch, rows = images(40), torch.arange(40)
    whole = crop_and_flip(batch, rows, 3, 2, padding=2, flip=True)
    order = torch.randperm(40)[:9]
    assert torch.equal(crop_and_flip(batch[order], rows[order], 3, 2, padding=2, flip=True), whole[order])


@pytest.mark.parametrize(("view_seed", "view"), [(4, 2), (3, 1)])
def test_another_seed_or_view_gives_other_pixels(view_seed, view):
    batch, rows = images(40), torch.arange(40)
    first = crop_and_flip(batch, rows, 3, 2, padding=2, flip=True)
    other = crop_and_flip(batch, rows, view_seed, view, padding=2, flip=True)
    same = (first == other).flatten(1).all(1).float().mean()
    assert same < 0.3  # 1 in 50 by chance


def test_half_the_images_are_flipped_and_every_offset_is_as_frequent():
    count, padding = 20_000, 2
    # A single lit pixel in the middle; a mark left of it tells a flip.
    batch = torch.zeros(count, 1, 7, 7, dtype=torch.uint8)
    batch[:, 0, 3, 3], batch[:, 0, 3, 2] = 200, 100
    out = crop_and_flip(batch, torch.arange(count), 0, 0, padding=padding, flip=True)
    lit = (out[:, 0] == 200).flatten(1).int().argmax(1)
    mark = (out[:, 0] == 100).flatten(1).int().argmax(1)
    flipped = (mark > lit).double().mean().item()
    assert flipped == pytest.approx(0.5, abs=0.015)  # standard error 0.0035
    y = lit // 7 - 3
    counts = torch.bincount(y + padding, minlength=5)
    assert counts.sum() == count
    assert (counts - count / 5).abs().max() < 250  # standard error 57


MEAN = (0.2, 0.4, 0.6)
FILL = [51, 102, 153]
KINDS = [
    {"auto": "randaugment"},
    {"auto": "trivialaugment"},
    {"jitter": 0.4},
    {"erasing": 0.9},
    {"auto": "randaugment", "num_ops": 3, "magnitude": 20, "jitter": 0.2, "erasing": 0.5},
]


def smooth(count=12, channels=3, size=16):
    drawn = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, channels, 4, 4), generator=drawn, dtype=torch.uint8)
    return v2.functional.resize(coarse, [size, size])


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_on_small_images_depend_on_seed_view_and_row_alone(options, channels):
    batch, rows = smooth(channels=channels), torch.arange(100, 112)
    transform = small_transform(AugmentConfig(**options), MEAN[:channels])
    whole = one_by_one(batch, rows, 3, 2, transform)
    assert (whole.shape, whole.dtype) == (batch.shape, torch.uint8)
    torch.manual_seed(99)  # whatever was drawn before
    random.seed(99)
    np.random.seed(99)  # noqa: NPY002
    order = torch.tensor([7, 0, 11])
    assert torch.equal(one_by_one(batch[order], rows[order], 3, 2, transform), whole[order])
    for other in (one_by_one(batch, rows, 4, 2, transform), one_by_one(batch, rows, 3, 1, transform)):
        assert (other == whole).flatten(1).all(1).float().mean() < 0.5
    assert not torch.equal(whole, batch)


def test_drawing_leaves_the_generator_as_it_was():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), drawing(1, 2, 3):
        torch.rand(3)
        raise KeyError
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_is_done_to_small_images_by_default():
    assert small_transform(AugmentConfig(), MEAN) is None


def test_erased_boxes_have_the_mean_colour_and_the_wanted_share():
    batch = torch.full((400, 3, 12, 12), 255, dtype=torch.uint8)
    out = one_by_one(batch, torch.arange(400), 0, 0, small_transform(AugmentConfig(erasing=0.25), MEAN))
    changed = (out != 255).any(1)  # (B, H, W)
    assert changed.flatten(1).any(1).float().mean() == pytest.approx(0.25, abs=0.08)  # standard error 0.022
    assert torch.equal(out.permute(0, 2, 3, 1)[changed].unique(dim=0), torch.tensor([FILL], dtype=torch.uint8))
    area = changed.flatten(1).float().mean(1)
    assert 0.01 < area[area > 0].min() < area.max() < 0.45  # 0.02 to 0.33 of the image, up to rounding


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, []),
        ({"scale": (0.5, 0.6), "ratio": (1.0, 2.0)}, []),
        (
            {"auto": "randaugment", "num_ops": 1, "magnitude": 5},
            [v2.RandAugment(1, 5, interpolation=v2.InterpolationMode.BILINEAR, fill=FILL)],
        ),
        (
            {"auto": "trivialaugment"},
            [v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR, fill=FILL)],
        ),
        ({"jitter": 0.4}, [v2.ColorJitter(0.4, 0.4, 0.4)]),
    ],
    ids=["plain", "scale", "randaugment", "trivialaugment", "jitter"],
)
def test_large_images_go_through_torchvisions_own_transforms_in_order(options, steps):
    augment = AugmentConfig(flip=True, erasing=0.5, **options)
    image = Image.fromarray(smooth(1, size=48)[0].permute(1, 2, 0).numpy())
    transform = large_transform(augment, (20, 24), 30, "bicubic", MEAN)
    crop = v2.RandomResizedCrop((20, 24), augment.scale, augment.ratio, v2.InterpolationMode.BICUBIC)
    tail = [v2.PILToTensor(), v2.RandomErasing(0.5, value=FILL)]
    expected = v2.Compose([crop, v2.RandomHorizontalFlip(), *steps, *tail])
    for row in range(6):
        with drawing(1, 2, row):
            got = transform(image)
        with seeded(1, 2, row):
            assert torch.equal(got, expected(image))
        assert (got.shape, got.dtype) == ((3, 20, 24), torch.uint8)


def test_what_comes_later_does_not_move_the_crop():
    image = Image.fromarray(smooth(1, size=48)[0].permute(1, 2, 0).numpy())
    plain, erased = (
        large_transform(AugmentConfig(flip=True, erasing=p), (20, 20), 24, "bilinear", MEAN) for p in (0, 1)
    )
    for row in range(4):
        with drawing(0, 0, row):
            first = plain(image)
        with drawing(0, 0, row):
            second = erased(image)
        assert 0.5 < (first == second).all(0).float().mean() < 1
