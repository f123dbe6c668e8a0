"""What networks say of the test images, and what that tells of classes, confusions and calibration.

Shapes: S seeds; N images; K classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mfkd.train.evaluate import ECE_BINS


@dataclass(frozen=True)
class Change:
    """How often one class was taken for another, in images a seed.

    Args:
        true: the class of the images.
        said: what they were taken for.
        before: by the student alone.
        after: by the distilled one.
    """

    true: int
    said: int
    before: float
    after: float

    @property
    def gain(self) -> float:
        """Mistakes that are gone; below 0 where there are more."""
        return self.before - self.after


@dataclass(frozen=True)
class Bins:
    """A reliability diagram.

    Args:
        confidence: mean of each bin that has images.
        accuracy: share of right answers in it.
        count: images in it.
        ece: mean gap of both, weighted by the images; 0 to 1.
    """

    confidence: list[float]
    accuracy: list[float]
    count: list[int]
    ece: float


def recall(labels: Tensor, said: Tensor, classes: int) -> Tensor:
    """Share of each class that is recognised.

    Args:
        labels: (N,) int64.
        said: (S, N) int64.
        classes: K.

    Returns:
        (S, K) in per cent; NaN for a class without images.
    """
    which = torch.nn.functional.one_hot(labels, classes).double()  # (N, K)
    return 100 * (said == labels).double() @ which / which.sum(0)


def confusions(labels: Tensor, said: Tensor, classes: int) -> Tensor:
    """(K, K) images of each class (row) that were taken for each class, mean over the seeds of `said` (S, N)."""
    places = (labels * classes + said).flatten()
    return torch.bincount(places, minlength=classes**2).view(classes, classes) / len(said)


def changes(labels: Tensor, alone: Tensor, distilled: Tensor, classes: int) -> list[Change]:
    """Pairs of classes that are confused more or less often than before, the largest gain first.

    Args:
        labels: (N,) int64.
        alone: (S, N) answers of the student alone; distilled likewise, not necessarily of as many seeds.
        distilled: as `alone`.
        classes: K.
    """
    before, after = confusions(labels, alone, classes), confusions(labels, distilled, classes)
    places = ((before != after) & ~torch.eye(classes, dtype=torch.bool)).nonzero().tolist()
    found = [Change(true, said, float(before[true, said]), float(after[true, said])) for true, said in places]
    return sorted(found, key=lambda change: -change.gain)


def examples(labels: Tensor, wrong: Tensor, right: Tensor, change: Change, count: int) -> list[int]:
    """Images that one kind of student confuses this way and the other recognises, the clearest cases first.

    Args:
        labels: (N,) int64.
        wrong: (S, N) answers of those that confuse them.
        right: (S, N) of those that do not.
        change: which classes.
        count: at most so many.

    Returns:
        Positions in `labels`.
    """
    clear = (wrong == change.said).double().mean(0) + (right == change.true).double().mean(0)
    clear = torch.where((labels == change.true) & (wrong == change.said).any(0), clear, -1.0)
    order = clear.argsort(descending=True, stable=True)[:count]
    return [int(place) for place in order if clear[place] > 0]


def reliability(probabilities: Tensor, labels: Tensor, bins: int = ECE_BINS) -> Bins:
    """How far the confidence in the likeliest class is to be trusted.

    Args:
        probabilities: (N, K).
        labels: (N,) int64.
        bins: of equal width, each with its upper end.
    """
    confidence, said = probabilities.double().max(1)
    right = (said == labels).double()
    which = (confidence * bins).ceil().clamp(1, bins).long() - 1
    count = torch.bincount(which, minlength=bins)
    sums = [torch.zeros(bins, dtype=torch.float64).index_add_(0, which, value) for value in (confidence, right)]
    ece = float((sums[0] - sums[1]).abs().sum() / len(labels))
    full = count > 0
    means = [(total[full] / count[full]).tolist() for total in sums]
    return Bins(means[0], means[1], count[full].tolist(), ece)
