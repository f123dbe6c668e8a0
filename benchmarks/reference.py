"""The training loop that distillation research commonly uses, as the yardstick of `throughput.py`.

What makes it common: float32 and contiguous memory, networks as they are written, the teacher asked in
each step, images decoded to PIL and transformed one by one in worker processes, and a meter read in each step.

Shapes: N images; B batch; H, W height and width; K classes.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

TEMPERATURE = 4.0


class Images(Dataset):
    """Images in memory, as (H, W, 3) arrays, each transformed when it is asked for.

    Args:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64.
        mean: of each channel, on the scale 0..1.
        std: its deviation.
    """

    def __init__(self, images: Tensor, labels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.arrays, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(images.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int, int]:
        return self.transform(Image.fromarray(self.arrays[row])), self.labels[row], row


def loader(images: Images, batch: int, workers: int) -> DataLoader:
    """Shuffled batches from worker processes."""
    return DataLoader(images, batch, shuffle=True, num_workers=workers, drop_last=True)


def forever(images: Images, batch: int, workers: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One pass after the other."""
    while True:
        yield from loader(images, batch, workers)


class Meter:
    """Mean of what it was given."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        """Add a mean over `count` images."""
        self.total, self.count = self.total + value * count, self.count + count


def kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Soft-target loss of two (B, K) logits (Hinton, Vinyals and Dean, 2015)."""
    soft = F.softmax(teacher / TEMPERATURE, dim=1)
    return F.kl_div(F.log_softmax(student / TEMPERATURE, dim=1), soft, reduction="batchmean") * TEMPERATURE**2


def training(student: nn.Module, teacher: nn.Module | None) -> Callable[[tuple[Tensor, Tensor, Tensor]], None]:
    """What is done with each batch: plain training, or KD from a teacher.

    Args:
        student: any classifier.
        teacher: any classifier, asked in each step; None for plain training.
    """
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    losses, accuracy = Meter(), Meter()

    def step(batch: tuple[Tensor, Tensor, Tensor]) -> None:
        images, labels, _ = batch
        student.train()
        logits = student(images)
        loss = F.cross_entropy(logits, labels)
        if teacher is not None:
            teacher.eval()
            with torch.no_grad():
                known = teacher(images)
            loss = loss + kd(logits, known)
        losses.update(loss.item(), len(labels))
        accuracy.update((logits.argmax(1) == labels).float().mean().item(), len(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
