"""SP: pairs that look alike to the teacher should look alike to the student.

Paper:     Tung and Mori, ICCV 2019, https://arxiv.org/abs/1907.09682
Deviates:  refuses a batch of one, for which the loss is always 0. As published, the value shrinks with
           the batch (a mean over all B^2 pairs), so the weight belongs to a batch of 64.
Shapes:    B batch; *S, *T any student and teacher feature shape, not necessarily equal.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.methods.relations import Relational, RelationConfig, require_batch
from mfkd.types import Batch, Knowledge, Outputs


def sp_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared gap between two row-normalised similarity matrices.

    Args:
        student: (B, *S); gradients flow.
        teacher: (B, *T); held constant.

    Returns:
        () dimensionless, between 0 and 4 / B.

    Raises:
        ShapeError: the two batches differ, or B < 2.
    """
    require_batch("sp_loss", student, teacher)
    return F.mse_loss(_similarity(student), _similarity(teacher.detach()))


def _similarity(features: Tensor) -> Tensor:
    flat = features.flatten(1)  # (B, D)
    return F.normalize(flat @ flat.T, dim=1)  # (B, B), rows of length 1


class SPConfig(RelationConfig):
    """Options of `sp`."""

    weight: float = Field(
        3000.0, ge=0, allow_inf_nan=False, description="factor of the term; 3000 as in the published CIFAR-100 tables"
    )
    student_tap: str = Field("bottom", description="student map or vector, flattened; published: the last map")
    teacher_tap: str = Field("bottom", description="teacher map or vector, flattened; published: the last map")


class SP(Relational):
    """Similarity-preserving distillation on one tap of each side."""

    Config = SPConfig

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `sp`."""
        return {"sp": sp_loss(*self.gathered(student, teacher))}
