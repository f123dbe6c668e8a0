"""MLLD: images, pairs of images and pairs of classes agree, each at several temperatures.

Paper:     Jin, Wang and Lin, "Multi-level logit distillation", CVPR 2023,
           https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html
Deviates:  one view of each image, that of the run; the published code trains on a weak and a strong
           view of each at once, so that a step there costs two here. The published code multiplies
           the finished mean by a mask of the less sure half of the images or classes, which halves
           it and selects nothing; there is no mask here. Its weights are 0.9 beside 0.1 of the
           cross-entropy: `method: {ce: {weight: 0.1}, mlld: {}}`.
Shapes:    B batch; K classes.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.functional.gather import gather
from mfkd.functional.kl import soft_target_loss
from mfkd.functional.precision import full
from mfkd.methods.base import Context, Method
from mfkd.methods.logits import LogitConfig, check_logits, given_logits, require_logits
from mfkd.types import Batch, Knowledge, Needs, Outputs

TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)


def mlld_loss(student_logits: Tensor, teacher_logits: Tensor, temperatures: Sequence[float] = TEMPERATURES) -> Tensor:
    """Level of the image: the sum over T of T^2 KL(teacher || student).

    Args:
        student_logits: (B, K); gradients flow.
        teacher_logits: (B, K); held constant.
        temperatures: each above 0.

    Returns:
        () nats times T^2, mean over the batch, 0 or more.

    Raises:
        ShapeError: the logits differ in shape.
        ConfigError: a temperature is not above 0.
    """
    terms = [soft_target_loss(student_logits, teacher_logits, temperature) for temperature in temperatures]
    return torch.stack(terms).sum()


def mlld_relations(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Sequence[float] = TEMPERATURES
) -> tuple[Tensor, Tensor]:
    """Levels of the batch and of the class: squared gaps of P P^T and of P^T P, summed over T.

    P (B, K) is the tempered softmax; the first gap is divided by B, the second by K.

    Args:
        student_logits: (B, K) with K of 2 or more; gradients flow.
        teacher_logits: (B, K); held constant.
        temperatures: each above 0.

    Returns:
        two () dimensionless, 0 or more. As published, the first grows with B and the second with B^2.

    Raises:
        ShapeError: the logits are not two (B, K) of one shape.
    """
    check_logits("mlld_relations", student_logits, teacher_logits)
    scale = 1 / torch.tensor(temperatures, dtype=full(student_logits).dtype, device=student_logits.device)
    student = F.softmax(full(student_logits) * scale[:, None, None], dim=2)  # (T, B, K)
    teacher = F.softmax(full(teacher_logits.detach()) * scale[:, None, None], dim=2)
    images = (student @ student.mT - teacher @ teacher.mT).square().sum() / student.shape[1]
    classes = (student.mT @ student - teacher.mT @ teacher).square().sum() / student.shape[2]
    return images, classes


class MLLDConfig(LogitConfig):
    """Options of `mlld`; those of the published code for CIFAR-100."""

    weight: float = Field(
        0.9,
        ge=0,
        allow_inf_nan=False,
        description="factor of the terms; published: 0.9 beside ce.weight=0.1, at a rate of 0.025",
    )
    logit_std: bool = Field(
        False, description="standardise both networks' logits for the term mlld (as Sun et al., CVPR 2024, do)"
    )
    temperatures: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (
        Field(TEMPERATURES, description="T that soften both distributions, one after another; published: 2 to 6")
    )


class MLLD(Method):
    """Logits on three levels; needs a teacher whose head has the student's classes.

    Terms: `mlld` (images), `mlld_batch` (pairs of images) and `mlld_class` (pairs of classes); the
    last two over the batch of all processes.
    """

    Config = MLLDConfig
    needs = Needs(logits=True)

    def __init__(self, config: MLLDConfig, context: Context) -> None:
        super().__init__()
        require_logits("mlld", context)
        config.check("mlld", context)
        self.config: MLLDConfig = config

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The terms `mlld`, `mlld_batch` and `mlld_class`."""
        own, other, temperatures = student.logits, given_logits("mlld", teacher), self.config.temperatures
        instance = mlld_loss(self.config.scaled(own), self.config.scaled(other), temperatures)
        images, classes = mlld_relations(gather(own), gather(other), temperatures)
        return {"mlld": instance, "mlld_batch": images, "mlld_class": classes}
