"""RKD: distances between images, and angles between three of them, are as the teacher sees them.

Paper:     Park, Kim, Lu and Cho, CVPR 2019, https://arxiv.org/abs/1904.05068
Deviates:  distances come from the differences themselves, where the authors' code takes them from inner
           products, which cancel for close images; two equal images give no gradient. Refuses fewer
           than 3 images, which form no angle.
Shapes:    B batch; D features; *S, *T any student and teacher feature shape, not necessarily equal.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.methods.base import Context
from mfkd.methods.relations import Relational, RelationConfig, require_batch
from mfkd.types import Batch, Knowledge, Outputs


def rkd_loss(student: Tensor, teacher: Tensor, distance: float = 25.0, angle: float = 50.0) -> Tensor:
    """Huber gaps of the distances, each side's in units of its mean, and of the angles' cosines.

    Memory grows with B^3 and B^2 D.

    Args:
        student: (B, *S); gradients flow.
        teacher: (B, *T); held constant.
        distance: factor of the distances' part.
        angle: factor of the angles' part.

    Returns:
        () dimensionless, 0 or more; both parts are means over all B^2 pairs and B^3 triples.

    Raises:
        ShapeError: the two batches differ, or B < 3.
    """
    require_batch("rkd_loss", student, teacher, least=3)
    own_distances, own_angles = _relations(student)
    distances, angles = _relations(teacher.detach())
    return distance * F.smooth_l1_loss(own_distances, distances) + angle * F.smooth_l1_loss(own_angles, angles)


def _relations(features: Tensor) -> tuple[Tensor, Tensor]:
    """Distances (B, B) in units of the mean between different images, and cosines (B, B, B) at the first image."""
    flat = features.flatten(1)
    gaps = flat[None] - flat[:, None]  # (B, B, D), from image i to image j
    lengths = torch.linalg.vector_norm(gaps, dim=2)
    mean = lengths.sum() / (len(flat) * (len(flat) - 1))
    # Where two images are equal any divisor gives 0; 1 keeps the gradient finite.
    units = gaps / lengths.masked_fill(lengths == 0, 1.0)[..., None]
    return lengths / mean.masked_fill(mean == 0, 1.0), units @ units.transpose(1, 2)


class RKDConfig(RelationConfig):
    """Options of `rkd`; published: both vectors before the classifier."""

    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="factor of the term; 1 as in the published CIFAR-100 tables"
    )
    distance: float = Field(
        25.0, ge=0, allow_inf_nan=False, description="factor of the distances; 25 as in the published CIFAR-100 tables"
    )
    angle: float = Field(
        50.0, ge=0, allow_inf_nan=False, description="factor of the angles; 50 as in the published CIFAR-100 tables"
    )


class RKD(Relational):
    """Relational knowledge distillation on one tap of each side."""

    Config = RKDConfig

    def __init__(self, config: RKDConfig, context: Context) -> None:
        super().__init__(config, context)
        self.config: RKDConfig = config

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `rkd`."""
        own, given = self.gathered(student, teacher)
        return {"rkd": rkd_loss(own, given, self.config.distance, self.config.angle)}
