"""OFD: the student matches the teacher before the activation, and only where that would matter after it.

Paper:     Heo, Kim, Yun, Park, Kwak and Choi, "A comprehensive overhaul of feature distillation",
           ICCV 2019, https://arxiv.org/abs/1904.01866
Deviates:  maps of two sizes are compared at the smaller one, as in later published code. Where a network
           declares no map before the activation, the one after it is taken; the margin then never applies.
           A channel whose BatchNorm weight is 0 has its bias for a margin, at most 0 (published: division by 0).
Shapes:    B batch; C, h, w a map, C that of the teacher.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.base import Context, Method
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import PairsConfig, paired
from mfkd.nn.adapt import Regressor
from mfkd.nn.align import shrink
from mfkd.types import Batch, Knowledge, Needs, Outputs

RARE = 0.001
"""Share of negative values below which a channel's margin is -3 deviations, as published."""


def negative_mean(weight: Tensor, bias: Tensor) -> Tensor:
    """The margins of a BatchNorm: what a channel is on average when it is negative, if it is Gaussian.

    Args:
        weight: (C,) of the BatchNorm; its absolute value is the deviation s.
        bias: (C,) its bias, the mean m.

    Returns:
        (C,) m - s phi(m/s) / Phi(-m/s); -3 s where less than one value in a thousand is negative.
    """
    mean, deviation = bias.detach().double(), weight.detach().double().abs()
    ratio = mean / deviation.clamp(min=1e-12)
    share = torch.special.ndtr(-ratio)
    density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    usual = mean - deviation * density / share.clamp(min=RARE)
    return torch.where(share > RARE, usual, -3 * deviation).to(bias.dtype)


def ofd_loss(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Partial squared gap to the teacher's map after a ReLU with a negative margin.

    Where the target is not positive, a student below it is left alone: its activation is 0 there too.

    Args:
        student: (B, C, h, w) before the activation; gradients flow.
        teacher: (B, C, h, w) before the activation; held constant.
        margin: (C,) the lowest target of each channel, 0 or less.

    Returns:
        () squared activations, 0 or more: the sum over an image, mean over the batch.

    Raises:
        ShapeError: the shapes differ.
    """
    if student.ndim != 4 or student.shape != teacher.shape or margin.shape != student.shape[1:2]:
        raise ShapeError(
            f"ofd_loss needs two maps (B, C, h, w) of one shape and (C,) margins, got student {tuple(student.shape)}, "
            f"teacher {tuple(teacher.shape)} and margins {tuple(margin.shape)}; connect the student's map first."
        )
    target = torch.maximum(teacher, margin[:, None, None]).detach()
    counts = (student > target) | (target > 0)
    return ((student - target).square() * counts).sum() / len(student)


class OFDConfig(PairsConfig):
    """Options of `ofd`; defaults are those of the published CIFAR-100 tables."""

    weight: float = Field(
        1e-3,
        ge=0,
        allow_inf_nan=False,
        description="factor of the term, a sum over all cells; published 1e-3 on CIFAR-100, 1e-4 on ImageNet",
    )


class OFD(Method):
    """Overhaul of feature distillation on pairs of stages; needs a teacher with BatchNorm."""

    Config = OFDConfig

    def __init__(self, config: OFDConfig, context: Context) -> None:
        super().__init__()
        self.config: OFDConfig = config
        self.pairs = paired("ofd", config, context, pre=True)
        own, others = zip(*self.pairs, strict=True)
        self.needs = Needs(student=tuple(dict.fromkeys(own)), teacher=tuple(dict.fromkeys(others)))
        shapes = map_shapes("student", context.student, own), map_shapes("teacher", context.teacher, others)
        for number, name in enumerate(others):
            norm = _norm(name, context)
            self.register_buffer(f"margin{number}", negative_mean(norm.weight, norm.bias))
        self.sizes = [(min(s[1], t[1]), min(s[2], t[2])) for s, t in zip(*shapes, strict=True)]
        with seeding.seeded(context.seed, "ofd"):
            self.connectors = nn.ModuleList(
                Regressor([student], teacher[0], size)
                for student, teacher, size in zip(*shapes, self.sizes, strict=True)
            )
            for connector in self.connectors:
                nn.init.kaiming_normal_(connector.get_parameter("conv.weight"), mode="fan_out")  # as published

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `ofd`: the last pair counts fully and each one before it half of the next."""
        total = []
        for number, ((own, other), connector) in enumerate(zip(self.pairs, self.connectors, strict=True)):
            target = shrink(teacher.taps[other], self.sizes[number])
            gap = ofd_loss(connector([student.taps[own]]), target, self.get_buffer(f"margin{number}"))
            total.append(gap / 2 ** (len(self.pairs) - number - 1))
        return {"ofd": torch.stack(total).sum()}


def _norm(name: str, context: Context) -> nn.BatchNorm2d:
    norm = context.teacher_norm(name)
    if norm is None:
        raise ConfigError(
            f"ofd takes its margins from the BatchNorm before each teacher map, and {name} has none; "
            "name other teacher_taps, or use reviewkd."
        )
    return norm
