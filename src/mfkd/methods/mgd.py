"""MGD: from a randomly masked map the student generates the teacher's whole one.

Paper:     Yang, Li, Shao, Shi, Yuan and Yuan, "Masked Generative Distillation", ECCV 2022,
           https://arxiv.org/abs/2205.01529
Deviates:  a student's map of another size is resized to the teacher's (averaging or bilinear), where
           the authors' code asks for equal sizes.
Shapes:    B batch; C, h, w the teacher's map.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError
from mfkd.methods.base import Context, Method, MethodConfig
from mfkd.methods.lookup import map_shapes
from mfkd.nn.align import Size, check_channels, enlarge, shrink
from mfkd.types import Batch, Knowledge, Needs, Outputs


def mgd_loss(generated: Tensor, teacher: Tensor) -> Tensor:
    """Squared gap, summed over an image's map and averaged over the batch.

    Args:
        generated: (B, C, h, w); gradients flow.
        teacher: (B, C, h, w); held constant.

    Returns:
        () in squared units of the teacher's map, 0 or more; it grows with C h w, as published.

    Raises:
        ShapeError: the shapes differ.
    """
    if generated.shape != teacher.shape:
        raise ShapeError(
            f"mgd_loss needs two maps of one shape, got generated {tuple(generated.shape)} and "
            f"teacher {tuple(teacher.shape)}; generate the map at the teacher's shape."
        )
    return (generated - teacher.detach()).square().sum() / len(teacher)


def mgd_mask(maps: Tensor, share: float, kind: str = "channel") -> Tensor:
    """A random mask of zeros and ones from torch's global generator on the maps' device.

    Args:
        maps: (B, C, h, w) to be masked.
        share: chance of a zero, 0 to 1.
        kind: `channel` draws once a channel of an image, `position` once a position.

    Returns:
        (B, C, 1, 1) or (B, 1, h, w), in the type of the maps.
    """
    batch, channels, *size = maps.shape
    shape = (batch, channels, 1, 1) if kind == "channel" else (batch, 1, *size)
    return (torch.rand(shape, device=maps.device) >= share).to(maps.dtype)


class Generation(nn.Module):
    """Brings a map to the teacher's shape, masks it, and generates the whole by two 3x3 convolutions.

    Args:
        channels: of the student's map.
        target: C of the teacher's.
        size: (h, w) of the teacher's.
    """

    def __init__(self, channels: int, target: int, size: Size) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        self.align = nn.Identity() if channels == target else nn.Conv2d(channels, target, 1)
        self.generate = nn.Sequential(
            nn.Conv2d(target, target, 3, padding=1), nn.ReLU(), nn.Conv2d(target, target, 3, padding=1)
        )

    def forward(self, maps: Tensor, share: float, kind: str) -> Tensor:
        """(B, channels, H, W) to (B, C, h, w), seen through a fresh mask of `mgd_mask`."""
        check_channels("Generation", maps, self.channels)
        aligned = enlarge(self.align(shrink(maps, self.size)), self.size)
        return self.generate(aligned * mgd_mask(aligned, share, kind))  # type: ignore[no-any-return]


class MGDConfig(MethodConfig):
    """Options of `mgd`."""

    weight: float = Field(
        7e-5, ge=0, allow_inf_nan=False, description="factor of the term; 7e-5 in the authors' ImageNet recipes"
    )
    student_tap: str = Field("bottom", description="student map that is masked; the last one, as published")
    teacher_tap: str = Field("bottom", description="teacher map that is generated; the last one, as published")
    masked: float = Field(
        0.15, ge=0, lt=1, description="share of the map that is masked; 0.15 in the authors' ImageNet recipes"
    )
    mask: Literal["channel", "position"] = Field(
        "channel", description="what is masked as one; channel in the authors' code for classification"
    )


class MGD(Method):
    """Masked generative distillation on one map; the mask is drawn anew in every step."""

    Config = MGDConfig

    def __init__(self, config: MGDConfig, context: Context) -> None:
        super().__init__()
        self.config: MGDConfig = config
        self.needs = Needs(student=(config.student_tap,), teacher=(config.teacher_tap,))
        student = map_shapes("student", context.student, self.needs.student)[0]
        target, *size = map_shapes("teacher", context.teacher, self.needs.teacher)[0]
        with seeding.seeded(context.seed, "mgd"):
            self.generation = Generation(student[0], target, (size[0], size[1]))

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """The term `mgd`."""
        generated = self.generation(student.taps[self.config.student_tap], self.config.masked, self.config.mask)
        return {"mgd": mgd_loss(generated, teacher.taps[self.config.teacher_tap])}
