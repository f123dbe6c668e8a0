"""What the methods on relations between images share: two taps, and the batch of all processes.

Shapes:    B batch; *S, *T any student and teacher feature shape, not necessarily equal.
"""

from collections.abc import Mapping
from math import prod

from pydantic import Field
from torch import Tensor

from mfkd.errors import ShapeError
from mfkd.functional.gather import gather
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import tap_shape
from mfkd.types import Knowledge, Needs, Outputs, TapSpec


class RelationConfig(MethodConfig):
    """Options of a method that compares how the images of a batch relate to each other."""

    student_tap: str = Field("penultimate", description="student map or vector, flattened")
    teacher_tap: str = Field("penultimate", description="teacher map or vector, flattened")


class Relational(Method):
    """A method that compares one tap of the student with one of the teacher over a whole batch.

    With several processes the batch is that of all of them, so that the loss and its gradients are
    those of one process. `forward` alone may gather: a preparation stage runs on one process.

    Args:
        config: names the taps.
        context: must have them.

    Attributes:
        widths: numbers in one image's tap, student first.
    """

    def __init__(self, config: RelationConfig, context: Context) -> None:
        super().__init__()
        self.config: RelationConfig = config
        self.needs = Needs(student=(config.student_tap,), teacher=(config.teacher_tap,))
        self.widths = (
            tap_width("student", context.student, config.student_tap),
            tap_width("teacher", context.teacher, config.teacher_tap),
        )

    def taps(self, student: Outputs, teacher: Knowledge) -> tuple[Tensor, Tensor]:
        """This process's (b, *S) and (b, *T)."""
        return student.taps[self.config.student_tap], teacher.taps[self.config.teacher_tap]

    def gathered(self, student: Outputs, teacher: Knowledge) -> tuple[Tensor, Tensor]:
        """(B, *S) and (B, *T) of all processes."""
        own, given = self.taps(student, teacher)
        return gather(own), gather(given)


def tap_width(side: str, specs: Mapping[str, TapSpec], name: str) -> int:
    """How many numbers a tap has for one image.

    Args:
        side: "student" or "teacher", for the message.
        specs: taps of that side by name and alias.
        name: tap wanted.

    Raises:
        UnknownNameError: a name that the network does not declare.
        ShapeError: the tap was not measured.
    """
    shape = tap_shape(side, specs, name)
    if shape is None:
        raise ShapeError(f"{side} tap {name!r} has no measured shape; find the taps with an input shape.")
    return prod(shape)


def require_batch(name: str, student: Tensor, teacher: Tensor, least: int = 2) -> None:
    """Refuse two batches that differ, or one too small to have relations.

    Raises:
        ShapeError: it is so.
    """
    if len(student) != len(teacher) or len(student) < least:
        raise ShapeError(
            f"{name} needs one shared batch of {least} or more, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; feed both networks the same images."
        )
