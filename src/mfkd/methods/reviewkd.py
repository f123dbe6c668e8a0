"""ReviewKD: shallow maps of the student, fused with its deeper ones, match the teacher's at several scales.

Paper:     Chen, Liu, Zhao and Jia, "Distilling knowledge via knowledge review", CVPR 2021,
           https://arxiv.org/abs/2104.09044
Deviates:  sizes and widths are taken from the taps, not from a table of networks. A network without a map
           before the activation gives the one after it, one without a pooled vector goes without that level.
           A map that is not square is pooled on each side to at most the scale.
Shapes:    B batch; C, h, w a level of the teacher.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.methods.base import Context, Method
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import PairsConfig, paired
from mfkd.nn.align import shrink
from mfkd.nn.review import Review
from mfkd.types import Batch, Knowledge, Needs, Outputs, TapSpec

SCALES = (4, 2, 1)
POOLED = "penultimate"


def reviewkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss: squared gaps of the map and of its averages over 4x4, 2x2 and 1x1 cells.

    Each scale weighs half of the one before it; scales that are no smaller than the map are left out.

    Args:
        student: (B, C, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () squared activations, 0 or more: the weighted mean of the scales' mean squared gaps.

    Raises:
        ShapeError: the shapes differ.
    """
    if student.ndim != 4 or student.shape != teacher.shape:
        raise ShapeError(
            f"reviewkd_loss needs two maps (B, C, h, w) of one shape, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; bring the student's map to the teacher's first."
        )
    teacher = teacher.detach()
    total, weights = F.mse_loss(student, teacher), 1.0
    for step, scale in enumerate((scale for scale in SCALES if scale < max(student.shape[2:])), 1):
        gap = F.mse_loss(shrink(student, (scale, scale)), shrink(teacher, (scale, scale)))
        total, weights = total + gap / 2**step, weights + 1 / 2**step
    return total / weights


class ReviewKDConfig(PairsConfig):
    """Options of `reviewkd`; defaults are those of the published CIFAR-100 tables."""

    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term; published: 1 resnet110 to resnet32, 0.6 resnet56 to resnet20, 5 resnet32x4 to "
        "resnet8x4 or ShuffleV1 and from wrn_40_2, 8 resnet32x4 to ShuffleV2",
    )
    warmup: float = Field(
        1 / 12, ge=0, le=1, description="share of the run in which the weight rises from 0; published 20 of 240 epochs"
    )
    max_width: int = Field(
        512,
        ge=1,
        description="channels in which levels are fused: the student's last level, at most this; published 512",
    )


class ReviewKD(Method):
    """Knowledge review over all pairs of stages and the pooled vector.

    By default the student's maps are read after the activation and the teacher's before it, as published.
    """

    Config = ReviewKDConfig

    def __init__(self, config: ReviewKDConfig, context: Context) -> None:
        super().__init__()
        self.config: ReviewKDConfig = config
        own, others = self._taps(config, context)
        self.needs = Needs(student=own, teacher=others)
        student, teacher = _shapes("student", context.student, own), _shapes("teacher", context.teacher, others)
        with seeding.seeded(context.seed, "reviewkd"):
            self.review = Review(student, teacher, min(config.max_width, student[-1][0]))

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `reviewkd`, summed over the levels."""
        maps = self.review([_as_map(student.taps[name]) for name in self.needs.student])
        gaps = [
            reviewkd_loss(level, _as_map(teacher.taps[name]))
            for level, name in zip(maps, self.needs.teacher, strict=True)
        ]
        return {"reviewkd": torch.stack(gaps).sum()}

    @staticmethod
    def _taps(config: ReviewKDConfig, context: Context) -> tuple[tuple[str, ...], tuple[str, ...]]:
        after, before = paired("reviewkd", config, context), paired("reviewkd", config, context, pre=True)
        own, others = tuple(pair[0] for pair in after), tuple(pair[1] for pair in before)
        chosen = config.student_taps or config.teacher_taps
        if not chosen and all(POOLED in tuple(taps) for taps in (context.student, context.teacher)):
            return (*own, POOLED), (*others, POOLED)
        return own, others


def _shapes(side: str, specs: Mapping[str, TapSpec], names: Sequence[str]) -> list[tuple[int, int, int]]:
    """Of maps, and of vectors as maps of one cell."""
    vectors = {name: specs[name].channels for name in specs if specs[name].layout == "vector"}
    return [(vectors[name], 1, 1) if name in vectors else map_shapes(side, specs, [name])[0] for name in names]


def _as_map(tap: Tensor) -> Tensor:
    return tap if tap.ndim == 4 else tap[:, :, None, None]
