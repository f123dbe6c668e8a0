"""Run by test_ddp_methods.py, under torchrun and in its own process: short trainings with many methods."""

import sys
from pathlib import Path

import torch
from torch import nn

from mfkd.config import RunConfig
from mfkd.data import ImageData, MemorySplit
from mfkd.distill import Distiller
from mfkd.errors import MfkdError
from mfkd.methods import METHODS
from mfkd.models import build_model
from mfkd.seeding import seeded
from mfkd.train.job import Job
from mfkd.train.loop import fit
from mfkd.train.runtime import processes, start

CLASSES, IMAGES, SEED = 4, 16, 0
TAPS = {"student_tap": "front", "teacher_tap": "front"}
# Weights that give each term a say beside the cross-entropy.
RELATIONAL = {
    "sp": {"sp": TAPS},
    "pkt": {"pkt": TAPS},
    "rkd": {"rkd": TAPS},
    "cc": {"cc": {"weight": 1.0, **TAPS}},
    "cc gaussian": {"cc": {"weight": 100.0, "kernel": "gaussian", **TAPS}},
    "crd": {"crd": {"negatives": 6, **TAPS}},
}


def small(seed):
    """Without BatchNorm, whose statistics would be those of each process."""
    with seeded(seed, "network"):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(),
            nn.Linear(72, CLASSES),
        )  # fmt: skip


def resnet(name):
    with seeded(SEED, name):
        return build_model(name, num_classes=CLASSES)


def train(folder, method, networks, size, **training):
    """Two updates an epoch; what this process holds at the end."""
    drawn = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (IMAGES, 3, size, size), generator=drawn, dtype=torch.uint8)
    split = MemorySplit(images, torch.arange(IMAGES) % CLASSES, torch.arange(IMAGES))
    data = ImageData(
        "made", tuple("abcd"), 3, (size, size), (0.5,) * 3, (0.25,) * 3, 1, True, split, None, split, IMAGES
    )
    options = {"batch_size": 8, "lr": 0.01, "schedule": "constant", **training}
    config = RunConfig(out=str(folder), train=options, log={"trackers": []})
    job = Job("distilled", folder, config, config.train, SEED)
    shape, labels = (3, size, size), data.train_labels()
    distiller = Distiller(
        *networks, method, input_shape=shape, num_samples=IMAGES, labels=labels, epochs=config.train.epochs
    )
    initial = {name: value.clone() for name, value in distiller.state_dict().items()}
    try:
        record, _ = fit(job, distiller, data, start(job.training, job.config.log, folder))
    except MfkdError as error:  # the same on both processes, which then go on with the next method
        return {"error": str(error)}
    last = {name: value for name, value in record.last.items() if name != "seconds"}
    return {"processes": record.processes, "last": last, "initial": initial, "state": distiller.state_dict()}


def main(folder, which):
    """The `relational` methods exactly, or `all` methods at their defaults."""
    torch.set_num_threads(1)
    if which == "relational":
        found = {
            name: train(folder / name, method, (small(5), small(6)), 8, epochs=2, precision="fp64")
            for name, method in RELATIONAL.items()
        }
    else:
        # Three epochs, so that a method that prepares the student for a share of the run has some left.
        found = {
            name: train(folder / name, {name: {}}, (resnet("resnet14"), resnet("resnet8")), 16, epochs=3)
            for name in METHODS
        }
    torch.save(found, folder / f"rank-{processes()[0]}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
