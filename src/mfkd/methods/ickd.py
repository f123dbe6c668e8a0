"""ICKD: channels of the student's last map correlate with each other as the teacher's do.

Paper:     Liu, Huang, Lin, Xie, Wang, Chang and Liang, "Exploring inter-channel correlation for
           diversity-preserved knowledge distillation", ICCV 2021, https://arxiv.org/abs/2202.03680
Deviates:  nothing. The authors' ImageNet code, and torchdistill after it, divide by the batch a second
           time; this is their CIFAR-100 code, a mean over the batch as in the paper.
Shapes:    B batch; C channels of the teacher's map; H, W and h, w student's and teacher's size.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import map_shapes
from mfkd.nn.adapt import Regressor
from mfkd.types import Batch, Knowledge, Needs, Outputs


def ickd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared gap of the rows of two channel similarity matrices, mean over channels and batch.

    Args:
        student: (B, C, H, W); gradients flow.
        teacher: (B, C, h, w); held constant; its size may be another.

    Returns:
        () dimensionless, 0 to 4: 2 - 2 cos of two rows.

    Raises:
        ShapeError: batch or channels differ, or one is no map.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ShapeError(
            f"ickd_loss needs maps (B, C, H, W) of one batch and width, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; bring the student to the teacher's channels first."
        )
    gaps = _correlation(student) - _correlation(teacher.detach())  # (B, C, C)
    return gaps.square().sum(dim=2).mean()


def _correlation(maps: Tensor) -> Tensor:
    flat = maps.flatten(2)
    return F.normalize(flat @ flat.transpose(1, 2), dim=2)  # (B, C, C), rows of length 1


class ICKDConfig(MethodConfig):
    """Options of `ickd`."""

    weight: float = Field(
        2.5, ge=0, allow_inf_nan=False, description="factor of the term; 2.5 as in the authors' CIFAR-100 script"
    )
    student_tap: str = Field("bottom", description="student map; published: the last one")
    teacher_tap: str = Field("bottom", description="teacher map; published: the last one")


class ICKD(Method):
    """Inter-channel correlation on one map of each side; a regressor gives the student's the teacher's width."""

    Config = ICKDConfig

    def __init__(self, config: ICKDConfig, context: Context) -> None:
        super().__init__()
        self.config: ICKDConfig = config
        self.needs = Needs(student=(config.student_tap,), teacher=(config.teacher_tap,))
        (own,) = map_shapes("student", context.student, [config.student_tap])
        (given,) = map_shapes("teacher", context.teacher, [config.teacher_tap])
        with seeding.seeded(context.seed, "ickd"):
            self.regressor = Regressor([own], given[0], (own[1], own[2]))  # sums over positions need no one size

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `ickd`."""
        own = self.regressor([student.taps[self.config.student_tap]])
        return {"ickd": ickd_loss(own, teacher.taps[self.config.teacher_tap])}
