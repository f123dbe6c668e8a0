import pytest
import torch

from mfkd.data.augment import crop_and_flip
from mfkd.seeding import uniform

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
