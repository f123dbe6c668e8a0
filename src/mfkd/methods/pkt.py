"""PKT: the chance that one image picks another as its neighbour is the same for student and teacher.

Paper:     Passalis and Tefas, ECCV 2018, https://arxiv.org/abs/1803.10837
Deviates:  vectors are normalised exactly, where the authors' code adds 1e-7 to each length; a vector of
           zeros stays one, without their search for NaN. As in their code the divergence is a mean over
           all B^2 pairs, where the paper sums, so the weight belongs to a batch of 64.
Shapes:    B batch; *S, *T any student and teacher feature shape, not necessarily equal.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.methods.relations import Relational, RelationConfig, require_batch
from mfkd.types import Batch, Knowledge, Outputs

EPS = 1e-7  # of the authors' code; opposite vectors have chance 0


def pkt_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of the student's neighbour probabilities from the teacher's, mean over all pairs.

    Args:
        student: (B, *S); gradients flow.
        teacher: (B, *T); held constant.

    Returns:
        () nats, 0 or more up to 1e-7; KL(teacher || student) of a row, mean over rows, over B.

    Raises:
        ShapeError: the two batches differ, or B < 2.
    """
    require_batch("pkt_loss", student, teacher)
    given, own = _neighbours(teacher.detach()), _neighbours(student)
    return (given * ((given + EPS) / (own + EPS)).log()).mean()


def _neighbours(features: Tensor) -> Tensor:
    unit = F.normalize(features.flatten(1), dim=1)  # (B, D)
    kernel = (unit @ unit.T + 1) / 2  # (B, B), 0 to 1
    return kernel / kernel.sum(dim=1, keepdim=True)


class PKTConfig(RelationConfig):
    """Options of `pkt`; published: both vectors before the classifier."""

    weight: float = Field(
        30000.0, ge=0, allow_inf_nan=False, description="factor of the term; 30000 as in the published CIFAR-100 tables"
    )


class PKT(Relational):
    """Probabilistic knowledge transfer on one tap of each side."""

    Config = PKTConfig

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `pkt`."""
        return {"pkt": pkt_loss(*self.gathered(student, teacher))}
