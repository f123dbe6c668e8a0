"""TF-KD: a made-up teacher, always right and equally unsure of all other classes, in place of a network.

Paper:     Yuan, Tay, Li, Wang and Feng, "Revisiting knowledge distillation via label smoothing
           regularization" (its Tf-KD by regularisation), CVPR 2020, https://arxiv.org/abs/1909.11723
Deviates:  the made-up probabilities are softened as a network's would be, by T on their logarithms; the
           published code takes the softmax of the probabilities themselves, which all but erases the
           label (1.05 to 1 against 1.58 to 1 for T 20 and 100 classes). The mean is over the batch;
           published: over batch and classes, times 100, which is the same for 100 classes. As in the
           published code the student is not softened. Published beside 0.9 of the cross-entropy:
           `method: {ce: {weight: 0.9}, tfkd: {}}`. Leaves images without a label out.
Shapes:    B batch; K classes.
"""

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd.errors import ConfigError
from mfkd.functional.labels import hard_labels
from mfkd.functional.precision import full
from mfkd.methods.base import Context, Method
from mfkd.methods.logits import LogitConfig, check_labels
from mfkd.types import UNLABELLED, Batch, Knowledge, Needs, Outputs


def tfkd_loss(student_logits: Tensor, label: Tensor, correct: float = 0.99, temperature: float = 20.0) -> Tensor:
    """KL(virtual teacher softened by T || student), mean over the batch.

    Args:
        student_logits: (B, K) with K of 2 or more; gradients flow.
        label: (B,) int64 class; `UNLABELLED` rows add 0 and count in the mean.
        correct: the virtual teacher's probability of the label; each other class has
            (1 - correct) / (K - 1).
        temperature: T above 0.

    Returns:
        () nats, 0 or more.

    Raises:
        ShapeError: no logits (B, K) with one label a row.
        ConfigError: `correct` is not between 0 and 1, or T is not above 0.
    """
    check_labels("tfkd_loss", student_logits, label)
    if not (0 < correct < 1 and temperature > 0):
        raise ConfigError(
            f"tfkd_loss needs correct between 0 and 1 and a temperature above 0, got {correct} and {temperature}; "
            "0.99 and 20 are published."
        )
    log = F.log_softmax(full(student_logits), dim=1)
    virtual = torch.full_like(log, (1 - correct) / (log.shape[1] - 1))
    virtual = virtual.scatter(1, label.clamp(min=0)[:, None], correct)
    soft = F.softmax(virtual.log() / temperature, dim=1)
    gaps = F.kl_div(log, soft, reduction="none").sum(dim=1)
    return gaps.masked_fill(label == UNLABELLED, 0).mean()


class TFKDConfig(LogitConfig):
    """Options of `tfkd`; those of the published code for ResNet18 on CIFAR-100."""

    weight: float = Field(
        0.1, ge=0, allow_inf_nan=False, description="factor of the term; published: 0.1 beside ce.weight=0.9"
    )
    logit_std: bool = Field(False, description="standardise the student's logits first; ours, not published")
    correct: float = Field(0.99, gt=0, lt=1, description="the virtual teacher's probability of the label")
    temperature: float = Field(
        20.0, gt=0, allow_inf_nan=False, description="T that softens the virtual teacher; published: 10 to 40"
    )


class TFKD(Method):
    """Regularisation by a virtual teacher; needs labels and no teacher."""

    Config = TFKDConfig
    needs = Needs(labels=True)
    needs_teacher = False

    def __init__(self, config: TFKDConfig, context: Context) -> None:
        super().__init__()
        config.check("tfkd", context)
        self.config: TFKDConfig = config

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `tfkd`."""
        label = hard_labels(batch.label, batch.target)
        logits = self.config.scaled(student.logits)
        return {"tfkd": tfkd_loss(logits, label, self.config.correct, self.config.temperature)}
