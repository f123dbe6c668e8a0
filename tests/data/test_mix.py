import pytest
import torch

from mfkd.data.mix import cutmix, mix, mixup, one_hot
from mfkd.seeding import generator


def test_one_hot_leaves_the_row_of_an_unlabelled_image_zero():
    assert one_hot(torch.tensor([2, -1, 0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_mixup_by_hand():
    images = torch.tensor([0.0, 10.0]).reshape(2, 1, 1, 1)
    mixed, targets = mixup(images, torch.eye(2), torch.tensor([1, 0]), 0.75)
    assert mixed.flatten().tolist() == [2.5, 7.5]
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_cutmix_by_hand():
    images = torch.stack([torch.zeros(1, 4, 8), torch.ones(1, 4, 8)])
    # Half the sides of 4 x 8: a box of 2 x 4 around (2, 4).
    mixed, targets = cutmix(images, torch.eye(2), torch.tensor([1, 0]), 0.75, (0.5, 0.5))
    expected = torch.zeros(4, 8)
    expected[1:3, 2:6] = 1
    assert torch.equal(mixed[0, 0], expected)
    assert torch.equal(mixed[1, 0], 1 - expected)
    assert targets.tolist() == [[0.75, 0.25], [0.25, 0.75]]


def test_cutmix_counts_the_area_that_is_left_at_the_edge():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    mixed, targets = cutmix(images, torch.eye(2), torch.tensor([1, 0]), 0.75, (0.0, 0.0))
    assert mixed[0].sum() == 1  # the corner of the 2 x 2 box
    assert targets[0].tolist() == [15 / 16, 1 / 16]


@pytest.mark.parametrize(("first", "second"), [(1.0, 0.0), (0.0, 1.0), (0.2, 0.8)])
def test_targets_sum_to_one_and_unlabelled_images_give_nothing(first, second):
    labels = torch.tensor([0, 1, 2, 1, 0, 2])
    for step in range(20):
        _, targets = mix(torch.rand(6, 1, 8, 8), labels, 3, generator(0, step), mixup_alpha=first, cutmix_alpha=second)
        assert torch.allclose(targets.sum(1), torch.ones(6))
        _, none = mix(
            torch.rand(6, 1, 8, 8), labels * 0 - 1, 3, generator(0, step), mixup_alpha=first, cutmix_alpha=second
        )
        assert not none.any()


def test_pixels_and_targets_are_mixed_with_the_same_share():
    labels = torch.arange(5)
    images = one_hot(labels, 5)[:, :, None, None].expand(5, 5, 16, 16).contiguous()
    for alphas in ({"mixup_alpha": 1.0, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}):
        mixed, targets = mix(images, labels, 5, generator(3), **alphas)
        assert torch.allclose(mixed.mean((2, 3)), targets, atol=1e-6)
        assert not torch.equal(targets, torch.eye(5))


def test_shares_follow_the_beta_distribution():
    labels = torch.tensor([0, 1])
    largest = []
    for step in range(3000):
        _, targets = mix(torch.zeros(2, 1, 1, 1), labels, 2, generator(0, step), mixup_alpha=0.5, cutmix_alpha=0.0)
        largest.append(targets[0, 0].item())
    swapped = [share for share in largest if share < 1]  # the partner was the other image
    assert len(swapped) == pytest.approx(1500, abs=150)
    values = torch.tensor(swapped)
    assert values.mean().item() == pytest.approx(0.5, abs=0.04)
    assert values.var().item() == pytest.approx(1 / 8, abs=0.01)  # 1 / (4 (2 alpha + 1))


def test_one_of_the_two_is_drawn_with_even_chances():
    images = torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 8, 8)
    blended = 0
    for step in range(400):
        mixed, _ = mix(images, torch.tensor([0, 1]), 2, generator(1, step), mixup_alpha=5.0, cutmix_alpha=5.0)
        blended += bool(((mixed > 0) & (mixed < 1)).any())
    assert 70 < blended < 130  # a quarter: half of the partners are the images themselves
