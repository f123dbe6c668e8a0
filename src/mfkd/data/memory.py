"""Small images: kept as uint8 on the training device and augmented there, a batch at a time.

Shapes: B batch; C, H, W channels, height, width.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mfkd.data.augment import Transform, crop_and_flip, one_by_one
from mfkd.data.sets import MemorySplit


class MemoryReader:
    """Yields uint8 batches of a `MemorySplit`; padding and flip as in `crop_and_flip`, then `transform` on each."""

    def __init__(
        self,
        split: MemorySplit,
        device: torch.device,
        *,
        padding: int = 0,
        flip: bool = False,
        view_seed: int = 0,
        transform: Transform | None = None,
    ) -> None:
        self.images, self.rows = split.images.to(device), split.rows.to(device)
        self.padding, self.flip, self.view_seed, self.transform = padding, flip, view_seed, transform

    def read(self, plan: Sequence[Tensor], view: int | None) -> Iterator[Tensor]:
        """Yield the images of each part of the plan."""
        for part in plan:
            positions = part.to(self.images.device, non_blocking=True)
            images = self.images[positions]
            if view is not None:
                rows = self.rows[positions]
                images = crop_and_flip(images, rows, self.view_seed, view, padding=self.padding, flip=self.flip)
                if self.transform is not None:
                    images = one_by_one(images, rows, self.view_seed, view, self.transform)
            yield images
