"""One class an image, whatever kind of label a batch brings.

Shapes:    B batch; K classes.
"""

from torch import Tensor

from mfkd.types import UNLABELLED


def hard_labels(label: Tensor, target: Tensor | None = None) -> Tensor:
    """The class of each image; of a mixed one the class with most weight.

    Args:
        label: (B,) int64 class, or `UNLABELLED`.
        target: (B, K) class weights of mixed images, used instead of `label`; a row of zeros has no label.

    Returns:
        (B,) int64, `UNLABELLED` where there is none.
    """
    if target is None:
        return label
    return target.argmax(dim=1).masked_fill(target.sum(dim=1) == 0, UNLABELLED)
