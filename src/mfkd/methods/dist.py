"""DIST: the student's probabilities correlate with the teacher's, over classes and over images.

Paper:     Huang, You, Wang, Qian and Xu, NeurIPS 2022, https://arxiv.org/abs/2205.10536
Deviates:  each length is kept above 1e-8 on its own (torch's cosine); the published code adds 1e-8 to
           the product of both, which outweighs it for classes that no image of the batch resembles,
           so that these are hardly learnt at T=1.
Shapes:    B batch; K classes.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.errors import ConfigError
from mfkd.functional.gather import gather
from mfkd.functional.precision import full
from mfkd.methods.base import Context, Method
from mfkd.methods.logits import LogitConfig, check_logits, given_logits, require_logits
from mfkd.types import Batch, Knowledge, Needs, Outputs


def dist_loss(
    student_logits: Tensor, teacher_logits: Tensor, beta: float = 2.0, gamma: float = 2.0, temperature: float = 4.0
) -> Tensor:
    """T^2 (beta (1 - mean correlation of the rows) + gamma (1 - mean correlation of the columns)).

    Rows and columns are those of the tempered softmax (B, K); correlations are Pearson's.

    Args:
        student_logits: (B, K) with K of 2 or more; gradients flow.
        teacher_logits: (B, K); held constant.
        beta: factor between the classes of an image.
        gamma: factor between the images of a class; a batch of one has no such correlation, and
            the term is then constant.
        temperature: T above 0.

    Returns:
        () dimensionless times T^2, 0 to 2 T^2 (beta + gamma). The columns are correlated over the
        batch at hand, so the value depends on its size, as published.

    Raises:
        ShapeError: the logits are not two (B, K) of one shape.
        ConfigError: T is not above 0.
    """
    check_logits("dist_loss", student_logits, teacher_logits)
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}; 4 is usual.")
    student = F.softmax(full(student_logits) / temperature, dim=1)
    teacher = F.softmax(full(teacher_logits.detach()) / temperature, dim=1)
    gap = beta * (1 - _correlation(student, teacher, 1)) + gamma * (1 - _correlation(student, teacher, 0))
    return gap * temperature**2


def _correlation(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    student, teacher = (values - values.mean(dim=dim, keepdim=True) for values in (student, teacher))
    return F.cosine_similarity(student, teacher, dim=dim).mean()


class DISTConfig(LogitConfig):
    """Options of `dist`; the paper's for CIFAR-100 (its published code, for ImageNet: 1, 1 and 1)."""

    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term; published: 1, as beta and gamma weigh its parts",
    )
    beta: float = Field(2.0, ge=0, allow_inf_nan=False, description="factor between the classes of an image; paper: 2")
    gamma: float = Field(2.0, ge=0, allow_inf_nan=False, description="factor between the images of a class; paper: 2")
    temperature: float = Field(
        4.0, gt=0, allow_inf_nan=False, description="T that softens both distributions; paper: 4 on CIFAR-100"
    )


class DIST(Method):
    """Correlation of logits over the batch of all processes; needs a teacher with the student's classes."""

    Config = DISTConfig
    needs = Needs(logits=True)

    def __init__(self, config: DISTConfig, context: Context) -> None:
        super().__init__()
        require_logits("dist", context)
        config.check("dist", context)
        self.config: DISTConfig = config

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `dist`."""
        own, other = (self.config.scaled(gather(side)) for side in (student.logits, given_logits("dist", teacher)))
        return {"dist": dist_loss(own, other, self.config.beta, self.config.gamma, self.config.temperature)}
