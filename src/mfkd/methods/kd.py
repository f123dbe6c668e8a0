"""KD: the student's tempered class probabilities follow the teacher's.

Paper:     Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531
Deviates:  weight 1 beside a full cross-entropy. The published CIFAR-100 tables use 0.1 of the
           cross-entropy and 0.9 of this term: `method: {ce: {weight: 0.1}, kd: {weight: 0.9}}`.
Shapes:    B batch; K classes.
"""

from pydantic import Field
from torch import Tensor

from mfkd.functional.kl import soft_target_loss
from mfkd.methods.base import Context, Method
from mfkd.methods.logits import LogitConfig, given_logits, require_logits
from mfkd.types import Batch, Knowledge, Needs, Outputs


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(teacher || student) of the tempered softmax, mean over the batch.

    Args:
        student_logits: (B, K); gradients flow.
        teacher_logits: (B, K); held constant.
        temperature: T above 0; 4 as in the published CIFAR-100 tables.

    Returns:
        () nats times T^2, 0 or more.

    Raises:
        ShapeError: the logits differ in shape.
    """
    return soft_target_loss(student_logits, teacher_logits, temperature)


class KDConfig(LogitConfig):
    """Options of `kd`."""

    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="factor of the term; published tables: 0.9 beside ce.weight=0.1"
    )
    temperature: float = Field(4.0, gt=0, allow_inf_nan=False, description="T that softens both distributions")


class KD(Method):
    """Logit distillation; needs a teacher whose head has the student's classes."""

    Config = KDConfig
    needs = Needs(logits=True)

    def __init__(self, config: KDConfig, context: Context) -> None:
        super().__init__()
        require_logits("kd", context)
        config.check("kd", context)
        self.config: KDConfig = config

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `kd`."""
        logits = self.config.scaled(student.logits), self.config.scaled(given_logits("kd", teacher))
        return {"kd": kd_loss(*logits, self.config.temperature)}
