"""FitNet: hints, a map from the student's middle predicts the teacher's through a regressor.

Paper:     Romero, Ballas, Kahou, Chassang, Gatta and Bengio, ICLR 2015, https://arxiv.org/abs/1412.6550
Deviates:  the hint is learnt beside the cross-entropy for the whole run, as in the published CIFAR-100
           tables, not in a stage before it. The regressor resizes (averaging or bilinear), then has a
           1x1 convolution and BatchNorm: those of the tables (3x3 with stride, 4x4 transposed, or one
           large kernel) exist for some pairs of sizes only, and their last ReLU would keep the student
           from maps with negative values, such as a transformer's.
Shapes:    B batch; C, h, w the teacher's map.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.methods.base import Context, Method
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import PairsConfig, paired, stages
from mfkd.nn.adapt import Regressor
from mfkd.types import Batch, Knowledge, Needs, Outputs, TapSpec


def fitnet_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared gap between the regressed hint and the teacher's map.

    Args:
        student: (B, C, h, w), already through the regressor; gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () in squared units of the teacher's map, 0 or more.

    Raises:
        ShapeError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"fitnet_loss needs two maps of one shape, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; bring the student's to the teacher's with nn.adapt.Regressor."
        )
    return F.mse_loss(student, teacher.detach())


class FitNetConfig(PairsConfig):
    """Options of `fitnet`."""

    weight: float = Field(
        100.0, ge=0, allow_inf_nan=False, description="factor of the term; 100 in the published CIFAR-100 tables"
    )
    student_taps: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="guided maps; null: the third of stem and stages, as published, or the last but one",
    )
    teacher_taps: tuple[str, ...] | None = Field(
        None, min_length=1, description="hints, one for each guided map; null: as for the student"
    )


class FitNet(Method):
    """Hint learning; each guided map has a regressor of its own, and several hints are added up."""

    Config = FitNetConfig

    def __init__(self, config: FitNetConfig, context: Context) -> None:
        super().__init__()
        self.config: FitNetConfig = config
        named = {
            "student_taps": config.student_taps or (_hint(context.student),),
            "teacher_taps": config.teacher_taps or (_hint(context.teacher),),
        }
        self.pairs = paired("fitnet", config.model_copy(update=named), context)
        guided, hints = zip(*self.pairs, strict=True)
        self.needs = Needs(student=guided, teacher=hints)
        shapes = zip(
            map_shapes("student", context.student, guided), map_shapes("teacher", context.teacher, hints), strict=True
        )
        with seeding.seeded(context.seed, "fitnet"):
            self.regressors = nn.ModuleList(Regressor([own], hint[0], hint[1:]) for own, hint in shapes)

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `fitnet`, summed over the hints."""
        losses = [
            fitnet_loss(regressor([student.taps[guided]]), teacher.taps[hint])
            for regressor, (guided, hint) in zip(self.regressors, self.pairs, strict=True)
        ]
        return {"fitnet": torch.stack(losses).sum()}


def _hint(taps: Mapping[str, TapSpec]) -> str:
    """The published index 2 with the stem as 0; never the last map, which is no middle any more."""
    found = stages("fitnet", taps)
    points = ["stem", *found] if "stem" in set(taps) else found
    return points[max(0, min(2, len(points) - 2))]
