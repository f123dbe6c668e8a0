"""DKD: how sure the teacher is, and how it ranks the other classes, are learnt as two separate terms.

Paper:     Zhao, Cui, Song, Qiu and Liang, CVPR 2022, https://arxiv.org/abs/2203.08679
Deviates:  stays in logarithms, where the published code takes the logarithm of summed probabilities
           and gives infinity for a student that is sure enough; leaves images without a label out.
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
from mfkd.methods.logits import LogitConfig, check_labels, check_logits, given_logits, require_logits
from mfkd.types import UNLABELLED, Batch, Knowledge, Needs, Outputs


def dkd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    label: Tensor,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """T^2 (alpha KL over {labelled class, all others} + beta KL over the others among themselves).

    Args:
        student_logits: (B, K) with K of 2 or more; gradients flow.
        teacher_logits: (B, K); held constant.
        label: (B,) int64 class; `UNLABELLED` rows add 0 and count in the mean.
        alpha: factor of the labelled class against the rest (TCKD).
        beta: factor of the rest (NCKD).
        temperature: T above 0.

    Returns:
        () nats times T^2, mean over the batch, 0 or more. For one image, alpha 1 and beta the
        teacher's tempered probability of the other classes together, it is `kd_loss`.

    Raises:
        ShapeError: the logits are not two (B, K) of one shape, or the labels are not (B,).
        ConfigError: T is not above 0.
    """
    check_logits("dkd_loss", student_logits, teacher_logits)
    check_labels("dkd_loss", student_logits, label)
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}; 4 is usual.")
    target = label.clamp(min=0)[:, None]
    own_pair, own_others = _decoupled(full(student_logits) / temperature, target)
    pair, others = _decoupled(full(teacher_logits.detach()) / temperature, target)
    gaps = alpha * _divergence(own_pair, pair) + beta * _divergence(own_others, others)  # (B,)
    return gaps.masked_fill(label == UNLABELLED, 0).mean() * temperature**2


def _decoupled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2) of the target and the rest, and (B, K) within the rest, 0 at the target."""
    log = F.log_softmax(logits, dim=1)
    is_target = torch.zeros_like(log, dtype=torch.bool).scatter(1, target, value=True)
    rest = log.masked_fill(is_target, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([log.gather(1, target), rest], dim=1), (log - rest).masked_fill(is_target, 0)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


class DKDConfig(LogitConfig):
    """Options of `dkd`; published by mdistiller for CIFAR-100."""

    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term; published: 1, as alpha and beta weigh its parts",
    )
    warmup: float = Field(
        1 / 12, ge=0, le=1, description="share of the run in which the weight rises from 0; published: 20 of 240 epochs"
    )
    alpha: float = Field(1.0, ge=0, allow_inf_nan=False, description="factor of the labelled class against the rest")
    beta: float = Field(
        8.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the other classes; published: 8 from resnet32x4 and ResNet50, 6 for vgg and wrn pairs, "
        "2 from resnet56 and resnet110",
    )
    temperature: float = Field(4.0, gt=0, allow_inf_nan=False, description="T that softens both distributions")


class DKD(Method):
    """Decoupled logit distillation; needs labels and a teacher whose head has the student's classes."""

    Config = DKDConfig
    needs = Needs(logits=True, labels=True)

    def __init__(self, config: DKDConfig, context: Context) -> None:
        super().__init__()
        require_logits("dkd", context)
        config.check("dkd", context)
        self.config: DKDConfig = config

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """The term `dkd`."""
        logits = self.config.scaled(student.logits), self.config.scaled(given_logits("dkd", teacher))
        options = self.config.model_dump(include={"alpha", "beta", "temperature"})
        return {"dkd": dkd_loss(*logits, hard_labels(batch.label, batch.target), **options)}
