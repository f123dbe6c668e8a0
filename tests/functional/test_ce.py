import math

import pytest
import torch
import torch.nn.functional as F

from mfkd.functional.ce import cross_entropy


def test_unlabelled_images_add_nothing_but_count_in_the_mean():
    logits = torch.tensor([[math.log(3.0), 0.0], [5.0, -5.0]])
    assert cross_entropy(logits, torch.tensor([0, -1])).item() == pytest.approx(math.log(4 / 3) / 2, rel=1e-6)
    assert cross_entropy(logits, torch.tensor([-1, -1])).item() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_fully_labelled_is_torch(smoothing):
    torch.manual_seed(0)
    logits, label = torch.randn(6, 5), torch.randint(5, (6,))
    expected = F.cross_entropy(logits, label, label_smoothing=smoothing)
    assert torch.allclose(cross_entropy(logits, label, None, smoothing), expected)
    assert torch.allclose(cross_entropy(logits, label, F.one_hot(label, 5).float(), smoothing), expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_targets_are_torch_and_empty_rows_add_nothing(smoothing):
    torch.manual_seed(1)
    logits, target = torch.randn(6, 5), torch.rand(6, 5)
    target = target / target.sum(1, keepdim=True)
    label = torch.zeros(6, dtype=torch.int64)
    expected = F.cross_entropy(logits, target, label_smoothing=smoothing)
    assert torch.allclose(cross_entropy(logits, label, target, smoothing), expected)
    target[3:] = 0
    half = F.cross_entropy(logits[:3], target[:3], label_smoothing=smoothing) / 2
    assert torch.allclose(cross_entropy(logits, label, target, smoothing), half)


def test_the_mean_over_equal_parts_is_the_whole():
    torch.manual_seed(2)
    logits, label = torch.randn(8, 4, dtype=torch.float64), torch.tensor([0, -1, -1, -1, 3, 2, 1, 0])
    parts = [cross_entropy(logits[i : i + 4], label[i : i + 4], None, 0.1) for i in (0, 4)]
    assert torch.allclose(sum(parts) / 2, cross_entropy(logits, label, None, 0.1), rtol=1e-12)


def test_half_precision_is_computed_in_float32():
    logits = torch.linspace(-3, 3, 8).reshape(2, 4).bfloat16()
    loss = cross_entropy(logits, torch.tensor([1, 2]))
    assert loss.dtype == torch.float32
    assert loss == cross_entropy(logits.float(), torch.tensor([1, 2]))
