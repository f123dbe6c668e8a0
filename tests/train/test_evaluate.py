import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, top_k_accuracy_score
from torch import nn

from mfkd.errors import DataError
from mfkd.train.evaluate import eval_mode, evaluate
from mfkd.types import Batch

CLASSES = 7


class Readout(nn.Module):
    """Its images are its logits."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, image):
        return image.flatten(1)


def batches(count=53, scale=2.0, size=8, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, CLASSES, 1, 1, generator=drawn)
    labels = torch.randint(0, CLASSES, (count,), generator=drawn)
    labels[: count // 2] = logits[: count // 2].flatten(1).argmax(1)
    parts = torch.arange(count).split(size)
    return [Batch(logits[part], labels[part], part) for part in parts], logits.flatten(1).double(), labels


def slow_ece(logits, labels, bins=15):
    """Guo et al.: gap of accuracy and confidence in equal bins (left open), weighted by how many are in each."""
    shares = torch.softmax(logits, 1)
    total = 0.0
    for number in range(bins):
        members = [row for row in range(len(labels)) if number / bins < shares[row].max().item() <= (number + 1) / bins]
        if members:
            confidence = sum(shares[row].max().item() for row in members) / len(members)
            right = sum(int(shares[row].argmax()) == int(labels[row]) for row in members) / len(members)
            total += len(members) / len(labels) * abs(right - confidence)
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_agree_with_scikit_learn_and_a_slow_ece(seed):
    found, logits, labels = batches(seed=seed)
    shares = torch.softmax(logits, 1).numpy()
    result = evaluate(Readout(), found, CLASSES)
    names = np.arange(CLASSES)
    expected = {
        "top1": 100 * accuracy_score(labels, shares.argmax(1)),
        "top5": 100 * top_k_accuracy_score(labels, shares, k=5, labels=names),
        "balanced": 100 * balanced_accuracy_score(labels, shares.argmax(1)),
        "ece": 100 * slow_ece(logits, labels),
        "loss": log_loss(labels, shares, labels=names),
        "n": 53,
    }
    assert result == pytest.approx(expected, rel=1e-5)


def test_balanced_is_the_mean_recall_of_the_classes_that_have_images():
    predictions = torch.eye(3)[[0, 0, 1, 2]][..., None, None]
    result = evaluate(Readout(), [Batch(predictions, torch.tensor([0, 0, 1, 1]), torch.arange(4))], 3)
    assert (result["balanced"], result["top1"]) == (75.0, 75.0)
    uneven = evaluate(Readout(), [Batch(predictions, torch.tensor([0, 0, 0, 1]), torch.arange(4))], 3)
    assert uneven["balanced"] == pytest.approx(100 * (2 / 3 + 0) / 2)  # and nothing for class 2, which is predicted


def test_top5_of_very_sure_logits_is_not_drawn_by_chance():
    logits = torch.tensor([[900.0, 800, 700, 600, 500, 400, 300]])[..., None, None]
    hit, miss = (evaluate(Readout(), [Batch(logits, torch.tensor([k]), torch.arange(1))], CLASSES) for k in (4, 5))
    assert (hit["top5"], miss["top5"]) == (100.0, 0.0)


def test_agreement_counts_equal_predictions_not_right_ones():
    found, logits, _ = batches()
    other = torch.randn(53, CLASSES, generator=torch.Generator().manual_seed(5))
    rows = iter(other.split(8))
    expected = 100 * accuracy_score(logits.argmax(1), other.argmax(1))
    result = evaluate(Readout(), found, CLASSES, reference=lambda image: next(rows))
    assert result["agreement"] == pytest.approx(expected)
    assert "agreement" not in evaluate(Readout(), found, CLASSES)


def test_asked_by_logits_instead_of_a_call():
    found, _, labels = batches()
    every = iter(torch.eye(CLASSES)[labels].split(8))
    assert evaluate(Readout(), found, CLASSES, logits=lambda image: next(every))["top1"] == 100


def test_two_classes_have_a_top5_of_100():
    batch = Batch(torch.tensor([[0.0, 1], [1, 0]])[..., None, None], torch.tensor([0, 0]), torch.arange(2))
    result = evaluate(Readout(), [batch], 2)
    assert (result["top1"], result["top5"]) == (50.0, 100.0)


def test_unlabelled_and_empty_are_refused():
    batch = Batch(torch.zeros(2, CLASSES, 1, 1), torch.tensor([0, -1]), torch.arange(2))
    with pytest.raises(
        DataError, match=r"evaluation needs a label for every image; keep unlabelled images in data\.unlabelled"
    ):
        evaluate(Readout(), [batch], CLASSES)
    with pytest.raises(DataError, match=r"evaluation got no image; is the split empty\?"):
        evaluate(Readout(), [], CLASSES)


def test_each_parts_mode_is_restored_even_after_an_error():
    network = nn.Sequential(Readout(), nn.BatchNorm1d(CLASSES), nn.Dropout())
    network[1].eval()  # frozen by its owner
    before = [part.training for part in network.modules()]
    statistics = network[1].running_mean.clone()
    found, _, _ = batches()
    first = evaluate(network, found, CLASSES)
    assert evaluate(network, found, CLASSES) == first  # no dropout
    assert [part.training for part in network.modules()] == before
    assert torch.equal(network[1].running_mean, statistics)
    with pytest.raises(DataError):
        evaluate(network, [], CLASSES)
    assert [part.training for part in network.modules()] == before
    with eval_mode(network):
        assert not any(part.training for part in network.modules())
