"""The contract of a distillation method: what it needs, what it computes, how it prepares itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pydantic import Field
from torch import Tensor, nn

from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps, TapSpec
from mfkd.validation import Frozen


class MethodConfig(Frozen):
    """Options that every method has; subclasses add their own with published defaults.

    Args:
        weight: factor of the method's terms in the objective.
        warmup: share of the run over which the weight rises linearly from 0.
    """

    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="factor of the method's terms")
    warmup: float = Field(0.0, ge=0, le=1, description="share of the run in which the weight rises from 0")


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built.

    Args:
        student: every tap of the student by name and alias, with measured shapes.
        teacher: the same of the teacher; empty when there is none.
        num_classes: classes of the student, K.
        num_samples: rows of the data source, an upper bound of `Batch.index` + 1.
        teacher_logits: False when the teacher's head has other classes than the student.
        labels: (num_samples,) training labels by source row, -1 elsewhere; None when not known.
        classifier: the teacher's classifier, callable with gradients on a penultimate (B, C).
        seed: seed of the method's own weights and draws.
    """

    student: Mapping[str, TapSpec]
    teacher: Mapping[str, TapSpec]
    num_classes: int
    num_samples: int = 0
    teacher_logits: bool = True
    labels: Tensor | None = None
    classifier: Callable[[Tensor], Tensor] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Preparation:
    """A stage before the student learns; the trainer runs it without knowing the method.

    Args:
        epochs: passes over the training images.
        step: gets the student's outputs (None unless `needs_student`), the teacher's raw knowledge
            and the batch; returns the loss to minimise, or None when only statistics are gathered.
        finish: called once after the last step.
        parameters: what the stage trains.
        lr: peak learning rate of the stage's SGD (momentum 0.9, one-cycle).
        needs_student: run the student too, with gradients.
        logits: True if the teacher's logits are wanted although the method itself does not need them.
    """

    epochs: int
    step: Callable[[Outputs | None, Knowledge, Batch], Tensor | None]
    finish: Callable[[], None]
    parameters: tuple[nn.Parameter, ...] = field(default=())
    lr: float = 0.1
    needs_student: bool = False
    logits: bool = False


class Method(nn.Module):
    """One distillation method.

    A subclass is built from its config and a `Context`, sets `needs`, and returns named, unweighted
    terms. Cross-entropy, weights and warm-up are added once, in `methods.objective`.
    """

    needs: Needs = Needs()
    config: MethodConfig = MethodConfig.model_validate({})
    """Its weight and warm-up are read by the objective; a subclass keeps the config it was built from."""
    progress: float = 0.0
    """How far the run is, 0 to 1; set by the trainer."""

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Named scalar terms, unweighted, in float32."""
        raise TypeError(f"{type(self).__name__} must define forward(student, teacher, batch)")

    def knowledge(self, taps: Taps) -> Taps:
        """The frozen transform of the teacher's raw taps; what `forward` gets, and a cache would keep."""
        return taps

    def preparation(self) -> Preparation | None:
        """The stage to run before training, or None."""
        return None
