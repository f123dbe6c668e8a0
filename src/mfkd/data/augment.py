"""Augmentation as a pure function of (view_seed, view, source row).

Small images are cropped and flipped in batches. What torchvision draws itself, it draws image by
image from torch's CPU generator, which is set for each image and put back after it.

Shapes: B batch; C, H, W channels, height, width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mfkd import seeding
from mfkd.config import AugmentConfig

Transform = Callable[[Any], Any]
"""From an image to an image."""


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
        (B, C, H, W); the images themselves when nothing is to be done.
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
    padded = F.pad(images, (padding,) * 4).flatten(2)  # (B, C, all pixels): one index a pixel serves all channels
    pixel = (y[:, :, None] * (width + 2 * padding) + x[:, None, :]).flatten(1)
    return padded.gather(2, pixel[:, None].expand(-1, images.shape[1], -1)).view_as(images)


def large_transform(
    augment: AugmentConfig, size: tuple[int, int], side: int, interpolation: str, mean: Sequence[float]
) -> Transform:
    """From a large PIL image to the augmented (C, H, W) uint8, drawn from torch's CPU generator.

    A random resized crop (Szegedy et al., CVPR 2015) or, with `crop_padding` 0, the crop of
    evaluation; then the flip, the operations and, on the tensor, the erasing.

    Args:
        augment: with `flip` decided.
        size: (height, width) of the result.
        side: shorter side before the crop of evaluation.
        interpolation: as in `data.interpolation`.
        mean: of each channel on the scale 0..1; what is left empty or erased gets it.
    """
    from torchvision.transforms import v2

    how = v2.InterpolationMode(interpolation)
    if augment.crop_padding is None:
        cut = [v2.RandomResizedCrop(size, augment.scale, augment.ratio, interpolation=how)]
    else:
        cut = [v2.Resize([side], interpolation=how), v2.CenterCrop(size)]
    flip = [v2.RandomHorizontalFlip()] if augment.flip else []
    whole: Transform = v2.Compose(
        [*cut, *flip, *_operations(augment, mean), v2.PILToTensor(), *_erasing(augment, mean)]
    )
    return whole


def small_transform(augment: AugmentConfig, mean: Sequence[float]) -> Transform | None:
    """What is done to one small (C, H, W) uint8 image beside `crop_and_flip`; None if nothing is."""
    from torchvision.transforms import v2

    steps = [*_operations(augment, mean), *_erasing(augment, mean)]
    return v2.Compose(steps) if steps else None


def one_by_one(images: Tensor, rows: Tensor, view_seed: int, view: int, transform: Transform) -> Tensor:
    """Transform each image of (B, C, H, W) with draws of its own.

    Args:
        images: (B, C, H, W), any dtype.
        rows: (B,) int64 source rows.
        view_seed: as in the recipe.
        view: number of the augmented view.
        transform: keeps shape and dtype, and draws from torch's CPU generator alone.
    """
    changed = []
    for image, row in zip(images, rows.tolist(), strict=True):
        with drawing(view_seed, view, row, "operations"):
            changed.append(transform(image))
    return torch.stack(changed)


@contextmanager
def drawing(*keys: int | str) -> Iterator[None]:
    """As `seeding.seeded`, for the CPU's generator alone: workers must not wake the accelerator."""
    before = torch.get_rng_state()
    first, *others = keys
    torch.default_generator.manual_seed(seeding.derive(int(first), *others))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def _operations(augment: AugmentConfig, mean: Sequence[float]) -> list[Transform]:
    """RandAugment (Cubuk et al., 2020) or TrivialAugment (Mueller and Hutter, ICCV 2021), and colour jitter."""
    from torchvision.transforms import v2

    how: dict[str, Any] = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": [round(255 * m) for m in mean]}
    steps: list[Transform] = []
    if augment.auto == "randaugment":
        steps.append(v2.RandAugment(augment.num_ops, augment.magnitude, **how))
    elif augment.auto == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(**how))
    if augment.jitter:
        steps.append(v2.ColorJitter(augment.jitter, augment.jitter, augment.jitter))
    return steps


def _erasing(augment: AugmentConfig, mean: Sequence[float]) -> list[Transform]:
    """Random erasing (Zhong et al., AAAI 2020) to the mean colour, which the networks see as 0."""
    from torchvision.transforms import v2

    return [v2.RandomErasing(augment.erasing, value=[round(255 * m) for m in mean])] if augment.erasing else []
