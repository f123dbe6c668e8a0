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
from mfkd.functional.distance import MapOrLevels, map_distance
from mfkd.functional.kl import soft_target_loss
from mfkd.functional.precision import autocast_of, full, full_taps, no_autocast
from mfkd.methods.base import Context, Method, MethodConfig, Preparation
from mfkd.methods.lookup import map_shapes
from mfkd.nn.adapt import Levels, answering
from mfkd.nn.calibrate import CalibratedFusion, HeadedFusion
from mfkd.nn.fuse import Attention, Fusion
from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps

FUSED = "mfkd/fused"


def mfkd_loss(student: MapOrLevels, teacher: Tensor, distance: str = "cosine") -> Tensor:
    """Gap between two fused maps.

    Args:
        student: (B, C, h, w), or its levels (B, C_i, h, w), whose channels are C together; gradients flow.
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

    weight: float = Field(64.0, ge=0, allow_inf_nan=False, description="factor of the fusion term")
    student_taps: TapNames = Field(
        ("front", "middle", "bottom"), description="student maps that are fused, front first"
    )
    teacher_taps: TapNames = Field(
        ("front", "middle", "bottom"), description="teacher maps that are fused, front first"
    )
    kind: Literal["static", "attention", "concat", "topdown"] = Field("static", description="how maps are fused")
    size: tuple[Side, Side] | None = Field(
        None, description="height, width of the fused map; null: the teacher's last tap"
    )
    channels: Side | None = Field(
        None,
        description="channels that a static level keeps at most, as principal components, null: 128; "
        "of the other kinds those of the fused map, null: 64 if the teacher's last tap has at most 64, else 128",
    )
    distance: Literal["cosine", "mse", "smooth_l1"] = Field("cosine", description="gap between the fused maps")
    calibration: Literal["before", "joint"] = Field(
        "before", description="when the teacher's fusion learns: before the student, or all the time beside it"
    )
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
        if self.kind == "static" and self.head_weight > 0:
            raise ValueError(
                f"head_weight {self.head_weight:g} needs a calibrated head, and kind static has none; "
                "use kind=attention"
            )
        if self.calibration == "joint":
            if self.kind == "static":
                raise ValueError("calibration joint has nothing to train in kind static; use kind=attention")
            if self.weight == 0:
                raise ValueError("calibration joint learns by terms of the method, so weight must be above 0")
            for name in ("calibration_epochs", "calibration_lr"):
                if (value := getattr(self, name)) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} {value:g} has no meaning for calibration joint, which has no stage")
        elif self.kind == "static":
            for name in ("calibration_lr", "calibration_temperature"):
                if (value := getattr(self, name)) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"{name} {value:g} has no meaning for kind static, in which nothing is trained; "
                        "leave it out or use kind=attention"
                    )
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

    With `kind: static`, the default, the teacher's fusion has no parameters: it gathers the mean and deviation of
    every channel and concatenates what it has standardised by them; of a level wider than `channels` it keeps the
    leading principal components. On the student's side each level has a 1x1 convolution of its own, so that every
    level has to hold what the teacher's holds. The other kinds learn, on both
    sides alike.

    Terms: `mfkd`, and with `head_weight` above 0 `mfkd_head`, already times `head_weight`: in the
    objective the head's cross-entropy has the factor weight * head_weight.

    With `calibration: joint` the teacher's fusion has no stage of its own and learns while the student
    does, by a third term, `mfkd_teacher`: the loss of the calibration, over `weight`, so that its factor
    in the objective is 1 (and follows `warmup` and `fade`). The distance must not train it, and the teacher is held
    constant in it: two fusions that both follow their distance meet where it is 0 with the least
    effort, in maps that are the same for all images. Without the term the teacher's fusion would stay
    as it was drawn. The student chases a map that moves, and a cache has to keep the teacher's own
    maps, several times the size of the fused one.
    """

    Config = MFKDConfig
    knowledge_options = ("teacher_taps", "kind", "size", "channels")
    mixed = True  # the student's fusion is a part of the network, and a costly one

    def __init__(self, config: MFKDConfig, context: Context) -> None:
        super().__init__()
        self.config: MFKDConfig = config
        levels = every_teacher(config.teacher_taps, context.teachers)
        self.joint = config.calibration == "joint"
        self.own_logits = context.teacher_logits
        self.needs = Needs(
            student=config.student_taps,
            teacher=levels,
            logits=self.joint and self.own_logits,
            labels=self.joint or config.head_weight > 0,
        )
        student = map_shapes("student", context.student, config.student_taps)
        teacher = map_shapes("teacher", context.teacher, levels)
        width, *bottom = teacher[-1]
        size = config.size or (bottom[0], bottom[1])
        channels = config.channels or (64 if width <= 64 and config.kind != "static" else 128)
        with seeding.seeded(context.seed, "mfkd"):
            build = HeadedFusion if self.joint else CalibratedFusion
            self.teacher_side = build(teacher, channels, size, config.kind, context.num_classes)
            self.student_side = (
                answering(student, self.teacher_side.fusion.widths, size)
                if config.kind == "static"
                else Fusion(student, channels, size, config.kind)
            )

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """The terms `mfkd`, `mfkd_head` and `mfkd_teacher`."""
        maps = [student.taps[name] for name in self.config.student_taps]
        side = self.student_side
        with autocast_of(maps):
            fused: list[Tensor] = side.apart(maps) if isinstance(side, Levels) else [side(maps)]
        target = self._fused(teacher.taps) if self.joint else teacher.taps[FUSED]
        terms = {"mfkd": mfkd_loss(fused, target, self.config.distance)}
        if self.config.head_weight > 0:
            scores = self.teacher_side.classify(full(fused[0]))
            terms["mfkd_head"] = self.config.head_weight * cross_entropy(scores, batch.label, batch.target)
        if self.joint:
            terms["mfkd_teacher"] = self._worth(target, teacher, batch) / self.config.weight
        return terms

    def knowledge(self, taps: Taps) -> Taps:
        """The teacher's fused map, (B, C, h, w), without gradients; its own maps where the fusion goes on learning.

        Raises:
            TrainingError: the fusion is not calibrated.
        """
        return taps if self.joint else {FUSED: self._fused(taps)}

    def watched(self) -> dict[str, Tensor]:
        """Mean weight of each level where the fusion weighs them (`kind: attention`), of each side that learns."""
        sides = {"student": (self.student_side, self.config.student_taps)}
        if self.joint:
            sides["teacher"] = (self.teacher_side.fusion, self.needs.teacher)
        found: dict[str, Tensor] = {}
        for side, (part, taps) in sides.items():
            if isinstance(part, Fusion) and isinstance(part.mix, Attention) and part.mix.share is not None:
                found |= {f"mfkd/{side} {tap}": share for tap, share in zip(taps, part.mix.share, strict=True)}
        return found

    def preparation(self) -> Preparation | None:
        """Calibrate the teacher's fusion; None if that is done, or never."""
        if not isinstance(self.teacher_side, CalibratedFusion) or self.teacher_side.ready:
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
        """The worth of the fused map, which the stage makes the most of."""
        return self._worth(self._fuse(teacher.taps, self.teacher_side.fusion), teacher, batch)

    def _worth(self, fused: Tensor, teacher: Knowledge, batch: Batch) -> Tensor:
        """Cross-entropy of the head, plus its gap to the teacher's own logits where they are to be had."""
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

    def _fused(self, taps: Taps) -> Tensor:
        """The teacher's fused map in float32, computed in the precision of its maps."""
        maps = [taps[name] for name in self.needs.teacher]
        with autocast_of(maps):
            return full(self.teacher_side(maps))

    def _fuse(self, taps: Taps, fusion: torch.nn.Module) -> Tensor:
        maps = full_taps({name: taps[name] for name in self.needs.teacher})
        with no_autocast(next(iter(maps.values()))):
            return fusion(list(maps.values()))  # type: ignore[no-any-return]
