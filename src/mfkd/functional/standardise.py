"""Logit standardisation: each image's logits with mean 0 and deviation 1, whatever their scale.

Paper:     Sun, Ren, Li, Wang and Cao, CVPR 2024, https://arxiv.org/abs/2403.01427
Shapes:    B batch; K classes.
"""

from torch import Tensor


def standardise(logits: Tensor, eps: float = 1e-7) -> Tensor:
    """Logits minus their mean, over their deviation, both over the classes of an image.

    Args:
        logits: (B, K) with K of 3 or more; of two nothing but the order is left, and no gradient.
        eps: added to the deviation, as published.

    Returns:
        (B, K); unchanged by a shift or a positive factor of an image's logits, up to `eps`.
    """
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (logits.std(dim=1, keepdim=True) + eps)
