"""The teacher's fusion: it learns once to be of use for the labels, and never moves again.

If both fusions were trained on their distance alone, both would collapse to a constant. So the
teacher's side is trained first, on the frozen teacher, through an auxiliary head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mfkd.errors import TrainingError
from mfkd.nn.align import Size
from mfkd.nn.fuse import Fusion
from mfkd.nn.once import Once


class HeadedFusion(nn.Module):
    """A `Fusion` with an auxiliary head, by which it learns.

    Args:
        shapes: (C_i, H_i, W_i) of each level, front first.
        channels: as of `Fusion`.
        size: (h, w) of the fused map.
        kind: kind of `Fusion`; `static` has no head.
        num_classes: K of the head.
    """

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], channels: int, size: Size, kind: str, num_classes: int
    ) -> None:
        super().__init__()
        self.fusion = Fusion(shapes, channels, size, kind)
        self.head = None if kind == "static" else nn.Linear(self.fusion.channels, num_classes)

    def classify(self, fused: Tensor) -> Tensor:
        """Class scores (B, K) of a fused map (B, C, h, w): ReLU, global average, linear.

        Raises:
            TrainingError: `static` has no head.
        """
        if self.head is None:
            raise TrainingError("a static fusion has no head; use another kind.")
        return self.head(fused.relu().mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The fused map (B, C, h, w)."""
        return self.fusion(maps)  # type: ignore[no-any-return]


class CalibratedFusion(HeadedFusion, Once):
    """A `HeadedFusion` that is calibrated once, and frozen before and after."""

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], channels: int, size: Size, kind: str, num_classes: int
    ) -> None:
        super().__init__(shapes, channels, size, kind, num_classes)
        self.freeze()

    def finish(self) -> None:
        """Freeze for good."""
        if self.learning:  # and not where a state that is ready was loaded
            self.fusion.settle()
        super().finish()

    @torch.no_grad()
    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The frozen fused map (B, C, h, w).

        Raises:
            TrainingError: not calibrated yet.
        """
        if not self.ready:
            raise TrainingError(
                "the teacher's fusion is not calibrated; call distiller.prepare(loader) once before training."
            )
        return super().forward(maps)
