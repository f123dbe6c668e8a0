"""Whether a network's classifier gets the average of a map, told by the values of one batch."""

from torch import Tensor

POOLED = "penultimate"
SAME = 0.05  # of the largest value: room for networks in bf16


def averaged(maps: Tensor, pooled: Tensor, *, trained: bool = False) -> bool:
    """Whether vectors are the averages of maps, so that nothing but the pooling stands between them.

    Args:
        maps: (B, C, H, W).
        pooled: (B, C), what the classifier got of the same images.
        trained: allow for dropout, which leaves some values out and makes the others larger by one factor.
    """
    means, pooled = maps.detach().mean((2, 3)), pooled.detach()
    # An activation after the pooling would leave out negative averages alone.
    if trained and ((pooled == 0) & (means > 0)).any():
        means = means * (pooled != 0)
        means = means * ((means * pooled).sum() / means.square().sum())
    return not bool((means - pooled).abs().max() > SAME * pooled.abs().max())
