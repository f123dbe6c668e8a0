"""CTKD: the temperature is learnt against the student, and ever more so as the run goes on.

Paper:     Li, Li, Yang, Zhao, Song, Luo, Li and Yang, AAAI 2023, https://arxiv.org/abs/2211.16231
Deviates:  the curriculum rises with every step, published: with every epoch. In the variant
           `instance` the student's logits enter the temperature without gradients, so that the
           reversed gradient reaches the temperature alone; the width of its perceptron is ours, the
           published code does not contain it. Published beside 0.1 of the cross-entropy:
           `method: {ce: {weight: 0.1}, ctkd: {}}`.
Shapes:    B batch; K classes.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.functional.precision import full
from mfkd.methods.base import Context, Method
from mfkd.methods.logits import LogitConfig, check_logits, given_logits, require_logits
from mfkd.types import Batch, Knowledge, Needs, Outputs


def ctkd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: Tensor) -> Tensor:
    """T^2 KL(teacher || student) of the tempered softmax, mean over the batch, with a learnable T.

    Args:
        student_logits: (B, K) with K of 2 or more; gradients flow.
        teacher_logits: (B, K); held constant.
        temperature: () or (B,), above 0; gradients flow, through both distributions and the factor T^2.

    Returns:
        () nats times T^2, 0 or more.

    Raises:
        ShapeError: the logits are not two (B, K) of one shape, or T is neither () nor (B,).
    """
    check_logits("ctkd_loss", student_logits, teacher_logits)
    if temperature.shape not in ((), student_logits.shape[:1]):
        raise ShapeError(
            f"ctkd_loss needs one temperature or one an image, got {tuple(temperature.shape)} for a batch of "
            f"{len(student_logits)}; give a scalar tensor or one of that length."
        )
    per_image = temperature.expand(len(student_logits))[:, None]
    student = F.log_softmax(full(student_logits) / per_image, dim=1)
    teacher = F.log_softmax(full(teacher_logits.detach()) / per_image, dim=1)
    return (F.kl_div(student, teacher, reduction="none", log_target=True) * per_image**2).sum(dim=1).mean()


def curriculum(progress: float, ramp: float) -> float:
    """How strongly the temperature is trained: (1 - cos(pi progress / ramp)) / 2, then 1.

    Args:
        progress: 0 to 1.
        ramp: share of the run after which it stays 1; 0: from the start.
    """
    return (1 - math.cos(math.pi * progress / ramp)) / 2 if progress < ramp else 1.0


def reverse_gradient(value: Tensor, factor: float) -> Tensor:
    """The same value, whose gradient is multiplied by minus `factor`."""
    held = value.detach()
    return held - factor * (value - held)


class CTKDConfig(LogitConfig):
    """Options of `ctkd`; those of the published code for CIFAR-100."""

    weight: float = Field(
        0.9, ge=0, allow_inf_nan=False, description="factor of the term; published: 0.9 beside ce.weight=0.1"
    )
    lowest: float = Field(1.0, gt=0, allow_inf_nan=False, description="lower bound of the temperature; published: 1")
    span: float = Field(20.0, gt=0, allow_inf_nan=False, description="range of the temperature above it; published: 20")
    ramp: float = Field(
        1 / 24, ge=0, le=1, description="share of the run in which the curriculum rises; published: 10 of 240 epochs"
    )
    instance: bool = Field(False, description="a temperature for each image, from both networks' logits")


class CTKD(Method):
    """Logit distillation whose temperature, trained with the student's optimiser, maximises the term.

    The temperature starts at lowest + span / (1 + 1/e), 15.6 by default, as published.
    """

    Config = CTKDConfig
    needs = Needs(logits=True)

    def __init__(self, config: CTKDConfig, context: Context) -> None:
        super().__init__()
        require_logits("ctkd", context)
        config.check("ctkd", context)
        self.config: CTKDConfig = config
        if config.instance:
            width = context.num_classes
            with seeding.seeded(context.seed, "ctkd"):
                self.scorer = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        else:
            self.score = nn.Parameter(torch.ones(()))

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `ctkd`."""
        own, other = self.config.scaled(student.logits), self.config.scaled(given_logits("ctkd", teacher))
        return {"ctkd": ctkd_loss(own, other, self.temperature(own, other))}

    def temperature(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """T, () or with `instance` (B,); its gradient is reversed by the curriculum at `progress`."""
        if self.config.instance:
            score = self.scorer(torch.cat([teacher_logits, student_logits], dim=1).detach()).squeeze(1)
        else:
            score = self.score
        score = reverse_gradient(score, curriculum(self.progress, self.config.ramp))
        return self.config.lowest + self.config.span * score.sigmoid()
