"""Mixup and cutmix: two images and their labels in one.

Papers:    mixup, Zhang et al., ICLR 2018, https://arxiv.org/abs/1710.09412;
           cutmix, Yun et al., ICCV 2019, https://arxiv.org/abs/1905.04899
Shapes:    B batch; C, H, W channels, height, width; K classes.
"""

import math

import torch
from scipy.special import betaincinv
from torch import Tensor
from torch.nn import functional as F

from mfkd.types import UNLABELLED


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, K) from (B,) labels; the row of an unlabelled image is zero."""
    known = (labels != UNLABELLED)[:, None]
    return (F.one_hot(labels.clamp(min=0), classes) * known).to(dtype)


def mixup(images: Tensor, targets: Tensor, partner: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """`share` of each image and its target, the rest from its partner.

    Args:
        images: (B, C, H, W) float.
        targets: (B, K) class weights.
        partner: (B,) int64 positions in the batch.
        share: 0..1.
    """
    return torch.lerp(images[partner], images, share), torch.lerp(targets[partner], targets, share)


def cutmix(
    images: Tensor, targets: Tensor, partner: Tensor, share: float, centre: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """A box of the partner pasted into each image; targets are mixed by the area that it really covers.

    Args:
        images: (B, C, H, W) float.
        targets: (B, K) class weights.
        partner: (B,) int64 positions in the batch.
        share: 0..1, area that stays when the box lies inside the image.
        centre: of the box, (y, x) as shares of height and width; what reaches beyond the edge is cut.
    """
    height, width = images.shape[-2:]
    half = math.sqrt(1 - share) / 2
    top, bottom = (round(height * min(1.0, max(0.0, centre[0] + side))) for side in (-half, half))
    left, right = (round(width * min(1.0, max(0.0, centre[1] + side))) for side in (-half, half))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner][:, :, top:bottom, left:right]
    stays = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, torch.lerp(targets[partner], targets, stays)


def mix(
    images: Tensor, labels: Tensor, classes: int, generator: torch.Generator, *, mixup_alpha: float, cutmix_alpha: float
) -> tuple[Tensor, Tensor]:
    """Mix a batch by mixup, by cutmix, or by one of the two, drawn with even chances.

    Args:
        images: (B, C, H, W) float.
        labels: (B,) int64, -1 without a class.
        classes: K.
        generator: all draws come from it, on the CPU, so that they do not depend on the device.
        mixup_alpha: parameter of Beta(alpha, alpha) from which the share is drawn; 0 is off.
        cutmix_alpha: the same for cutmix; not both may be 0.

    Returns:
        images (B, C, H, W) and targets (B, K).
    """
    chance, drawn, *centre = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    partner = torch.randperm(len(images), generator=generator).to(images.device, non_blocking=True)
    targets = one_hot(labels, classes)
    use_cutmix = cutmix_alpha > 0 and (mixup_alpha == 0 or chance < 0.5)
    alpha = cutmix_alpha if use_cutmix else mixup_alpha
    share = float(betaincinv(alpha, alpha, drawn))
    if use_cutmix:
        return cutmix(images, targets, partner, share, (centre[0], centre[1]))
    return mixup(images, targets, partner, share)
