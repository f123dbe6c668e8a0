"""Run by test_ddp.py under torchrun, and by it in its own process: five updates, and an uneven evaluation."""

import atexit
import json
import sys
from pathlib import Path

import torch
from torch import nn

from mfkd.config import RunConfig
from mfkd.data import ImageData, MemorySplit
from mfkd.distill import Distiller
from mfkd.seeding import seeded
from mfkd.train.job import Job
from mfkd.train.loop import fit
from mfkd.train.runtime import processes, start
from mfkd.train.session import measure

SHAPE, CLASSES = (3, 8, 8), 4


def split(count, seed):
    drawn = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, *SHAPE), generator=drawn, dtype=torch.uint8)
    # The last class has no image, yet networks that know nothing predict it.
    return MemorySplit(images, torch.randint(0, CLASSES - 1, (count,), generator=drawn), torch.arange(count))


def network(seed, norm):
    with seeded(seed, "network"):
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(),
            nn.Linear(72, CLASSES),
        )  # fmt: skip


def groups(channels):
    return nn.GroupNorm(2, channels)


def train(folder, method, norm, **training):
    """Five updates; the final test metrics, and what this process holds."""
    train, test = split(42, 1), split(13, 2)
    data = ImageData("made", tuple("abcd"), 3, SHAPE[1:], (0.5,) * 3, (0.25,) * 3, 1, True, train, None, test, 42)
    options = {"epochs": 1, "batch_size": 8, "lr": 0.1, "schedule": "constant", **training}
    config = RunConfig(out=str(folder), train=options, log={"trackers": []})
    job = Job("distilled", folder, config, config.train, 0)
    distiller = Distiller(network(5, groups), network(6, norm), method, input_shape=SHAPE)
    prepared = 0
    real = distiller.prepare

    def prepare(*args, **kwargs):
        nonlocal prepared
        prepared += 1
        return real(*args, **kwargs)

    distiller.prepare = prepare
    record, student = fit(job, distiller, data, start(job.training, job.config.log, folder))
    student.float()
    return {
        "row": {name: value for name, value in record.last.items() if name != "seconds"},
        "metrics": measure(student, data, job),
        "weights": {name: value.tolist() for name, value in student.state_dict().items()},
        "fusion": sum(v.double().sum().item() for k, v in distiller.state_dict().items() if "teacher_side" in k),
        "prepared": prepared,
        "processes": record.processes,
    }


def left(path):
    """What of the process group is left when Python is about to shut down."""
    threads = [(folder / "comm").read_text().strip() for folder in Path("/proc/self/task").glob("*")]
    path.write_text(json.dumps([name for name in threads if "gloo" in name]))


def main(folder):
    """Every case, one JSON file a process."""
    torch.set_num_threads(1)
    atexit.register(left, folder / f"left-{processes()[0]}.json")  # called last: what came first goes last
    mfkd = {"mfkd": {"fade": 0.3}, "kd": {}}  # without a term of mfkd from the middle of an epoch on
    results = {
        "exact": train(folder / "exact", "kd", groups, precision="fp64", accumulate=2, clip=0.5),
        "batchnorm": train(folder / "batchnorm", mfkd, nn.BatchNorm2d, epochs=2, ema=0.5),
    }
    (folder / f"rank-{processes()[0]}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
