"""CRD: the student's embedding of an image is told apart from the teacher's of other classes, and back.

Paper:     Tian, Krishnan and Isola, ICLR 2020, https://arxiv.org/abs/1910.10699
Deviates:  negatives are drawn with replacement (published: without, where the data has enough), and are
           at most as many as a class has images in others, so 16384 become about 1100 on digits. Written
           with log-sigmoids: the size of the data, which cancels, and a guard of 1e-7 are left out.
           An image's class is that of its row; one without a label adds 0, and a mixed one counts as
           its first image. The memory changes in training mode alone.
Shapes:    N images of the data; B batch; K negatives; D width of an embedding.
"""

from math import log

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mfkd import seeding
from mfkd.errors import ConfigError, ShapeError
from mfkd.methods.base import Context
from mfkd.methods.relations import Relational, RelationConfig
from mfkd.nn.memory import ContrastMemory
from mfkd.types import Batch, Knowledge, Needs, Outputs


def crd_loss(scores: Tensor, log_z: Tensor | float, labelled: Tensor | None = None) -> Tensor:
    """Noise-contrastive loss: is a score that of an image's own pair, or of one of K others?

    Args:
        scores: (B, 1 + K) similarity over temperature, the own pair first; gradients flow.
        log_z: log of the mean exponential score that is taken as normal.
        labelled: (B,) bool; where False the image adds 0. None: everywhere True.

    Returns:
        () nats, 0 or more: sum over the 1 + K answers, mean over the batch.

    Raises:
        ShapeError: no matrix, or no negatives.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ShapeError(
            f"crd_loss needs scores (B, 1 + K) with 1 or more negatives, got {tuple(scores.shape)}; "
            "put each image's own pair first."
        )
    odds = scores - log_z - log(scores.shape[1] - 1)  # log of own pair against noise
    losses = F.softplus(-odds[:, 0]) + F.softplus(odds[:, 1:]).sum(dim=1)
    return losses.mean() if labelled is None else (losses * labelled).mean()


def contrast(anchors: Tensor, memory: Tensor, rows: Tensor, temperature: float = 0.07) -> Tensor:
    """Scores of embeddings against remembered ones.

    Args:
        anchors: (B, D); gradients flow.
        memory: (N, D); held constant.
        rows: (B, 1 + K) int64 rows of the memory.
        temperature: above 0; 0.07 as published.

    Returns:
        (B, 1 + K).
    """
    # One product with the whole memory is cheaper than a copy of a row for each of B K negatives. A copy
    # of the memory it needs, since that is updated before the gradient is taken.
    return (anchors @ memory.detach().clone().T).gather(1, rows) / temperature


class CRDConfig(RelationConfig):
    """Options of `crd`; published: both vectors before the classifier."""

    weight: float = Field(
        0.8, ge=0, allow_inf_nan=False, description="factor of the term; 0.8 as in the published CIFAR-100 tables"
    )
    width: int = Field(128, ge=1, description="width of the embeddings; 128 as in the published CIFAR-100 tables")
    negatives: int = Field(
        16384, ge=1, description="images of other classes that each is told from; published: 16384; capped by the data"
    )
    temperature: float = Field(0.07, gt=0, allow_inf_nan=False, description="divides similarities; published: 0.07")
    momentum: float = Field(0.5, ge=0, lt=1, description="share of the old embedding in the new; published: 0.5")


class CRD(Relational):
    """Contrastive representation distillation on one tap of each side, with a memory of all images."""

    Config = CRDConfig
    kept_equal = tuple(f"memory.{name}" for name in ContrastMemory.BUFFERS)

    def __init__(self, config: CRDConfig, context: Context) -> None:
        super().__init__(config, context)
        self.config: CRDConfig = config
        self.needs = Needs(student=self.needs.student, teacher=self.needs.teacher, index=True)
        if context.labels is None or len(context.labels) != context.num_samples:
            got = "no labels" if context.labels is None else f"{len(context.labels)} labels"
            raise ConfigError(
                f"crd remembers every image and its class, got {got} for {context.num_samples} images; "
                "give Distiller num_samples and as many labels, -1 where there is none."
            )
        with seeding.seeded(context.seed, "crd"):
            self.student_side = nn.Linear(self.widths[0], config.width)
            self.teacher_side = nn.Linear(self.widths[1], config.width)
            self.memory = ContrastMemory(context.labels, config.width, config.negatives, config.momentum)

    def forward(self, student: Outputs, teacher: Knowledge, batch: Batch) -> dict[str, Tensor]:
        """The term `crd`; also updates the memory."""
        taps = self.taps(student, teacher)
        own = F.normalize(self.student_side(taps[0].flatten(1)), dim=1)
        given = F.normalize(self.teacher_side(taps[1].detach().flatten(1)), dim=1)
        rows, labelled = self.memory.draw(batch.index)
        temperature = self.config.temperature
        scores = torch.stack(
            (
                contrast(own, self.memory.teacher, rows, temperature),
                contrast(given, self.memory.student, rows, temperature),
            )
        )
        log_z = self.memory.normaliser(scores)
        if self.training:
            self.memory.update(batch.index, own, given)
        return {"crd": crd_loss(scores[0], log_z[0], labelled) + crd_loss(scores[1], log_z[1], labelled)}
