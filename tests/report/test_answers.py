import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from mfkd.report.answers import Change, changes, confusions, examples, recall, reliability

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
ALONE = torch.tensor([[0, 1, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2]])
DISTILLED = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 1, 0, 1, 1, 0]])


def test_recall_by_hand():
    found = recall(LABELS, ALONE, 4)
    third = 100 / 3
    torch.testing.assert_close(found[:, :3], torch.tensor([[third, 50, 100], [2 * third, 50, 100]]).double())
    assert found[:, 3].isnan().all()


def test_confusions_are_images_a_seed():
    assert confusions(LABELS, ALONE, 3).tolist() == [[1.5, 1.5, 0], [0, 1, 1], [0, 0, 1]]


def test_changes_by_hand_best_first():
    assert changes(LABELS, ALONE, DISTILLED, 3) == [
        Change(0, 1, 1.5, 0.5),
        Change(1, 2, 1.0, 0.0),
        Change(2, 0, 0.0, 1.0),
    ]
    assert [change.gain for change in changes(LABELS, ALONE, DISTILLED, 3)] == [1, 1, -1]


def test_changes_of_the_same_answers_are_none():
    assert changes(LABELS, ALONE, ALONE.flip(0), 3) == []


def test_examples_are_the_clearest_mistakes_that_are_gone():
    # Image 2 is mistaken by one of two students, image 1 by both but still by one of the distilled ones.
    assert examples(LABELS, ALONE, DISTILLED, Change(0, 1, 1.5, 0.5), 5) == [1, 2]
    assert examples(LABELS, ALONE, DISTILLED, Change(0, 1, 1.5, 0.5), 1) == [1]
    assert examples(LABELS, DISTILLED, ALONE, Change(2, 0, 1, 0), 5) == [5]
    assert examples(LABELS, ALONE, DISTILLED, Change(2, 1, 0, 0), 5) == []


def test_reliability_by_hand():
    # Confidences 0.9 (right), 0.6 (wrong), 0.7 (right) in two bins above and below 0.5.
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.45, 0.45]])
    probabilities[3] = torch.tensor([0.5, 0.5])
    found = reliability(probabilities, torch.tensor([0, 1, 1, 0]), bins=2)
    assert found.count == [1, 3]
    assert found.confidence == pytest.approx([0.5, 2.2 / 3])
    assert found.accuracy == pytest.approx([1, 2 / 3])
    assert found.ece == pytest.approx((0.5 + 0.2) / 4)


def test_calibration_error_is_that_of_torchmetrics():
    logits, labels = 2 * torch.randn(500, 7), torch.randint(7, (500,))
    probabilities = logits.softmax(1)
    expected = multiclass_calibration_error(probabilities, labels, 7, n_bins=15)
    assert reliability(probabilities, labels).ece == pytest.approx(float(expected), abs=1e-6)
