"""FT: the student learns the teacher's factors, a code that an autoencoder found in the teacher's maps.

Paper:     Kim, Park and Kwak, "Paraphrasing complex network: network compression via factor transfer",
           NeurIPS 2018, https://arxiv.org/abs/1802.04977
Deviates:  maps of two sizes are compared at the smaller one. The weight, the length and rate of the
           paraphraser's stage, a paraphraser without BatchNorm and a translator with it are those of the
           code behind the published CIFAR-100 tables; but that code compares the channel means of the
           squared factors, which is attention transfer, while the paper and its authors' code (weight 500)
           compare the factors themselves, and so does this. The stage's rate follows one cycle.
Shapes:    B batch; C, H, W a map; F channels of a factor; h, w positions.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd import seeding
from mfkd.errors import ShapeError, TrainingError
from mfkd.functional.precision import full_taps, no_autocast
from mfkd.methods.base import Context, Method, MethodConfig, Preparation
from mfkd.methods.lookup import map_shapes
from mfkd.nn.align import shrink
from mfkd.nn.factor import Paraphraser, translator
from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps

FACTOR = "ft/factor"


def ft_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute gap between two factors, each scaled to length 1 an image.

    Args:
        student: (B, F, h, w); gradients flow.
        teacher: (B, F, H, W); held constant.

    Returns:
        () dimensionless, between 0 and 2 / sqrt(F h w), h and w the smaller sides.

    Raises:
        ShapeError: other images or channels on the two sides.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ShapeError(
            f"ft_loss needs two factors (B, F, h, w) of the same images, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; give both the same number of channels."
        )
    teacher = shrink(teacher.detach(), (student.shape[2], student.shape[3]))
    student = shrink(student, (teacher.shape[2], teacher.shape[3]))
    return F.l1_loss(F.normalize(student.flatten(1)), F.normalize(teacher.flatten(1)))


class FTConfig(MethodConfig):
    """Options of `ft`; defaults are those of the published CIFAR-100 tables."""

    weight: float = Field(
        200.0, ge=0, allow_inf_nan=False, description="factor of the term; published tables 200, the authors' code 500"
    )
    student_tap: str = Field("bottom", description="student map; the published tables use the last one")
    teacher_tap: str = Field("bottom", description="teacher map that is paraphrased; as student_tap")
    rate: float = Field(
        0.5, gt=0, le=1, description="channels of the factor for each of the teacher's map; 0.5 in paper and tables"
    )
    initial_share: float = Field(
        1 / 8,
        gt=0,
        lt=1,
        description="epochs of the paraphraser before the run, as a share of its own; published 30 before 240",
    )
    initial_lr: float = Field(
        0.01, gt=0, allow_inf_nan=False, description="the paraphraser's peak learning rate; published 0.01"
    )


class FT(Method):
    """Factor transfer on one tap; the teacher's paraphraser is trained once, on the teacher alone."""

    Config = FTConfig

    def __init__(self, config: FTConfig, context: Context) -> None:
        super().__init__()
        self.config: FTConfig = config
        self.needs = Needs(student=(config.student_tap,), teacher=(config.teacher_tap,))
        self.epochs = context.share(config.initial_share)
        student = map_shapes("student", context.student, [config.student_tap])[0]
        teacher = map_shapes("teacher", context.teacher, [config.teacher_tap])[0]
        factors = max(1, int(config.rate * teacher[0]))
        with seeding.seeded(context.seed, "ft"):
            self.paraphraser = Paraphraser(teacher[0], factors)
            self.translator = translator(student[0], factors)

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `ft`."""
        return {"ft": ft_loss(self.translator(student.taps[self.config.student_tap]), teacher.taps[FACTOR])}

    def knowledge(self, taps: Taps) -> Taps:
        """The teacher's factor (B, F, H, W), without gradients.

        Raises:
            TrainingError: the paraphraser is not trained.
        """
        maps = full_taps(taps)[self.config.teacher_tap]
        with no_autocast(maps):
            return {FACTOR: self.paraphraser(maps)}

    def preparation(self) -> Preparation | None:
        """Train the paraphraser on the teacher's maps; None if that is done."""
        if self.paraphraser.ready:
            return None
        self.paraphraser.start()
        return Preparation(
            epochs=self.epochs,
            step=self._paraphrase,
            finish=self._finish,
            parameters=tuple(self.paraphraser.parameters()),
            lr=self.config.initial_lr,
        )

    def _paraphrase(self, _student: Outputs | None, teacher: Knowledge, _batch: Batch) -> Tensor:
        maps = full_taps(teacher.taps)[self.config.teacher_tap]
        with no_autocast(maps):
            return F.mse_loss(self.paraphraser.reconstruct(maps), maps)

    def _finish(self) -> None:
        if not all(parameter.isfinite().all() for parameter in self.paraphraser.parameters()):
            raise TrainingError(
                f"ft: the paraphraser diverged at ft.initial_lr={self.config.initial_lr:g}, "
                "for the teacher's activations are large; lower it."
            )
        self.paraphraser.finish()
