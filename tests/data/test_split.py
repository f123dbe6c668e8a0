import torch

from mfkd.data.split import hold_out, keep_share

LABELS = torch.tensor([0] * 40 + [1] * 20 + [2] * 3 + [3])[
    torch.randperm(64, generator=torch.Generator().manual_seed(1))
]


def counts(positions):
    return torch.bincount(LABELS[positions], minlength=4).tolist()


def test_share_is_stratified_and_leaves_every_class_an_image():
    assert counts(keep_share(LABELS, 0.25, 0)) == [10, 5, 1, 1]
    assert counts(keep_share(LABELS, 0.001, 0)) == [1, 1, 1, 1]
    assert keep_share(LABELS, 1.0, 0).tolist() == list(range(64))


def test_a_smaller_share_is_part_of_a_larger_one():
    small, large = (set(keep_share(LABELS, share, 3).tolist()) for share in (0.2, 0.5))
    assert small < large


def test_held_out_and_staying_images_are_a_partition():
    stays, held = hold_out(LABELS, 0.1, 0)
    assert sorted(stays.tolist() + held.tolist()) == list(range(64))
    assert counts(held) == [4, 2, 1, 0]  # at least one, but never the last one
    assert stays.tolist() == sorted(stays.tolist())


def test_the_seed_decides():
    assert torch.equal(hold_out(LABELS, 0.3, 1)[1], hold_out(LABELS, 0.3, 1)[1])
    assert not torch.equal(hold_out(LABELS, 0.3, 1)[1], hold_out(LABELS, 0.3, 2)[1])
    assert not torch.equal(keep_share(LABELS, 0.3, 1), keep_share(LABELS, 0.3, 2))


def test_nothing_is_held_out_by_default():
    stays, held = hold_out(LABELS, 0.0, 0)
    assert len(stays) == 64
    assert len(held) == 0
