import statistics

import pytest
import torch

from mfkd.functional.standardise import standardise


def test_value_by_hand():
    # Mean 2, deviation sqrt((1 + 0 + 1) / 2) = 1.
    assert torch.allclose(standardise(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([[-1.0, 0.0, 1.0]]))


def test_agrees_with_loops():
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64) * 3 + 1
    rows = [[(v - statistics.mean(row)) / statistics.stdev(row) for v in row] for row in logits.tolist()]
    assert torch.allclose(standardise(logits), torch.tensor(rows, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize(("shift", "factor"), [(5.0, 1.0), (0.0, 0.01), (-3.0, 100.0)])
def test_shift_and_positive_factor_of_each_image_change_nothing(shift, factor):
    torch.manual_seed(1)
    logits = torch.randn(4, 6, dtype=torch.float64)
    moved = logits * factor * torch.arange(1, 5)[:, None] + shift * torch.arange(4)[:, None]
    assert torch.allclose(standardise(moved), standardise(logits), atol=1e-4)
    assert not torch.allclose(standardise(-logits), standardise(logits), atol=1e-1)


def test_equal_logits_give_zeros_and_a_finite_gradient():
    logits = torch.ones(2, 4, requires_grad=True)
    flat = standardise(logits)
    assert torch.equal(flat, torch.zeros(2, 4))
    flat.square().sum().backward()
    assert logits.grad.isfinite().all()


def test_gradient():
    torch.manual_seed(2)
    assert torch.autograd.gradcheck(standardise, (torch.randn(3, 4, dtype=torch.float64, requires_grad=True),))
