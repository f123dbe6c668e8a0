"""SemCKD: every student layer learns from all teacher layers, as much from each as attention finds it akin.

Paper:     Chen, Mei, Zhang, Wang, Feng and Chen, "Cross-layer distillation with semantic calibration",
           AAAI 2021, https://arxiv.org/abs/2012.03236
Deviates:  the published embeddings are as wide as the batch, and batches of another size are skipped. Here
           their width is an option; larger batches are compared in groups of that many images, and a smaller
           group is filled up with zeros, so that every batch counts. The published code also builds a second
           set of embeddings that it never uses; there is none here.
Shapes:    B batch; S, T layers of student and teacher; C_j, h, w the j-th teacher map at the smaller size.
"""

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import stages
from mfkd.nn.align import shrink
from mfkd.nn.cross import CrossAttention, projection
from mfkd.types import Batch, Knowledge, Needs, Outputs


def semckd_loss(student: Sequence[Sequence[Tensor]], teacher: Sequence[Sequence[Tensor]], attention: Tensor) -> Tensor:
    """Mean squared gaps of all pairs of layers, weighted by attention.

    Args:
        student: S rows of T maps, each (B, C_j, h, w); gradients flow.
        teacher: S rows of T maps of the same shapes; held constant.
        attention: (B, S, T), 1 in sum over the teacher's layers; gradients flow.

    Returns:
        () squared activations, 0 or more; mean over batch and student layers.

    Raises:
        ShapeError: numbers or shapes of maps that do not agree.
    """
    _check(student, teacher, attention)
    rows = [
        torch.stack([(s - t.detach()).square().flatten(1).mean(1) for s, t in zip(own, others, strict=True)], dim=1)
        for own, others in zip(student, teacher, strict=True)
    ]
    return (attention * torch.stack(rows, dim=1)).sum(2).mean()


class SemCKDConfig(MethodConfig):
    """Options of `semckd`; defaults are those of the published CIFAR-100 runs."""

    weight: float = Field(
        400.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term, in squared activations of the teacher: lower it where those are large; "
        "published 400 on CIFAR-100, beside kd of weight 1",
    )
    student_taps: tuple[str, ...] | None = Field(
        None, min_length=1, description="student maps; null: every stage, as published"
    )
    teacher_taps: tuple[str, ...] | None = Field(
        None, min_length=1, description="teacher maps, any number; null: every stage, as published"
    )
    width: int = Field(64, ge=4, description="images that are compared with each other; published: the batch size, 64")


class SemCKD(Method):
    """Semantic calibration over all pairs of student and teacher layers."""

    Config = SemCKDConfig

    def __init__(self, config: SemCKDConfig, context: Context) -> None:
        super().__init__()
        self.config: SemCKDConfig = config
        own = config.student_taps or tuple(stages("semckd", context.student))
        others = config.teacher_taps or tuple(stages("semckd", context.teacher))
        self.needs = Needs(student=own, teacher=others)
        student, teacher = map_shapes("student", context.student, own), map_shapes("teacher", context.teacher, others)
        with seeding.seeded(context.seed, "semckd"):
            self.attention = CrossAttention(len(own), len(others), config.width)
            self.projections = nn.ModuleList(
                nn.ModuleList(projection(small[0], large[0]) for large in teacher) for small in student
            )

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `semckd`."""
        own = [student.taps[name] for name in self.needs.student]
        others = [teacher.taps[name] for name in self.needs.teacher]
        projected, targets = [], []
        for small, parts in zip(own, self.projections, strict=True):
            pairs = [(shrink(small, _size(large)), shrink(large, _size(small))) for large in others]
            projected.append([part(s) for part, (s, _) in zip(parts.children(), pairs, strict=True)])
            targets.append([t for _, t in pairs])
        return {"semckd": semckd_loss(projected, targets, self.attention(own, others))}


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[2], maps.shape[3]


def _check(student: Sequence[Sequence[Tensor]], teacher: Sequence[Sequence[Tensor]], attention: Tensor) -> None:
    shapes = [[[tuple(m.shape) for m in row] for row in side] for side in (student, teacher)]
    counts = {len(row) for row in shapes[0]}
    batches = {shape[0] for row in shapes[0] for shape in row}
    expected = (*batches, len(shapes[0]), *counts)
    if shapes[0] != shapes[1] or tuple(attention.shape) != expected:
        raise ShapeError(
            f"semckd_loss needs S rows of T pairs of maps of one shape and attention (B, S, T), got "
            f"student {shapes[0]}, teacher {shapes[1]} and attention {tuple(attention.shape)}; "
            "project the student's maps first."
        )
