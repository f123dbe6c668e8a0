"""FSP: before training, the student's layers learn to relate to each other as the teacher's do.

Paper:     Yim, Joo, Bae and Kim, "A Gift from Knowledge Distillation", CVPR 2017,
           https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html
Deviates:  as in the published tables the larger of two maps is pooled by averaging (the paper: by
           maximum), the gap is the mean over a matrix, not the sum, and the rate is that of the run
           (one-cycle here). The stage is part of the run, whose first epochs it takes; the tables add its 30 epochs
           to their 240. VGG has one matrix fewer, as two of its blocks share one resolution.
Shapes:    B batch; C_i channels of map i, the same in student and teacher.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from mfkd.errors import ConfigError, ShapeError, TrainingError
from mfkd.functional.precision import full_taps, no_autocast
from mfkd.methods.base import Context, Method, Preparation
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import PairsConfig, paired
from mfkd.nn.align import to_smaller
from mfkd.nn.once import Once
from mfkd.types import Batch, Knowledge, Needs, Outputs


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """How the channels of two layers go together: their products, mean over positions.

    Args:
        first: (B, C_1, H_1, W_1).
        second: (B, C_2, H_2, W_2); the larger of the two maps is pooled first.

    Returns:
        (B, C_1, C_2) in units of the product of both maps.

    Raises:
        ShapeError: not two maps of one batch.
    """
    first, second = (maps.flatten(2) for maps in to_smaller("fsp_matrix", first, second))
    return first @ second.mT / first.shape[2]


def fsp_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Mean squared gap between the matrices of neighbouring maps, summed over the neighbours.

    Args:
        student: maps (B, C_i, H_i, W_i) from front to bottom; gradients flow.
        teacher: as many, with the same channels; held constant.

    Returns:
        () in squared units of the matrices, 0 or more.

    Raises:
        ShapeError: fewer than two maps, or channels that differ.
    """
    channels = [maps.shape[1] for maps in student], [maps.shape[1] for maps in teacher]
    if len(student) < 2 or channels[0] != channels[1]:
        raise ShapeError(
            f"fsp_loss needs 2 or more maps of the same channels on both sides, got student {channels[0]} and "
            f"teacher {channels[1]}; choose maps of equal width."
        )
    losses = [
        F.mse_loss(fsp_matrix(*own), fsp_matrix(*theirs).detach())
        for own, theirs in zip(pairwise(student), pairwise(teacher), strict=True)
    ]
    return torch.stack(losses).sum()


class FSPConfig(PairsConfig):
    """Options of `fsp`."""

    weight: float = Field(1.0, ge=0, allow_inf_nan=False, description="only 1: nothing is added to the run's own loss")
    warmup: float = Field(0.0, ge=0, le=1, description="only 0: nothing is added to the run's own loss")
    fade: float | None = Field(None, gt=0, le=1, description="only null: nothing is added to the run's own loss")
    student_taps: tuple[str, ...] | None = Field(
        None, min_length=2, description="student maps, front first; null: stem and stages"
    )
    teacher_taps: tuple[str, ...] | None = Field(
        None, min_length=2, description="teacher maps, one for each of student_taps; null: stem and stages"
    )
    initial_share: float = Field(
        1 / 8,
        gt=0,
        lt=1,
        description="share of the run that the initial stage takes; published 30 epochs before the 240",
    )
    initial_lr: float = Field(
        0.05, gt=0, allow_inf_nan=False, description="peak learning rate of the stage; published: the run's own, 0.05"
    )

    @model_validator(mode="after")
    def _check(self) -> "FSPConfig":
        if self.weight != 1 or self.warmup != 0 or self.fade is not None:
            faded = "null" if self.fade is None else f"{self.fade:g}"
            raise ValueError(
                f"weight {self.weight:g}, warmup {self.warmup:g} and fade {faded} have no meaning, as fsp adds no term "
                "after its initial stage; set initial_share or initial_lr"
            )
        return self


class FSP(Method):
    """Flow of solution procedure: an initial stage for the student's own layers, and no term afterwards."""

    Config = FSPConfig
    only_prepares = True

    def __init__(self, config: FSPConfig, context: Context) -> None:
        super().__init__()
        self.config: FSPConfig = config
        pairs = paired("fsp", config, context)
        chosen = config.student_taps or config.teacher_taps
        if not chosen and "stem" in set(context.student) & set(context.teacher):
            pairs.insert(0, ("stem", "stem"))
        if len(pairs) < 2:
            raise ConfigError(
                f"fsp relates neighbouring maps, got only {pairs[0][0]}; name 2 or more student_taps and teacher_taps."
            )
        self.own, self.theirs = zip(*pairs, strict=True)
        self.needs = Needs(student=self.own, teacher=self.theirs)
        student = [shape[0] for shape in map_shapes("student", context.student, self.own)]
        teacher = [shape[0] for shape in map_shapes("teacher", context.teacher, self.theirs)]
        if student != teacher:
            raise ConfigError(
                f"fsp needs matrices of one shape, so maps of the same channels, got student {student} and "
                f"teacher {teacher}; choose networks of equal width, name other taps, or leave fsp out."
            )
        self.epochs = context.share(config.initial_share)
        self.stage = Once()

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """No terms.

        Raises:
            TrainingError: the initial stage was not run.
        """
        if not self.stage.ready:
            raise TrainingError("fsp works in its initial stage, which was not run; call distiller.prepare(loader).")
        return {}

    @property
    def idle(self) -> bool:
        """Whether the initial stage is done."""
        return self.stage.ready

    def preparation(self) -> Preparation | None:
        """Train the student's layers; None if that is done."""
        if self.stage.ready:
            return None
        return Preparation(
            epochs=self.epochs,
            step=self._step,
            finish=self.stage.finish,
            lr=self.config.initial_lr,
            trains_student=True,
        )

    def _step(self, student: Outputs | None, teacher: Knowledge, batch: Batch) -> Tensor:  # noqa: ARG002
        if student is None:
            raise TrainingError("fsp trains the student in its initial stage, got no outputs of it.")
        own, theirs = full_taps(student.taps), full_taps(teacher.taps)
        with no_autocast(student.logits):
            return fsp_loss([own[name] for name in self.own], [theirs[name] for name in self.theirs])
