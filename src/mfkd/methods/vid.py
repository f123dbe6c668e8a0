"""VID: the student's maps hold what is needed to predict the teacher's, each channel with a learnt variance.

Paper:     Ahn, Hu, Damianou, Lawrence and Dai, CVPR 2019, https://arxiv.org/abs/1904.05835
Deviates:  every stage takes part, so VGG's first block does, which the published tables count as a
           stem. The variance is a parameter like any other; mdistiller keeps it in a plain list that
           no optimiser sees, so that there it stays at its first value.
Shapes:    B batch; C channels of the teacher; h, w the smaller of the two sizes.
"""

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.methods.base import Context, Method
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import PairsConfig, paired
from mfkd.nn.align import check_channels, to_smaller
from mfkd.types import Batch, Knowledge, Needs, Outputs

FLOOR = 1e-5
"""The least variance, as published."""


def vid_loss(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """Negative log-likelihood of the teacher's map under a normal distribution, without its constant.

    Args:
        mean: (B, C, h, w) predicted from the student; gradients flow.
        variance: (C,) above 0; gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () nats an element, mean over all; negative where the prediction is sharp and right.

    Raises:
        ShapeError: the maps differ in shape, or the variance has not one value a channel.
    """
    if mean.ndim != 4 or mean.shape != teacher.shape or variance.shape != mean.shape[1:2]:
        raise ShapeError(
            f"vid_loss needs two maps (B, C, h, w) of one shape and C variances, got mean {tuple(mean.shape)}, "
            f"variance {tuple(variance.shape)} and teacher {tuple(teacher.shape)}; resize the maps first."
        )
    spread = variance[:, None, None]
    return 0.5 * ((mean - teacher.detach()).square() / spread + spread.log()).mean()


class Variational(nn.Module):
    """Predicts a map's mean from another by three 1x1 convolutions, and has one variance a channel.

    Args:
        channels: of the map that is seen.
        target: C, channels of the map that is predicted, and of what lies between.
        variance: the first value of every variance, above 1e-5.
    """

    def __init__(self, channels: int, target: int, variance: float) -> None:
        super().__init__()
        self.channels = channels
        self.mean = nn.Sequential(
            nn.Conv2d(channels, target, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(target, target, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(target, target, 1, bias=False),
        )
        # softplus(scale) + FLOOR is the variance, so it stays above 0 whatever the optimiser does.
        above = variance - FLOOR
        self.scale = nn.Parameter(torch.full((target,), above + math.log(-math.expm1(-above))))

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(B, channels, h, w) to the mean (B, C, h, w) and the variance (C,)."""
        check_channels("Variational", maps, self.channels)
        return self.mean(maps), F.softplus(self.scale) + FLOOR


class VIDConfig(PairsConfig):
    """Options of `vid`."""

    weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="factor of the term; 1 as in the published CIFAR-100 tables"
    )
    variance: float = Field(
        5.0, gt=FLOOR, allow_inf_nan=False, description="first value of each variance; 5 in the published tables"
    )


class VID(Method):
    """Variational information distillation over all stages, from the last one backwards."""

    Config = VIDConfig

    def __init__(self, config: VIDConfig, context: Context) -> None:
        super().__init__()
        self.config: VIDConfig = config
        self.pairs = paired("vid", config, context)
        own, theirs = zip(*self.pairs, strict=True)
        self.needs = Needs(student=own, teacher=theirs)
        seen = map_shapes("student", context.student, own)
        targets = map_shapes("teacher", context.teacher, theirs)
        with seeding.seeded(context.seed, "vid"):
            self.predictors = nn.ModuleList(
                Variational(maps[0], target[0], config.variance) for maps, target in zip(seen, targets, strict=True)
            )

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `vid`, summed over the pairs."""
        losses = []
        for predictor, (own, theirs) in zip(self.predictors, self.pairs, strict=True):
            seen, target = to_smaller("vid", student.taps[own], teacher.taps[theirs])
            mean, variance = predictor(seen)
            losses.append(vid_loss(mean, variance, target))
        return {"vid": torch.stack(losses).sum()}
