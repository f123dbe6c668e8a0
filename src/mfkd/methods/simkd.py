"""SimKD: the student's projected last map becomes the teacher's, and the teacher's classifier is used on it.

Paper:     Chen, Mei, Zhang, Wang, Feng and Chen, "Knowledge distillation with the reused teacher classifier",
           CVPR 2022, https://arxiv.org/abs/2203.14001
Deviates:  the preset `simkd` is the published form, in which the cross-entropy has weight 0; named in a
           mapping, it stands beside whatever cross-entropy and methods that mapping has.
Shapes:    B batch; C, H, W the student's last map; D, h, w the teacher's; K classes.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.logits import require_logits
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pooled import POOLED, averaged
from mfkd.methods.projected import Projected, Projection, build_projector
from mfkd.nn.align import shrink
from mfkd.types import Batch, Knowledge, Needs, Outputs


def simkd_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared gap between the projected map and the teacher's, at the smaller of their sizes.

    Args:
        student: (B, D, H, W) projected; gradients flow.
        teacher: (B, D, h, w); held constant.

    Returns:
        () squared activations, 0 or more.

    Raises:
        ShapeError: other images or channels on the two sides.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ShapeError(
            f"simkd_loss needs two maps (B, D, h, w) of the same images, got student {tuple(student.shape)} and "
            f"teacher {tuple(teacher.shape)}; project the student's map to the teacher's channels."
        )
    teacher = shrink(teacher.detach(), (student.shape[2], student.shape[3]))
    return F.mse_loss(shrink(student, (teacher.shape[2], teacher.shape[3])), teacher)


class SimKDConfig(MethodConfig):
    """Options of `simkd`; defaults are those of the published CIFAR-100 runs."""

    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="factor of the term; published 1, with ce.weight=0"
    )
    student_tap: str = Field("bottom", description="student map that is projected; published: the last one")
    teacher_tap: str = Field(
        "bottom", description="teacher map whose average its classifier gets; published: the last one"
    )
    factor: int = Field(
        2, ge=1, description="how many times narrower the projector is than the teacher's map; published 2"
    )


class SimKD(Method):
    """Reused teacher classifier; the network handed over is a `Projected`, not the student alone."""

    Config = SimKDConfig

    def __init__(self, config: SimKDConfig, context: Context) -> None:
        super().__init__()
        require_logits("simkd", context)
        self.config: SimKDConfig = config
        self.needs = Needs(student=(config.student_tap,), teacher=(config.teacher_tap, POOLED))
        classifier = context.teacher_classifier()
        width, *size = map_shapes("teacher", context.teacher, [config.teacher_tap])[0]
        if not isinstance(classifier, nn.Linear) or classifier.in_features != width:
            raise ConfigError(
                f"simkd reuses a linear classifier of the averaged map {config.teacher_tap} ({width} channels), "
                f"and this teacher has {_told(classifier)}; name another teacher_tap, or use another method."
            )
        channels = map_shapes("student", context.student, [config.student_tap])[0][0]
        hidden = max(1, width // config.factor)
        head = next((context.student[name].path for name in context.student if name == POOLED), None)
        self.projection = Projection(
            tap=context.student[config.student_tap],
            head=head,
            size=(size[0], size[1]),
            hidden=hidden,
            width=width,
            classes=classifier.out_features,
            bias=classifier.bias is not None,
        )
        # In a tuple, since the teacher is no part of a method.
        self.reused = (classifier,)
        self.checked = False
        with seeding.seeded(context.seed, "simkd"):
            self.projector = build_projector(channels, hidden, width)

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `simkd`.

        Raises:
            ConfigError: the teacher's classifier gets something else than the average of the map.
        """
        target = teacher.taps[self.config.teacher_tap]
        if not self.checked:  # once, since it waits for the device
            self._check(target, teacher.taps[POOLED])
        maps = shrink(student.taps[self.config.student_tap], self.projection.size)
        return {"simkd": simkd_loss(self.projector(maps), target)}

    def deployed(self, student: nn.Module) -> nn.Module:
        """The student's backbone, the projector and the teacher's classifier, all shared, none copied."""
        return Projected(student, self.projection, self.projector, self.reused[0])

    def _check(self, maps: Tensor, pooled: Tensor) -> None:
        if not averaged(maps, pooled):
            raise ConfigError(
                f"simkd reuses the teacher's classifier on its averaged map {self.config.teacher_tap}, but this "
                "classifier gets something else; name another teacher_tap, or use another method."
            )
        self.checked = True


def _told(classifier: nn.Module | None) -> str:
    if isinstance(classifier, nn.Linear):
        return f"one of {classifier.in_features}"
    return "none that was found" if classifier is None else f"a {type(classifier).__name__}"
