"""The few values that travel between the parts of mfkd.

Shapes: B batch; C, H, W channels, height, width; K classes.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Taps = dict[str, Tensor]
"""Feature maps by tap name, each (B, C, H, W), or (B, C) for `penultimate`."""

UNLABELLED = -1
"""The label of an image without a class; cross-entropy is off for it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch as the loaders yield it.

    Args:
        image: (B, C, H, W) float, normalised with the data set's mean and deviation.
        label: (B,) int64 class, or `UNLABELLED`.
        index: (B,) int64 row in the data source, stable across splits and fractions.
        target: (B, K) class weights where labels were mixed (mixup, cutmix), else None.
        view: number of the augmented view, the same for all images; None for evaluation, and where it is not known.
        host_index: `index` on the CPU, so that reading from disk need not wait for the GPU; None if not known.
    """

    image: Tensor
    label: Tensor
    index: Tensor
    target: Tensor | None = None
    view: int | None = None
    host_index: Tensor | None = None

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, slots=True)
class TapSpec:
    """Where a feature map is read, as data.

    Args:
        name: `stem`, `stage1`, `stage1.pre`, ..., `penultimate`, or an alias.
        path: dotted path of the module, as in `named_modules`.
        channels: channels of the map.
        stride: input pixels per map cell; None for vectors and where it is not known.
        side: read the module's `output`, or its `input`.
        activated: True after the activation, False before it (names ending in `.pre`).
        layout: how the module's tensor is laid out: "nchw", "nhwc", "tokens" (B, N, C) or "vector".
        prefix_tokens: class and register tokens in front of a "tokens" tensor, dropped on reading.
        grid: (h, w) of a "tokens" tensor; None stands for a square.
        shape: (C, H, W) or (C,) without the batch, once measured by `taps.probe`.
        item: which tensor, where the module gives or gets several.
        overwritten: True where a later operation changes that tensor in place, so that reading must copy it.
    """

    name: str
    path: str
    channels: int
    stride: int | None = None
    side: Literal["output", "input"] = "output"
    activated: bool = True
    layout: Literal["nchw", "nhwc", "tokens", "vector"] = "nchw"
    prefix_tokens: int = 0
    grid: tuple[int, int] | None = None
    shape: tuple[int, ...] | None = None
    item: int = 0
    overwritten: bool = False


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method wants to be fed.

    Args:
        student: names of student taps.
        teacher: names of teacher taps, before the method's own transform (`Method.knowledge`).
        logits: the teacher's logits over the student's classes.
        labels: labels of the batch.
        index: source rows of the batch.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()
    logits: bool = False
    labels: bool = False
    index: bool = False


@dataclass(slots=True)
class Outputs:
    """What a network gave for a batch: logits (B, K) and the taps that were asked for."""

    logits: Tensor
    taps: Taps = field(default_factory=dict)


@dataclass(slots=True)
class Knowledge:
    """What the frozen teacher knows of a batch, live or cached; gradients never flow into it.

    Args:
        logits: (B, K), or None where no method needs them or the teacher's head has other classes.
        taps: raw taps by name, and tensors made by a method's frozen transform as "method/name".
    """

    logits: Tensor | None = None
    taps: Taps = field(default_factory=dict)


@dataclass(slots=True)
class DistillOutput:
    """Result of one distillation step.

    Args:
        loss: () the weighted objective; gradients flow.
        terms: named, unweighted, detached scalars, "ce" among them.
        logits: (B, K) of the student.
        watched: named, detached scalars that are no part of the loss, see `Method.watched`.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    logits: Tensor
    watched: dict[str, Tensor] = field(default_factory=dict)
