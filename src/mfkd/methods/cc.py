"""CC: embedded by a linear layer each, student and teacher agree on how images correlate.

Paper:     Peng, Jin, Liu, Li, Wu, Liu, Zhou and Zhang, ICCV 2019, https://arxiv.org/abs/1904.01802
Deviates:  with kernel=neighbours, the default, this is what the published CIFAR-100 tables ran (code of
           the authors, in RepDistiller): products of the gaps of images that follow each other in the
           batch. That is not the paper's loss, the gap of two kernel matrices, which kernel=gaussian
           gives; the tables' weight is not tuned for it. In both, the teacher's embedding learns
           too and nothing in the term itself keeps the two from shrinking together.
Shapes:    B batch; D width of the embeddings.
"""

from math import exp
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.functional.gather import gather
from mfkd.methods.base import Context
from mfkd.methods.relations import Relational, RelationConfig
from mfkd.types import Batch, Knowledge, Outputs

Kernel = Literal["neighbours", "gaussian"]


def cc_loss(student: Tensor, teacher: Tensor, kernel: Kernel = "neighbours", gamma: float = 0.4) -> Tensor:
    """Gap in correlation between two embeddings of a batch; gradients flow into both.

    Args:
        student: (B, D).
        teacher: (B, D).
        kernel: `neighbours`: absolute gaps of one image times those of the next, summed over D, mean
            over the B - 1 neighbours; depends on the order of the batch. `gaussian`: mean squared gap of
            the B^2 values of exp(-gamma |x - y|^2) on unit vectors, expanded to the second power of x y.
        gamma: of the gaussian kernel; 0.4 as in the paper.

    Returns:
        () in squared units of the embeddings (`neighbours`) or dimensionless; 0 or more.

    Raises:
        ShapeError: the embeddings differ in shape, are no vectors, or B < 2.
    """
    if student.ndim != 2 or student.shape != teacher.shape or len(student) < 2:
        raise ShapeError(
            f"cc_loss needs two embeddings (B, D) of 2 or more images, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; embed both in one width."
        )
    if kernel == "gaussian":
        return F.mse_loss(_gaussian(student, gamma), _gaussian(teacher, gamma))
    gaps = (student - teacher).abs()
    return (gaps[:-1] * gaps[1:]).sum(dim=1).mean()


def _gaussian(features: Tensor, gamma: float) -> Tensor:
    unit = F.normalize(features, dim=1)
    power = 2 * gamma * (unit @ unit.T)  # (B, B)
    return exp(-2 * gamma) * (1 + power + power.square() / 2)


class CCConfig(RelationConfig):
    """Options of `cc`; published: both vectors before the classifier."""

    weight: float = Field(
        0.02, ge=0, allow_inf_nan=False, description="factor of the term; 0.02 as in the published CIFAR-100 tables"
    )
    width: int = Field(128, ge=1, description="width of the embeddings; 128 as in the published CIFAR-100 tables")
    kernel: Kernel = Field(
        "neighbours", description="how images correlate: as the published tables ran it, or as the paper writes it"
    )
    gamma: float = Field(0.4, gt=0, allow_inf_nan=False, description="of the gaussian kernel; 0.4 as in the paper")


class CC(Relational):
    """Correlation congruence on one tap of each side, each with a linear embedding that learns."""

    Config = CCConfig

    def __init__(self, config: CCConfig, context: Context) -> None:
        super().__init__(config, context)
        self.config: CCConfig = config
        with seeding.seeded(context.seed, "cc"):
            self.student_side = nn.Linear(self.widths[0], config.width)
            self.teacher_side = nn.Linear(self.widths[1], config.width)

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `cc`."""
        own, given = self.taps(student, teacher)
        # Embedded before they are gathered, so that each process sends and differentiates its own rows.
        own = gather(self.student_side(own.flatten(1)))
        given = gather(self.teacher_side(given.detach().flatten(1)))
        return {"cc": cc_loss(own, given, self.config.kernel, self.config.gamma)}
