"""SRRL: the student's features, read by the teacher's own classifier, give the teacher's scores.

Paper:     Yang, Martinez, Bulat and Tzimiropoulos, "Knowledge distillation via softmax regression
           representation learning", ICLR 2021, https://openreview.net/forum?id=ZzwDy_wiWv
Deviates:  the teacher's side is the vector that its classifier gets, so that any network with a
           classifier can teach, also one with other classes; for one that averages its last map this
           is the authors' code. A transformer's features are signed, so the connector's ReLU is left
           out for them.
Shapes:    B batch; C_s, H, W the student's map; C_t features of the teacher; K its classes.
"""

from collections.abc import Callable

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mfkd import seeding
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import map_shapes
from mfkd.nn.adapt import Regressor
from mfkd.types import Batch, Knowledge, Needs, Outputs

FEATURES = "penultimate"


def srrl_loss(student: Tensor, teacher: Tensor, classifier: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean squared gaps between two feature vectors, and between the scores that one classifier gives them.

    Args:
        student: (B, C_t), already through the connector; gradients flow.
        teacher: (B, C_t); held constant.
        classifier: (B, C_t) to (B, K), the teacher's own, frozen.

    Returns:
        Softmax regression () in squared units of the logits, and feature matching () in squared units
        of the features; both 0 or more.

    Raises:
        ShapeError: the features differ in shape.
    """
    if student.ndim != 2 or student.shape != teacher.shape:
        raise ShapeError(
            f"srrl_loss needs features (B, C) of one shape, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; bring the student's to the teacher's width first."
        )
    teacher = teacher.detach()
    return F.mse_loss(classifier(student), classifier(teacher).detach()), F.mse_loss(student, teacher)


class SRRLConfig(MethodConfig):
    """Options of `srrl`; the weight of 1 for both terms is that of the authors' ImageNet code."""

    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="factor of both terms; 1 in the authors' ImageNet code"
    )
    student_tap: str = Field("bottom", description="student map that is connected; the last one, as published")
    relu: bool | None = Field(
        None, description="ReLU after the connector, as published; null: unless the teacher is a transformer"
    )


class SRRL(Method):
    """Softmax regression representation learning.

    Terms: `srrl`, the scores of the teacher's classifier, and `srrl_feature`, the features before it.
    """

    Config = SRRLConfig

    def __init__(self, config: SRRLConfig, context: Context) -> None:
        super().__init__()
        self.config: SRRLConfig = config
        classifier = context.teacher_classifier()
        if classifier is None:
            raise ConfigError(
                "srrl needs a teacher whose classifier can read the student's features, and no such module was found; "
                "teach with one network that ends in a linear classifier, or leave srrl out."
            )
        self._classifier = (classifier,)  # in a tuple it is no submodule: it stays the teacher's
        self.needs = Needs(student=(config.student_tap,), teacher=(FEATURES,))
        shape = map_shapes("student", context.student, self.needs.student)[0]
        self.relu = context.teacher["bottom"].layout == "nchw" if config.relu is None else config.relu
        with seeding.seeded(context.seed, "srrl"):
            self.connector = Regressor([shape], context.teacher[FEATURES].channels, shape[1:])

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The terms `srrl` and `srrl_feature`."""
        maps = self.connector([student.taps[self.config.student_tap]])
        features = (F.relu(maps) if self.relu else maps).mean((2, 3))
        scores, matching = srrl_loss(features, teacher.taps[FEATURES], self._classifier[0])
        return {"srrl": scores, "srrl_feature": matching}
