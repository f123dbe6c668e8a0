"""CAT-KD: class attention transfer, for every class both networks look at the same places.

Paper:     Guo, Yan, Li and Lin, "Class Attention Transfer Based Knowledge Distillation", CVPR 2023,
           https://arxiv.org/abs/2304.12777
Deviates:  the networks keep their classifiers and the bias in them: the maps are made beside the
           logits, where the authors' code rebuilds both networks with a 1x1 convolution without bias
           before the pooling. The published weights differ by pair; the default is that of resnet56
           to resnet20.
Shapes:    B batch; C channels of the last map; K classes.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.logits import require_logits
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pooled import POOLED, averaged
from mfkd.types import Batch, Knowledge, Needs, Outputs, Taps, TapSpec


def class_maps(maps: Tensor, weight: Tensor) -> Tensor:
    """Class activation maps: what each position adds to each class's score.

    Their mean over the positions is the logits without bias, where those come from the averaged map.

    Args:
        maps: (B, C, H, W), the last map.
        weight: (K, C) of the linear classifier.

    Returns:
        (B, K, H, W) in units of the logits.
    """
    return F.conv2d(maps, weight[:, :, None, None])


def catkd_loss(student: Tensor, teacher: Tensor, size: int = 2, normalise: bool = False) -> Tensor:
    """Mean squared gap between two sets of class maps, pooled to one size.

    Args:
        student: (B, K, H_s, W_s) class maps; gradients flow.
        teacher: (B, K, H_t, W_t) class maps; held constant.
        size: height and width to which both are averaged.
        normalise: scale each class's pooled map to length 1.

    Returns:
        () in squared units of the logits, or dimensionless and at most 4 / size^2 if normalised.

    Raises:
        ShapeError: batches or classes differ.
    """
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[:2] != teacher.shape[:2]:
        raise ShapeError(
            f"catkd_loss needs class maps (B, K, H, W) of the same images and classes, got student "
            f"{tuple(student.shape)} and teacher {tuple(teacher.shape)}; make them with class_maps."
        )
    own, theirs = (F.adaptive_avg_pool2d(maps, size).flatten(2) for maps in (student, teacher.detach()))
    if normalise:
        own, theirs = F.normalize(own, dim=2), F.normalize(theirs, dim=2)
    return F.mse_loss(own, theirs)


class CATKDConfig(MethodConfig):
    """Options of `catkd`."""

    weight: float = Field(
        0.7,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term; published: 0.7 resnet56-20, 1.8 resnet110-32, 4.5 vgg13-8, 12 wrn_40_2-16_2, "
        "15 resnet32x4-8x4; normalised 40 ResNet50-MobileNetV2, 600 with size 4 resnet32x4-ShuffleV1 and V2",
    )
    student_tap: str = Field("bottom", description="student map that is averaged for its classifier")
    teacher_tap: str = Field("bottom", description="teacher map that is averaged for its classifier")
    size: int = Field(2, ge=1, description="height and width of the compared maps; published: 2, to ShuffleNets 4")
    normalise: bool = Field(
        False, description="each class's map to length 1; published: off, to MobileNetV2 and ShuffleNets on"
    )


class CATKD(Method):
    """Class attention transfer; both networks end in global average pooling and a linear classifier."""

    Config = CATKDConfig

    def __init__(self, config: CATKDConfig, context: Context) -> None:
        super().__init__()
        require_logits("catkd", context)
        self.config: CATKDConfig = config
        self.needs = Needs(student=(config.student_tap, POOLED), teacher=(config.teacher_tap, POOLED))
        map_shapes("student", context.student, [config.student_tap])
        map_shapes("teacher", context.teacher, [config.teacher_tap])
        student = _linear("student", context.student_classifier(), context.student[config.student_tap])
        teacher = _linear("teacher", context.teacher_classifier(), context.teacher[config.teacher_tap])
        # In a tuple they are no submodules: the student's own classifier is trained, but not twice.
        self._classifiers = student, teacher
        self.checked = False

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `catkd`.

        Raises:
            ConfigError: a classifier that gets something else than the average of the map.
        """
        if not self.checked:  # once, since it waits for the device
            _check("student", self.config.student_tap, student.taps)
            _check("teacher", self.config.teacher_tap, teacher.taps)
            self.checked = True
        taps = student.taps[self.config.student_tap], teacher.taps[self.config.teacher_tap]
        own, theirs = (
            class_maps(maps, classifier.weight.to(maps.dtype))
            for maps, classifier in zip(taps, self._classifiers, strict=True)
        )
        return {"catkd": catkd_loss(own, theirs, self.config.size, self.config.normalise)}


def _linear(side: str, classifier: nn.Module | None, tap: TapSpec) -> nn.Linear:
    if not isinstance(classifier, nn.Linear):
        found = "none" if classifier is None else type(classifier).__name__
        raise ConfigError(
            f"catkd needs a linear classifier at the end of the {side}, got {found}; leave catkd out for this pair."
        )
    if tap.layout != "nchw" or classifier.in_features != tap.channels:
        raise ConfigError(
            f"catkd needs a {side} whose classifier gets the average of {tap.name!r}, got {tap.channels} channels as "
            f"{tap.layout} and a classifier of {classifier.in_features}; name its last map as {side}_tap, "
            "or leave catkd out for this pair."
        )
    return classifier


def _check(side: str, tap: str, taps: Taps) -> None:
    if not averaged(taps[tap], taps[POOLED], trained=side == "student"):
        raise ConfigError(
            f"catkd needs a {side} whose classifier gets the average of {tap!r}, but this one gets something else; "
            f"name its last map as {side}_tap, or leave catkd out for this pair."
        )
