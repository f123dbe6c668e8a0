"""AT: the student looks where the teacher looks, by maps of activation energy over positions.

Paper:     Zagoruyko and Komodakis, ICLR 2017, https://arxiv.org/abs/1612.03928
Deviates:  the mean squared gap of the normalised maps, as in the authors' code and the published
           tables, where the paper's equation 2 sums norms. |A|^p as in the paper: code that takes A^p
           has negative energies for an odd p. Every stage takes part, so VGG's first block does, which
           the tables count as a stem.
Shapes:    B batch; C_s, C_t channels; h, w the smaller of the two sizes.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.methods.pairs import Paired, PairsConfig
from mfkd.nn.align import to_smaller
from mfkd.types import Batch, Knowledge, Outputs


def at_loss(student: Tensor, teacher: Tensor, p: float = 2.0) -> Tensor:
    """Mean squared gap between two attention maps, each of length 1.

    The attention at a position is the mean of |A|^p over the channels. The larger map is pooled first.

    Args:
        student: (B, C_s, H_s, W_s); gradients flow.
        teacher: (B, C_t, H_t, W_t); held constant.
        p: power, 1 or more; 2 as in the published CIFAR-100 tables.

    Returns:
        () dimensionless, 0 to 2 / (h w).

    Raises:
        ShapeError: not two maps of one batch.
    """
    student, teacher = to_smaller("at_loss", student, teacher.detach())
    return F.mse_loss(_attention(student, p), _attention(teacher, p))


def _attention(maps: Tensor, p: float) -> Tensor:
    return F.normalize(maps.abs().pow(p).mean(1).flatten(1))  # (B, h w), rows of length 1


class ATConfig(PairsConfig):
    """Options of `at`."""

    weight: float = Field(
        1000.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term; published: 1000 for images of 32x32; the term grows as 1 / (h w), so take "
        "about 60 for 8x8",
    )
    p: float = Field(
        2.0, ge=1, allow_inf_nan=False, description="power of the activations; 2 in paper and published tables"
    )


class AT(Paired):
    """Attention transfer over all stages, from the last one backwards."""

    Config = ATConfig
    config: ATConfig
    name = "at"

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `at`, summed over the pairs."""
        losses = [at_loss(student.taps[own], teacher.taps[theirs], self.config.p) for own, theirs in self.pairs]
        return {"at": torch.stack(losses).sum()}
