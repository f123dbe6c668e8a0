"""The contract of a distillation method: what it needs, what it computes, how it prepares itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps, TapSpec
from mfkd.validation import Frozen


class MethodConfig(Frozen):
    """Options that every method has; subclasses add their own with published defaults.

    Args:
        weight: factor of the method's terms in the objective.
        warmup: share of the run over which the weight rises linearly from 0.
        fade: share of the run over which the weight falls linearly to 0, where it stays; None: it does not fall.
    """

    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="factor of the method's terms")
    warmup: float = Field(0.0, ge=0, le=1, description="share of the run in which the weight rises from 0")
    fade: float | None = Field(
        None, gt=0, le=1, description="share of the run in which the weight falls to 0, where it stays; null: never"
    )


def _nothing(*_: str) -> None:
    return None


@dataclass(frozen=True)
class Context:
    """What a method may know when it is built.

    Args:
        student: every tap of the student by name and alias, with measured shapes.
        teacher: the same of the teacher; empty when there is none.
        num_classes: classes of the student, K.
        num_samples: rows of the data source, an upper bound of `Batch.index` + 1; 0 if not known.
        teacher_logits: False when the teacher's head has other classes than the student.
        labels: (num_samples,) training labels by source row, -1 elsewhere; None when not known.
        teacher_classifier: gives the module that maps the teacher's penultimate (B, C) to its logits,
            frozen, with gradients to its input; None where there is no such module.
        student_classifier: the same of the student, trainable.
        teacher_norm: gives the BatchNorm that ran last before a teacher tap was read, or None.
        teachers: how many there are; the taps of several are named `teacher1.bottom` and so on.
        epochs: passes of the whole run, of which warm-ups and preparations are shares; 0 if not known.
        seed: seed of the method's own weights and draws.
    """

    student: Mapping[str, TapSpec]
    teacher: Mapping[str, TapSpec]
    num_classes: int
    num_samples: int = 0
    teacher_logits: bool = True
    labels: Tensor | None = None
    teacher_classifier: Callable[[], nn.Module | None] = _nothing
    student_classifier: Callable[[], nn.Module | None] = _nothing
    teacher_norm: Callable[[str], nn.BatchNorm2d | None] = _nothing
    teachers: int = 1
    epochs: int = 0
    seed: int = 0

    def share(self, share: float) -> int:
        """Epochs that make up a share of the run; at least 1."""
        return max(1, round(share * self.epochs))


@dataclass(frozen=True)
class Preparation:
    """A stage before the student learns; the trainer runs it without knowing the method.

    Args:
        epochs: passes over the training images.
        step: gets the student's outputs (None unless `trains_student`), the teacher's raw knowledge
            and the batch; returns the loss to minimise, or None when only statistics are gathered. What it
            keeps from one update to the next lies in parameters and buffers, so that an interrupted stage goes on.
        finish: called once after the last step.
        parameters: what the stage trains, besides the student.
        lr: peak learning rate of the stage's SGD (weight decay 5e-4, one-cycle, in which the momentum goes from 0.95 to
            0.85 and back; a constant rate with momentum 0.9 where the number of updates is not known, or 1).
        trains_student: run the student with gradients and train it too. The stage then takes the
            place of the first epochs of the run, so that it counts in the budget.
        logits: True if the teacher's logits are wanted although the method itself does not need them.
    """

    epochs: int
    step: Callable[[Outputs | None, Knowledge, Batch], Tensor | None]
    finish: Callable[[], None]
    parameters: tuple[nn.Parameter, ...] = field(default=())
    lr: float = 0.1
    trains_student: bool = False
    logits: bool = False


class Method(nn.Module):
    """One distillation method.

    A subclass is built from its config and a `Context`, sets `Config` and `needs`, and returns named,
    unweighted terms. Images without a label (-1) and mixed ones (`Batch.target`) may be in a batch.
    Cross-entropy, weights, warm-up and fade are added once, in `methods.objective`.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    """Options of the method."""
    needs: Needs = Needs()
    needs_teacher: ClassVar[bool] = True
    """False for a method that can do without a teacher."""
    only_prepares: ClassVar[bool] = False
    """True for a method that adds no term to the objective, for all it does is done in its preparation."""
    knowledge_options: ClassVar[tuple[str, ...] | None] = None
    """Options that `knowledge` depends on, apart from what was prepared; None: all but weight, warm-up and fade."""
    not_cached: ClassVar[str] = ""
    """Why the knowledge cannot be read from disk, as in "its teacher side changes"; empty where it can."""
    kept_equal: ClassVar[tuple[str, ...]] = ()
    """Dotted names of buffers that the method itself keeps equal on all processes; DDP does not send them."""
    mixed: ClassVar[bool] = False
    """True where `forward` gets the student's taps in the networks' own precision, to run layers of its own in it."""
    config: MethodConfig = MethodConfig.model_validate({})
    """Its weight, warm-up and fade are read by the objective; a subclass keeps the config it was built from."""
    progress: float = 1.0
    """How far the run is, 0 to 1; set by the trainer, or by `Distiller.set_progress` in a loop of your own."""

    @property
    def idle(self) -> bool:
        """True where the method adds no term any more, as after a stage that was all; the teacher may rest then."""
        return False

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """Named scalar terms, unweighted, in float32."""
        raise TypeError(f"{type(self).__name__} must define forward(student, teacher, batch)")

    def knowledge(self, taps: Taps) -> Taps:
        """The frozen transform of the teacher's raw taps; what `forward` gets, and a cache would keep."""
        return taps

    def preparation(self) -> Preparation | None:
        """The stage to run before training, or None."""
        return None

    def watched(self) -> dict[str, Tensor]:
        """Named scalars of the last `forward` that are logged beside the terms and train nothing, `name/what`."""
        return {}

    def deployed(self, student: nn.Module) -> nn.Module | None:  # noqa: ARG002
        """The network to evaluate and hand over, where that is not the student alone; None: the student."""
        return None
