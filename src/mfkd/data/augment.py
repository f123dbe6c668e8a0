"""Augmentation of small images, in batches, as a pure function of (view_seed, view, source row).

Shapes: B batch; C, H, W channels, height, width.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from mfkd import seeding


def crop_and_flip(images: Tensor, rows: Tensor, view_seed: int, view: int, *, padding: int, flip: bool) -> Tensor:
    """Zero padding, a random crop of the old size, then a horizontal flip of every second image.

    The standard augmentation of CIFAR (He et al., CVPR 2016, section 4.2).

    Args:
        images: (B, C, H, W), any dtype.
        rows: (B,) int64 source rows, on the device of the images.
        view_seed: as in the recipe.
        view: number of the augmented view.
        padding: pixels on each side; 0 does not crop.
        flip: whether to flip.

    Returns:
        (B, C, H, W) in channels_last memory order; the images themselves when nothing is to be done.
    """
    if not padding and not flip:
        return images
    height, width = images.shape[-2:]
    drawn = seeding.uniform(view_seed, view, rows, 3, "crop-flip")
    offset = (drawn[:, :2] * (2 * padding + 1)).long()  # (B, 2) in 0..2 * padding
    y = offset[:, :1] + torch.arange(height, device=images.device)  # (B, H)
    x = torch.arange(width, device=images.device).expand(len(images), -1)
    if flip:
        x = torch.where(drawn[:, 2:] < 0.5, width - 1 - x, x)
    x = offset[:, 1:] + x  # (B, W)
    which = torch.arange(len(images), device=images.device)
    padded = F.pad(images, (padding,) * 4)
    # Indices around a slice come first, hence (B, H, W, C).
    return padded[which[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)
