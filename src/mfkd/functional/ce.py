"""Cross-entropy over a batch in which some images may have no label.

Shapes:    B batch; K classes.
"""

import torch.nn.functional as F
from torch import Tensor

from mfkd.functional.precision import full
from mfkd.types import UNLABELLED


def cross_entropy(logits: Tensor, label: Tensor, target: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Sum over the labelled images, divided by the whole batch.

    Dividing by B, not by the number of labelled images, makes the mean over equal parts of a batch
    (processes, accumulated steps) the value of the whole batch.

    Args:
        logits: (B, K); gradients flow.
        label: (B,) int64 class, or `UNLABELLED`, which adds 0.
        target: (B, K) class weights of mixed images, used instead of `label`; a row sums to the
            labelled share of its image, so it is all 0 without a label.
        label_smoothing: share of the mass spread evenly over the classes, as in torch.

    Returns:
        () nats, in float32 (float64 for float64 logits), 0 or more.
    """
    logits = full(logits)
    if target is None:
        total = F.cross_entropy(
            logits, label, ignore_index=UNLABELLED, reduction="sum", label_smoothing=label_smoothing
        )
        return total / len(label)
    weights = target.to(logits.dtype)
    even = weights.sum(dim=1, keepdim=True) / logits.shape[1]
    weights = weights + label_smoothing * (even - weights)
    return -(weights * F.log_softmax(logits, dim=1)).sum() / len(label)
