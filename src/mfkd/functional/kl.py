"""The soft-target term: the student's tempered distribution follows the teacher's.

Paper:     Hinton, Vinyals and Dean, 2015, https://arxiv.org/abs/1503.02531
Shapes:    B batch; K classes.
"""

import torch.nn.functional as F
from torch import Tensor

from mfkd.errors import ConfigError, ShapeError
from mfkd.functional.precision import full


def soft_target_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """T^2 KL(softmax(z_t / T) || softmax(z_s / T)), mean over the batch.

    The factor T^2 keeps the size of the gradients when T changes (section 2 of the paper).

    Args:
        student_logits: (B, K); gradients flow.
        teacher_logits: (B, K); held constant.
        temperature: T above 0; 4 as in the published CIFAR-100 tables.

    Returns:
        () nats times T^2, in float32 (float64 for float64 logits), 0 or more.

    Raises:
        ShapeError: the logits are not two (B, K) of one shape.
        ConfigError: T is not above 0.
    """
    if student_logits.ndim != 2 or student_logits.shape != teacher_logits.shape:
        raise ShapeError(
            f"soft_target_loss needs logits (B, K) over the same classes, got student {tuple(student_logits.shape)} "
            f"and teacher {tuple(teacher_logits.shape)}; give the teacher a head with the student's classes."
        )
    if not temperature > 0:
        raise ConfigError(f"temperature must be above 0, got {temperature}; 4 is usual.")
    student = F.log_softmax(full(student_logits) / temperature, dim=1)
    teacher = F.log_softmax(full(teacher_logits.detach()) / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
