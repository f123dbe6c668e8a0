"""NST: the student's neurons are spread over an image as the teacher's are, by maximum mean discrepancy.

Paper:     Huang and Wang, 2017, https://arxiv.org/abs/1707.01219
Deviates:  no factor 1/2, as in the published tables. Every stage takes part, so VGG's first block
           does, which the tables count as a stem.
Shapes:    B batch; C_s, C_t channels; h, w the smaller of the two sizes.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.methods.pairs import Paired, PairsConfig
from mfkd.nn.align import to_smaller
from mfkd.types import Batch, Knowledge, Outputs


def nst_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared maximum mean discrepancy between two sets of channels, kernel (x y)^2, mean over the batch.

    A sample is one channel of one image, its activations over the positions scaled to length 1, so the
    numbers of channels may differ. The larger map is pooled first.

    Args:
        student: (B, C_s, H_s, W_s); gradients flow.
        teacher: (B, C_t, H_t, W_t); held constant.

    Returns:
        () dimensionless, 0 to 2 up to rounding.

    Raises:
        ShapeError: not two maps of one batch.
    """
    own, theirs = (F.normalize(maps.flatten(2), dim=2) for maps in to_smaller("nst_loss", student, teacher.detach()))
    return _kernel(theirs, theirs) + _kernel(own, own) - 2 * _kernel(own, theirs)


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    """Mean of the kernel over all pairs of channels; the matrix product keeps memory at C_s C_t an image."""
    return (first @ second.mT).square().mean()


class NSTConfig(PairsConfig):
    """Options of `nst`."""

    weight: float = Field(
        50.0, ge=0, allow_inf_nan=False, description="factor of the term; 50 in the published CIFAR-100 tables"
    )


class NST(Paired):
    """Neuron selectivity transfer over all stages, from the last one backwards."""

    Config = NSTConfig
    name = "nst"

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `nst`, summed over the pairs."""
        losses = [nst_loss(student.taps[own], teacher.taps[theirs]) for own, theirs in self.pairs]
        return {"nst": torch.stack(losses).sum()}
