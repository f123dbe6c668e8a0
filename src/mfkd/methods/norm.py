"""Norm: one map of the student follows one of the teacher in direction alone, its magnitude left out.

Paper:     normalisation before the comparison: Cao, Zhang, Gao, Cheng, Cheng and Cheng, "PKD", NeurIPS
           2022, and Liu, Yang and Chen, "Normalized Feature Distillation", 2022, https://arxiv.org/abs/2207.02039
Deviates:  one map where both use several, and for classification. By default the channels of each
           position are normalised (cosine), with the weight of `mfkd`: so this is `mfkd` with one map
           and nothing fused, the baseline of its ablation. `distance: mse` standardises each channel
           over batch and positions as PKD does, and is twice its value, 2 - 2 r for a correlation r.
Shapes:    B batch; C, h, w the teacher's map.
"""

from typing import Literal

from pydantic import Field
from torch import Tensor

from mfkd import seeding
from mfkd.functional.distance import map_distance
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import map_shapes
from mfkd.nn.adapt import Regressor
from mfkd.types import Batch, Knowledge, Needs, Outputs


def norm_loss(student: Tensor, teacher: Tensor, distance: str = "cosine") -> Tensor:
    """Gap between two maps that does not depend on the magnitude of either.

    Args:
        student: (B, C, h, w), already through the regressor; gradients flow.
        teacher: (B, C, h, w); held constant.
        distance: `cosine` over the channels of each position; `mse` or `smooth_l1` after each channel
            is standardised over batch and positions.

    Returns:
        () dimensionless; 0 to 2 for `cosine`, 0 to 4 for `mse`.

    Raises:
        ShapeError: the shapes differ.
        UnknownNameError: no such distance.
    """
    return map_distance(distance)(student, teacher)


class NormConfig(MethodConfig):
    """Options of `norm`."""

    weight: float = Field(64.0, ge=0, allow_inf_nan=False, description="factor of the term; ours, that of mfkd")
    student_tap: str = Field("bottom", description="student map that is compared")
    teacher_tap: str = Field("bottom", description="teacher map that is compared")
    distance: Literal["cosine", "mse", "smooth_l1"] = Field(
        "cosine", description="gap between the maps; cosine: ours, as in mfkd; mse: as in PKD"
    )


class Norm(Method):
    """Plain normalised feature: one map through a regressor, no fusion and no calibration."""

    Config = NormConfig

    def __init__(self, config: NormConfig, context: Context) -> None:
        super().__init__()
        self.config: NormConfig = config
        self.needs = Needs(student=(config.student_tap,), teacher=(config.teacher_tap,))
        student = map_shapes("student", context.student, self.needs.student)
        width, *size = map_shapes("teacher", context.teacher, self.needs.teacher)[0]
        with seeding.seeded(context.seed, "norm"):
            self.regressor = Regressor(student, width, (size[0], size[1]))

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `norm`."""
        own = self.regressor([student.taps[self.config.student_tap]])
        return {"norm": norm_loss(own, teacher.taps[self.config.teacher_tap], self.config.distance)}
