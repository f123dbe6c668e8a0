"""AB: before it learns to classify, the student learns which of the teacher's neurons are active.

Paper:     Heo, Lee, Yun and Choi, "Knowledge transfer via distillation of activation boundaries formed by
           hidden neurons", AAAI 2019, https://arxiv.org/abs/1811.03233
Deviates:  a connector (1x1 convolution and BatchNorm) stands at every pair; the published code leaves it out
           where the widths agree. A student map of another size is resized to the teacher's. A network that
           declares no map before the activation gives the one after it, whose boundary is the same. In the
           authors' code the teacher's BatchNorm statistics drift during this stage (it is put in training
           mode); here they do not. The stage's rate follows one cycle, and the stage is part of the run, whose first
           epochs it takes; the tables add its 30 epochs to their 240.
Shapes:    B batch; C, h, w the teacher's map.
"""

from collections.abc import Sequence

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ShapeError, TrainingError
from mfkd.functional.precision import full_taps, no_autocast
from mfkd.methods.base import Context, Method, Preparation
from mfkd.methods.lookup import map_shapes
from mfkd.methods.pairs import PairsConfig, paired
from mfkd.nn.adapt import Regressor
from mfkd.nn.once import Once
from mfkd.types import Batch, Knowledge, Needs, Outputs

SCALE = 3 / 1000
"""Of the sum over pairs, in both published implementations."""


def ab_loss(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """Squared distance to the far side of a margin, wherever the student's neuron is not safely on the teacher's side.

    Args:
        student: (B, C, h, w) before the activation; gradients flow.
        teacher: (B, C, h, w) before the activation; held constant, only its signs count.
        margin: how far beyond 0 the student shall be; 1 as published.

    Returns:
        () squared activations, 0 or more: the sum over an image, mean over the batch.

    Raises:
        ShapeError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"ab_loss needs two maps of one shape, got student {tuple(student.shape)} and teacher "
            f"{tuple(teacher.shape)}; bring the student's to the teacher's by a connector."
        )
    active = teacher.detach() > 0
    gap = torch.where(active, margin - student, margin + student).clamp(min=0)
    return gap.square().sum() / len(student)


class ABConfig(PairsConfig):
    """Options of `ab`; defaults are those of the published CIFAR-100 tables."""

    weight: float = Field(
        1.0,
        ge=0,
        allow_inf_nan=False,
        description="factor of the initial stage's loss, a sum over all cells: lower it for images much above 32 px; "
        "published 1",
    )
    margin: float = Field(1.0, gt=0, allow_inf_nan=False, description="margin around 0; published 1")
    initial_share: float = Field(
        1 / 8,
        gt=0,
        lt=1,
        description="share of the run that the initial stage takes; published 30 epochs before the 240",
    )
    initial_lr: float = Field(
        0.05,
        gt=0,
        allow_inf_nan=False,
        description="the stage's peak learning rate; published 0.05, or 0.01 for MobileNet and ShuffleNet",
    )

    @model_validator(mode="after")
    def _check(self) -> "ABConfig":
        for name in ("warmup", "fade"):
            if value := getattr(self, name):
                raise ValueError(f"{name} {value:g} has no meaning for ab, whose terms are only those of its stage")
        return self


class Connectors(Once):
    """One connector a pair, trained together with the student in the initial stage, frozen afterwards."""

    def __init__(self, student: Sequence[tuple[int, int, int]], teacher: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(
            Regressor([own], channels, (height, width))
            for own, (channels, height, width) in zip(student, teacher, strict=True)
        )
        self.freeze()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The student's maps in the shapes of the teacher's."""
        return [connector([level]) for connector, level in zip(self.pairs, maps, strict=True)]


class AB(Method):
    """Activation boundaries: all of it happens in the initial stage; afterwards there are no terms."""

    Config = ABConfig
    only_prepares = True

    def __init__(self, config: ABConfig, context: Context) -> None:
        super().__init__()
        self.config: ABConfig = config
        self.pairs = paired("ab", config, context, pre=True)
        own, others = zip(*self.pairs, strict=True)
        self.needs = Needs(student=tuple(dict.fromkeys(own)), teacher=tuple(dict.fromkeys(others)))
        self.epochs = context.share(config.initial_share)
        with seeding.seeded(context.seed, "ab"):
            self.connectors = Connectors(
                map_shapes("student", context.student, own), map_shapes("teacher", context.teacher, others)
            )

    @property
    def idle(self) -> bool:
        """Whether the initial stage is done."""
        return self.connectors.ready

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002
        """No terms: the student trains on as it would alone, or by the other methods beside this one.

        Raises:
            TrainingError: the initial stage was not run.
        """
        if not self.connectors.ready:
            raise TrainingError("ab works in its initial stage, which was not run; call distiller.prepare(loader).")
        return {}

    def preparation(self) -> Preparation | None:
        """Train the student's own backbone, with the connectors; None if that is done."""
        if self.connectors.ready:
            return None
        self.connectors.start()
        return Preparation(
            epochs=self.epochs,
            step=self._initialise,
            finish=self.connectors.finish,
            parameters=tuple(self.connectors.parameters()),
            lr=self.config.initial_lr,
            trains_student=True,
        )

    def _initialise(self, student: Outputs | None, teacher: Knowledge, _batch: Batch) -> Tensor:
        """Over the pairs, the last counts fully and each one before it half of the next."""
        own = full_taps(student.taps if student is not None else {})
        others = full_taps(teacher.taps)
        with no_autocast(next(iter(others.values()))):
            maps = self.connectors([own[name] for name, _ in self.pairs])
            gaps = [ab_loss(m, others[name], self.config.margin) for m, (_, name) in zip(maps, self.pairs, strict=True)]
            total = torch.stack([gap / 2**steps for steps, gap in enumerate(reversed(gaps))]).sum()
            return self.config.weight * SCALE * total
