"""A network whose classifier was replaced: its backbone, a projector, an average pool and another classifier.

Shapes:    B batch; C the student's map; D the width that the classifier expects; K classes.
"""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mfkd.nn.align import Size, shrink
from mfkd.nn.conv import ConvNorm
from mfkd.taps.reader import TapReader
from mfkd.types import TapSpec


@dataclass(frozen=True)
class Projection:
    """What was put in the place of a network's classifier, as plain values, so that it can be built again.

    Args:
        tap: where the backbone's map is read.
        head: path of the network's own classifier, which is left out; None leaves it in.
        size: (h, w) to which a larger map is pooled.
        hidden: inner channels of the projector.
        width: D.
        classes: K.
        bias: whether the classifier has one.
    """

    tap: TapSpec
    head: str | None
    size: Size
    hidden: int
    width: int
    classes: int
    bias: bool

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Projection":
        """From `dataclasses.asdict`, also after JSON has made lists of tuples."""
        tap: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values["tap"].items()
        }
        height, width = values["size"]
        return cls(**{**values, "tap": TapSpec(**tap), "size": (height, width)})


NOTE = (
    "the student's own classifier is replaced by a projector and the teacher's classifier: accuracy, parameters and "
    "FLOPs are those of that network, and train_top1, which would be that of the classifier left out, is not told."
)
"""For the record of a run that hands over a `Projected`."""


class Projected(nn.Module):
    """`forward` maps images (B, ., H, W) to logits (B, K) without the network's own classifier.

    Args:
        network: gives the backbone; it stays as it is, its tensors are shared and not copied.
        projection: how the parts fit together.
        projector: from `projector`; None builds a new one.
        classifier: maps (B, D) to (B, K); None builds a new one.
    """

    classifier_path = "classifier"

    def __init__(
        self,
        network: nn.Module,
        projection: Projection,
        projector: nn.Module | None = None,
        classifier: nn.Module | None = None,
    ) -> None:
        super().__init__()
        plan = self.projection = projection
        self.backbone = _sharing(network)
        if plan.head is not None:
            self.backbone.set_submodule(plan.head, nn.Identity())
        self.projector = build_projector(plan.tap.channels, plan.hidden, plan.width) if projector is None else projector
        self.classifier = nn.Linear(plan.width, plan.classes, plan.bias) if classifier is None else classifier

    def forward(self, image: Tensor) -> Tensor:  # noqa: D102
        with TapReader(self.backbone, [self.projection.tap]) as reader:
            self.backbone(image)
        maps = shrink(reader.taps[self.projection.tap.name], self.projection.size)
        logits: Tensor = self.classifier(self.projector(maps).mean((2, 3)))
        return logits


def build_projector(channels: int, hidden: int, width: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolution, each with BatchNorm and ReLU, (B, channels, h, w) to (B, width, h, w)."""
    parts = nn.Sequential()
    for inputs, outputs, kernel in ((channels, hidden, 1), (hidden, hidden, 3), (hidden, width, 1)):
        parts.extend([ConvNorm(inputs, outputs, kernel), nn.ReLU()])
    return parts


def _sharing(network: nn.Module) -> nn.Module:
    """A copy of the modules that holds the very tensors of the original."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
