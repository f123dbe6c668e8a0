"""MFKD: fuse maps of several depths on both sides, and let the fused maps agree.

Paper:     Tan, Guo, Tang, Jiang and Zou, "Knowledge distillation based on multi-layer fusion features",
           PLOS ONE 18(8): e0285901, 2023, https://doi.org/10.1371/journal.pone.0285901
Deviates:  this follows the paper's abstract, which gives the idea (front, middle and bottom maps,
           fused into one that the student learns from) and no formula. The fusion's operators, its
           calibration, the distance and every default are our own choices.
Shapes:    B batch; C_i, H_i, W_i a level's own shape; C, h, w the fused one; K classes.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from mfkd import seeding
from mfkd.functional.ce import cross_entropy
from mfkd.functional.distance import map_distance
from mfkd.functional.kl import soft_target_loss
from mfkd.functional.precision import autocast_of, full, full_taps, no_autocast
from mfkd.methods.base import Context, Method, MethodConfig, Preparation
from mfkd.methods.lookup import map_shapes
from mfkd.nn.adapt import Regressor
from mfkd.nn.calibrate import CalibratedFusion
from mfkd.nn.fuse import Fusion
from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps

FUSED = "mfkd/fused"


def mfkd_loss(student: Tensor, teacher: Tensor, distance: str = "cosine") -> Tensor:
    """Gap between two fused maps.

    Args:
        student: (B, C, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.
        distance: `cosine` over channels, `mse` or `smooth_l1` after standardisation.

    Returns:
        () dimensionless; 0 to 2 for `cosine`.

    Raises:
        ShapeError: the shapes differ.
        UnknownNameError: no such distance.
    """
    return map_distance(distance)(student, teacher)


Side = Annotated[int, Field(ge=1)]
TapNames = Annotated[tuple[str, ...], Field(min_length=1)]


class MFKDConfig(MethodConfig):
    """Options of `mfkd`; the defaults are ours, the paper's abstract gives none."""

    weight: float = Field(4.0, ge=0, allow_inf_nan=False, description="factor of the fusion term")
    student_taps: TapNames = Field(
        ("front", "middle", "bottom"), description="student maps that are fused, front first"
    )
    teacher_taps: TapNames = Field(
        ("front", "middle", "bottom"), description="teacher maps that are fused, front first"
    )
    kind: Literal["attention", "concat", "topdown", "static"] = Field("attention", description="how maps are fused")
    size: tuple[Side, Side] | None = Field(
        None, description="height, width of the fused map; null: the teacher's last tap"
    )
    channels: Side | None = Field(
        None, description="channels of the fused map; null: 64 if the teacher's last tap has at most 64, else 128"
    )
    distance: Literal["cosine", "mse", "smooth_l1"] = Field("cosine", description="gap between the fused maps")
    calibration_epochs: int = Field(1, ge=1, description="epochs in which the teacher's fusion learns, once")
    calibration_lr: float = Field(0.1, gt=0, allow_inf_nan=False, description="peak learning rate of the calibration")
    calibration_temperature: float = Field(
        4.0, gt=0, allow_inf_nan=False, description="temperature of the calibration's soft-target term"
    )
    head_weight: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="cross-entropy of the frozen head on the student's fused map, relative to weight",
    )

    @model_validator(mode="after")
    def _check(self) -> "MFKDConfig":
        for name in ("student_taps", "teacher_taps"):
            taps = getattr(self, name)
            if len(set(taps)) != len(taps):
                raise ValueError(f"{name} must differ, got {list(taps)}")
        if self.kind == "static" and self.channels is not None:
            raise ValueError(f"channels {self.channels} has no meaning for kind static, which keeps the teacher's own")
        if self.kind == "static" and self.head_weight > 0:
            raise ValueError(f"head_weight {self.head_weight:g} needs a calibrated head, and kind static has none")
        return self


def every_teacher(taps: Sequence[str], teachers: int) -> tuple[str, ...]:
    """The same level of each of several teachers, front levels first; taps that name a teacher stay.

    Args:
        taps: names of levels.
        teachers: how many teachers there are.
    """
    if teachers == 1:
        return tuple(taps)
    names = [f"teacher{number}" for number in range(1, teachers + 1)]
    return tuple(
        level
        for tap in taps
        for level in ([tap] if tap.partition(".")[0] in names else [f"{name}.{tap}" for name in names])
    )


class MFKD(Method):
    """Fusion of several maps on both sides; the teacher's fusion is calibrated once, then frozen.

    Terms: `mfkd`, and with `head_weight` above 0 `mfkd_head`, already times `head_weight`: in the
    objective the head's cross-entropy has the factor weight * head_weight.
    """

    Config = MFKDConfig
    knowledge_options = ("teacher_taps", "kind", "size", "channels")
    mixed = True  # the student's fusion is a part of the network, and a costly one

    def __init__(self, config: MFKDConfig, context: Context) -> None:
        super().__init__()
        self.config: MFKDConfig = config
        levels = every_teacher(config.teacher_taps, context.teachers)
        self.needs = Needs(student=config.student_taps, teacher=levels, labels=config.head_weight > 0)
        self.own_logits = context.teacher_logits
        student = map_shapes("student", context.student, config.student_taps)
        teacher = map_shapes("teacher", context.teacher, levels)
        width, *bottom = teacher[-1]
        size = config.size or (bottom[0], bottom[1])
        channels = config.channels or (64 if width <= 64 else 128)
        with seeding.seeded(context.seed, "mfkd"):
            self.teacher_side = CalibratedFusion(teacher, channels, size, config.kind, context.num_classes)
            channels = self.teacher_side.fusion.channels
            self.student_side = (
                Regressor(student, channels, size)
                if config.kind == "static"
                else Fusion(student, channels, size, config.kind)
            )

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """The terms `mfkd` and `mfkd_head`."""
        maps = [student.taps[name] for name in self.config.student_taps]
        with autocast_of(maps):
            fused = full(self.student_side(maps))
        terms = {"mfkd": mfkd_loss(fused, teacher.taps[FUSED], self.config.distance)}
        if self.config.head_weight > 0:
            scores = self.teacher_side.classify(fused)
            terms["mfkd_head"] = self.config.head_weight * cross_entropy(scores, batch.label, batch.target)
        return terms

    def knowledge(self, taps: Taps) -> Taps:
        """The teacher's fused map, (B, C, h, w), without gradients.

        Raises:
            TrainingError: the fusion is not calibrated.
        """
        maps = [taps[name] for name in self.needs.teacher]
        with autocast_of(maps):
            return {FUSED: full(self.teacher_side(maps))}

    def preparation(self) -> Preparation | None:
        """Calibrate the teacher's fusion; None if that is done."""
        if self.teacher_side.ready:
            return None
        self.teacher_side.start()
        learnt = self.config.kind != "static"
        return Preparation(
            epochs=self.config.calibration_epochs,
            step=self._calibrate if learnt else self._gather,
            finish=self.teacher_side.finish,
            parameters=tuple(self.teacher_side.parameters()),
            lr=self.config.calibration_lr,
            logits=learnt and self.own_logits,
        )

    def _calibrate(self, _student: Outputs | None, teacher: Knowledge, batch: Batch) -> Tensor:
        """Cross-entropy of the head, plus its gap to the teacher's own logits where they are to be had."""
        fused = self._fuse(teacher.taps, self.teacher_side.fusion)
        with no_autocast(fused):
            scores = self.teacher_side.classify(fused)
            loss = cross_entropy(scores, batch.label, batch.target)
            if self.own_logits and teacher.logits is not None:
                loss = loss + soft_target_loss(scores, teacher.logits, self.config.calibration_temperature)
        return loss

    @torch.no_grad()
    def _gather(self, _student: Outputs | None, teacher: Knowledge, _batch: Batch) -> None:
        """Passing the maps through is enough: `static` keeps running statistics."""
        self._fuse(teacher.taps, self.teacher_side.fusion)

    def _fuse(self, taps: Taps, fusion: torch.nn.Module) -> Tensor:
        maps = full_taps({name: taps[name] for name in self.needs.teacher})
        with no_autocast(next(iter(maps.values()))):
            return fusion(list(maps.values()))  # type: ignore[no-any-return]
