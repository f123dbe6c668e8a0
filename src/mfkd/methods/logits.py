"""What the methods on logits share: the option `logit_std`, and asking for a teacher that has them."""

from pydantic import Field
from torch import Tensor

from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.functional.standardise import standardise
from mfkd.methods.base import Context, MethodConfig
from mfkd.types import Knowledge


class LogitConfig(MethodConfig):
    """Options of every method on logits."""

    logit_std: bool = Field(
        False, description="standardise both networks' logits first (Sun et al., CVPR 2024: with kd.temperature=2)"
    )

    def check(self, name: str, context: Context) -> None:
        """Refuse to standardise the logits of fewer than 3 classes.

        Raises:
            ConfigError: `logit_std` is on, and there are no more.
        """
        if self.logit_std and context.num_classes < 3:
            raise ConfigError(
                f"{name}.logit_std needs 3 or more classes, got {context.num_classes}: two standardised logits are "
                "always 0.71 and -0.71, from which nothing is learnt; leave logit_std off."
            )

    def scaled(self, logits: Tensor) -> Tensor:
        """The logits (B, K) that the method compares."""
        return standardise(logits) if self.logit_std else logits


def require_logits(name: str, context: Context) -> None:
    """Refuse a teacher whose head has other classes than the student.

    Raises:
        ConfigError: it has.
    """
    if not context.teacher_logits:
        raise ConfigError(
            f"{name} needs a teacher with the student's classes, but this teacher's head has others; "
            f"fit a new one with teacher.head=tune, or leave {name} out."
        )


def given_logits(name: str, teacher: Knowledge) -> Tensor:
    """The teacher's logits (B, K).

    Raises:
        TrainingError: the source gave none.
    """
    if teacher.logits is None:
        raise TrainingError(f"{name} was given no teacher logits; ask the source for them (needs.logits is True).")
    return teacher.logits


def check_logits(name: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse logits that are not two (B, K) of one shape with K of 2 or more.

    Raises:
        ShapeError: they are not.
    """
    if student.ndim != 2 or student.shape != teacher.shape or student.shape[1] < 2:
        raise ShapeError(
            f"{name} needs logits (B, K) over the same 2 or more classes, got student {tuple(student.shape)} "
            f"and teacher {tuple(teacher.shape)}; give the teacher a head with the student's classes."
        )


def check_labels(name: str, logits: Tensor, label: Tensor) -> None:
    """Refuse anything but logits (B, K) of 2 or more classes with labels (B,).

    Raises:
        ShapeError: they are not.
    """
    if logits.ndim != 2 or logits.shape[1] < 2 or label.shape != logits.shape[:1]:
        raise ShapeError(
            f"{name} needs logits (B, K) of 2 or more classes with labels (B,), got logits {tuple(logits.shape)} "
            f"and labels {tuple(label.shape)}; give one label an image (-1: none)."
        )
