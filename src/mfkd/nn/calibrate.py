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


class CalibratedFusion(nn.Module):
    """A `Fusion` with its auxiliary head: trainable between `start` and `finish`, frozen at any other time.

    Frozen means no gradients and eval, whatever `train()` says. The buffer `calibrated` travels with
    the state dict, so a loaded fusion knows that it is ready.

    Args:
        shapes: (C_i, H_i, W_i) of each level, front first.
        channels: C of the fused map; not used by `static`.
        size: (h, w) of the fused map.
        kind: kind of `Fusion`; `static` has no head.
        num_classes: K of the head.
    """

    calibrated: Tensor

    def __init__(
        self, shapes: Sequence[tuple[int, int, int]], channels: int, size: Size, kind: str, num_classes: int
    ) -> None:
        super().__init__()
        self.fusion = Fusion(shapes, channels, size, kind)
        self.head = None if kind == "static" else nn.Linear(self.fusion.channels, num_classes)
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.int64))
        self.learning = False
        self._known_ready = False
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]
        self.requires_grad_(False).train()

    @property
    def ready(self) -> bool:
        """Whether `finish` was called, here or before the state was saved."""
        # Asked at every step, so the buffer is read (which waits for the GPU) only until it says yes.
        self._known_ready = self._known_ready or bool(self.calibrated)
        return self._known_ready

    def train(self, mode: bool = True) -> "CalibratedFusion":  # noqa: ARG002
        """Follows the calibration, not the caller."""
        return super().train(self.learning)

    def start(self) -> None:
        """Make the parameters trainable."""
        self.learning = True
        self.requires_grad_(True).train()

    def finish(self) -> None:
        """Freeze for good."""
        self.learning = False
        self.requires_grad_(False).train()
        self.zero_grad(set_to_none=True)
        self.calibrated.fill_(1)

    def classify(self, fused: Tensor) -> Tensor:
        """Class scores (B, K) of a fused map (B, C, h, w): ReLU, global average, linear.

        Raises:
            TrainingError: `static` has no head.
        """
        if self.head is None:
            raise TrainingError("a static fusion has no head; use another kind.")
        return self.head(fused.relu().mean(dim=(2, 3)))  # type: ignore[no-any-return]

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
        return self.fusion(maps)  # type: ignore[no-any-return]


def _forget(module: nn.Module, _incompatible: object) -> None:
    module._known_ready = False  # type: ignore[assignment]
    if isinstance(module, CalibratedFusion) and module.ready:
        module.finish()
