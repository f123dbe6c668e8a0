from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mfkd.config import RunConfig
from mfkd.data import ImageData, MemorySplit
from mfkd.distill import Distiller
from mfkd.seeding import seeded
from mfkd.train.job import Job
from mfkd.train.loop import fit
from mfkd.train.runtime import start

CLASSES, SHAPE = 4, (3, 8, 8)


def split(count, seed):
    """Noise with one bright quarter that tells the class."""
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 120, (count, *SHAPE), generator=drawn, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    for image, label in zip(images, labels.tolist(), strict=True):
        image[:, 4 * (label // 2) :, 4 * (label % 2) :][:, :4, :4] += 100
    return MemorySplit(images, labels, torch.arange(count))


def small(norm=nn.BatchNorm2d):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(72, CLASSES)
    )


def group_norm(channels):
    return nn.GroupNorm(2, channels)


@pytest.fixture
def lab(tmp_path):
    """Data, networks and a way to train them in a few hundredths of a second."""
    names = tuple("abcd")
    half = (0.4,) * 3, (0.25,) * 3
    train, test = split(48, 1), split(21, 2)
    data = ImageData("made", names, 3, SHAPE[1:], *half, 1, True, train, None, test, len(train))

    def job(place="run", seed=0, augment=None, kind="distilled", trackers=(), checkpoint=None, **training):
        defaults = {"epochs": 2, "batch_size": 8, "lr": 0.05, "schedule": "cosine"}
        config = RunConfig(
            out=str(tmp_path / place),
            train=defaults | training,
            augment=augment or {},
            log={"trackers": trackers},
            checkpoint=checkpoint or {},
        )
        return Job(kind, tmp_path / place, config, config.train, seed)

    def teacher():
        with seeded(7, "teacher"):
            return small(group_norm).eval()

    def distiller(job, method="kd", network=small):
        with seeded(job.seed, "weights"):
            return Distiller(
                teacher() if method != "none" else None,
                network(),
                method,
                input_shape=SHAPE,
                num_samples=data.num_rows,
                labels=data.train_labels(),
                label_smoothing=job.training.label_smoothing,
                epochs=job.training.epochs,
                seed=job.seed,
            )

    def train(job, method="kd", network=small, data=data, before=lambda distiller: None):
        """(record, network) of `fit`; `before` sees the distiller."""
        made = distiller(job, method, network)
        before(made)
        return fit(job, made, data, start(job.training, job.config.log, job.folder))

    return SimpleNamespace(
        data=data, job=job, train=train, distiller=distiller, small=small, group_norm=lambda: small(group_norm)
    )
