"""What a training loop of anybody's own hands over, as a batch."""

import torch
from torch import Tensor

from mfkd.errors import ConfigError, ShapeError
from mfkd.types import UNLABELLED, Batch

Item = Batch | Tensor | tuple[Tensor | None, ...] | list[Tensor | None]
"""What a loader may yield: images alone, with labels, with their rows in the source behind them; None where none is."""


def batch_of(images: Tensor, labels: Tensor | None, index: Tensor | None = None, target: Tensor | None = None) -> Batch:
    """A batch, without labels or rows where none are given.

    Args:
        images: (B, C, H, W).
        labels: (B,) int64, or None.
        index: (B,) int64 source rows, or None.
        target: (B, K) class weights of mixed images, or None.

    Raises:
        ShapeError: another number of labels than of images.
    """
    if labels is None:
        labels = torch.full((len(images),), UNLABELLED, device=images.device)
    if len(labels) != len(images):
        raise ShapeError(
            f"distiller got {len(images)} images and {len(labels)} labels; give one label an image (-1: none)."
        )
    if index is None:
        index = torch.arange(len(images), device=images.device)
    return Batch(images, labels, index, target)


def from_loader(item: Item, device: torch.device) -> Batch:
    """An item of a loader on a device; a `Batch` stays as it is.

    Raises:
        ConfigError: something else.
        ShapeError: another number of labels than of images.
    """
    if isinstance(item, Batch):
        return item
    given = [item] if isinstance(item, Tensor) else [*item]
    images, labels, index = (*given, None, None, None)[:3]
    if not isinstance(images, Tensor):
        raise ConfigError(
            f"prepare got a loader that yields {type(item).__name__}, expected (images, labels); "
            "give a list or DataLoader of pairs."
        )
    return batch_of(images.to(device), *(None if one is None else one.to(device) for one in (labels, index)))
