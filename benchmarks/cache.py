"""How the knowledge cache grows: building time and size with images x views, a training step with the set.

    python benchmarks/cache.py [--images 512 1024 2048] [--views 2] [--repeats 3] [--json FILE]

Made-up images of CIFAR's size and networks that know nothing: neither changes what anything costs.
Sizes are taken in turn within each repeat, and ratios are formed within a repeat, so that other work on
the machine strikes all of them alike; their median and range are printed.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mfkd.config import RunConfig
from mfkd.data import ImageData, MemorySplit, train_loader
from mfkd.distill import Distiller
from mfkd.models import build_model
from mfkd.records import environment
from mfkd.teacher.cache import CachedSource
from mfkd.teacher.frozen import FrozenTeacher
from mfkd.teacher.identity import fields
from mfkd.teacher.manifest import Manifest
from mfkd.teacher.store import Store
from mfkd.train.build import build_cache, shapes_of
from mfkd.train.runtime import start

SHAPE, CLASSES, BATCH, STEPS = (3, 32, 32), 100, 64, 8


class Case:
    """A made-up set of some size with teacher, student and loader."""

    def __init__(self, images: int, views: int, folder: Path) -> None:
        self.images, self.views = images, views
        self.config = RunConfig.model_validate(
            {"cache": {"views": views}, "teacher": {"model": "resnet56"}, "student": {"model": "resnet20"}}
        )
        self.accelerator = start(self.config.train, self.config.log.model_copy(update={"trackers": ()}), folder)
        pixels = torch.randint(0, 256, (images, *SHAPE), dtype=torch.uint8)
        labels = torch.randint(0, CLASSES, (images,))
        split = MemorySplit(pixels, labels, torch.arange(images))
        names, half = tuple(map(str, range(CLASSES))), ((0.5,) * 3, (0.25,) * 3)
        self.data = ImageData("made", names, 3, SHAPE[1:], *half, 4, True, split, None, split, images)
        teacher, student = (build_model(name, CLASSES) for name in ("resnet56", "resnet20"))
        self.distiller = Distiller(FrozenTeacher(teacher), student, "mfkd", input_shape=SHAPE)
        self.distiller.to(memory_format=torch.channels_last)
        self.loader = train_loader(
            self.data, self.config.data, self.config.augment, batch_size=BATCH, seed=0, device="cpu", views=views
        )
        self.distiller.prepare([next(self.loader.epoch(0))])
        self.live = self.distiller.source
        shapes = shapes_of(self.live, self.loader.loader, self.accelerator)
        self.manifest = Manifest(fields(self.config, self.data, self.live, shapes, views))
        self.optimizer = torch.optim.SGD(self.distiller.trainable_parameters(), lr=0.01)

    def build(self, folder: Path) -> float:
        """Seconds, the announcement's measurement left out."""
        build_cache(folder, self.manifest, self.live, self.loader.loader, self.accelerator, say=lambda _: None)
        store = Store(folder)
        self.distiller.source = CachedSource(
            store, self.manifest.names, self.data.train.rows, self.distiller.objective, self.live
        )
        return store.manifest.seconds

    def read(self) -> float:
        """Seconds a batch that reading takes, over an epoch's order."""
        batches = [next(iter(self.loader.epoch(epoch))) for epoch in range(STEPS)]
        begun = time.perf_counter()
        for batch in batches:
            self.distiller.ahead(batch)
        return (time.perf_counter() - begun) / STEPS

    def step(self) -> float:
        """Seconds an update with its batch, the median of a few."""
        taken, batches = [], self.loader.epoch(0)
        self.distiller.train()
        for _ in range(min(STEPS, self.loader.steps)):
            begun = time.perf_counter()
            batch = next(batches)
            out = self.distiller(batch.image, batch.label, batch.index, None, self.distiller.ahead(batch))
            self.optimizer.zero_grad()
            out.loss.backward()
            self.optimizer.step()
            taken.append(time.perf_counter() - begun)
        return statistics.median(taken)


def measure(images: list[int], views: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds, bytes and ratios to the smallest set, by size."""
    cases = [Case(count, views, folder) for count in images] + [Case(images[-1], 2 * views, folder)]
    rows = [{"images": c.images, "views": c.views, "bytes": c.manifest.total} for c in cases]
    for name in ("build", "read", "step"):
        for row in rows:
            row[name] = []
    for repeat in range(repeats):
        for case, row in zip(cases, rows, strict=True):
            place = folder / f"{case.images}-{case.views}"
            shutil.rmtree(place, ignore_errors=True)
            row["build"].append(case.build(place))
        for name in ("read", "step"):
            for case, row in zip(cases, rows, strict=True):
                if repeat == 0:
                    getattr(case, name)()  # warms up
                row[name].append(getattr(case, name)())
    first = rows[0]
    for row in rows:
        share = row["images"] * row["views"] / (first["images"] * first["views"])
        row["bytes_ratio"] = row["bytes"] / first["bytes"] / share
        row["build_ratio"] = spread(
            [own / base / share for own, base in zip(row["build"], first["build"], strict=True)]
        )
        for name in ("read", "step"):
            row[f"{name}_ratio"] = spread([own / base for own, base in zip(row[name], first[name], strict=True)])
    return {"batch": BATCH, "repeats": repeats, "environment": environment("cpu"), "rows": rows}


def spread(values: list[float]) -> list[float]:
    """Median, smallest and largest."""
    return [statistics.median(values), min(values), max(values)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--views", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(words.images, words.views, words.repeats, Path(folder))
    print("per image and view, and per step, relative to the first row: median (smallest to largest)")
    heads = {"images": 8, "views": 5, "MB": 8, "MB ratio": 8, "build s": 8, "per image": 20, "read ms": 8, "step ms": 8}
    print(*(f"{head:>{width}}" for head, width in {**heads, "per step": 20}.items()))
    for row in found["rows"]:
        build, step = (f"{m:.2f} ({low:.2f} to {high:.2f})" for m, low, high in (row["build_ratio"], row["step_ratio"]))
        print(
            f"{row['images']:>8} {row['views']:>5} {row['bytes'] / 1e6:>8.1f} {row['bytes_ratio']:>8.3f} "
            f"{statistics.median(row['build']):>8.2f} {build:>20} {1e3 * statistics.median(row['read']):>8.2f} "
            f"{1e3 * statistics.median(row['step']):>8.1f} {step:>20}"
        )
    if words.json:
        words.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
