"""Large images: read, cropped and flipped by worker processes, image by image.

Shapes: B batch; C, H, W channels, height, width.
"""

import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mfkd.data.augment import Transform, drawing
from mfkd.data.copies import Copies
from mfkd.data.decode import scale, to_tensor
from mfkd.data.sets import FileSplit
from mfkd.errors import DataError
from mfkd.pictures import read_image

Key = tuple[int, int | None]
"""Position in the split, and number of the view; None is evaluation."""


class FileReader:
    """Yields uint8 batches of a `FileSplit`.

    Args:
        split: what is read.
        size: (height, width) of the result.
        side: shorter side that evaluation scales an image to before its central crop.
        device: where the batches go.
        workers: processes, at most one a processor; 0 reads in this one. They start once and serve every epoch.
        interpolation: of evaluation.
        transform: of training, from `augment.large_transform`; evaluation needs none.
        view_seed: as in the recipe.
        copies: read in place of the images.
    """

    def __init__(
        self,
        split: FileSplit,
        size: tuple[int, int],
        side: int,
        device: torch.device,
        workers: int,
        *,
        interpolation: str = "bilinear",
        transform: Transform | None = None,
        view_seed: int = 0,
        copies: Copies | None = None,
    ) -> None:
        self.device = device
        # torch warns about more workers than this process may use; their number changes no result.
        workers = min(
            workers, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self.plan: list[list[Key]] = []
        self.loader = DataLoader(
            _Images(split, size, side, interpolation, transform, view_seed, copies),
            batch_sampler=_Plan(self.plan),
            num_workers=workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # else every pass would draw from the global one
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            worker_init_fn=_begin_worker,
            multiprocessing_context=_processes() if workers else None,
        )

    def read(self, plan: Sequence[Tensor], view: int | None) -> Iterator[Tensor]:
        """Yield the images of each part of the plan."""
        self.plan[:] = [[(position, view) for position in part.tolist()] for part in plan]
        for images in self.loader:
            if isinstance(images, str):
                raise DataError(images)
            yield images.to(self.device, non_blocking=True)


def evaluation_crop(image: Image.Image, size: tuple[int, int], side: int, interpolation: str) -> Image.Image:
    """Scale the shorter side to `side` pixels, then cut the central (height, width)."""
    from torchvision.transforms.v2 import functional as tv

    cropped: Image.Image = tv.center_crop(scale(image, side, interpolation), list(size))
    return cropped


class _Images(Dataset[Tensor | str]):
    def __init__(  # noqa: PLR0917 - private
        self,
        split: FileSplit,
        size: tuple[int, int],
        side: int,
        interpolation: str,
        transform: Transform | None,
        view_seed: int,
        copies: Copies | None,
    ) -> None:
        self.paths, self.rows = split.paths, split.rows
        self.size, self.side, self.interpolation = size, side, interpolation
        self.transform, self.view_seed, self.copies = transform, view_seed, copies

    def __getitem__(self, key: Key) -> Tensor | str:
        position, view = key
        row, source = int(self.rows[position]), self.paths[position]
        name = f"row {row}" if isinstance(source, bytes) else ""
        try:
            image = read_image(source, 3, name) if self.copies is None else self.copies.read(source, name)
        except DataError as error:  # its one line would be buried in a worker's traceback
            return str(error)
        if view is None or self.transform is None:
            return to_tensor(evaluation_crop(image, self.size, self.side, self.interpolation))
        with drawing(self.view_seed, view, row):
            augmented: Tensor = self.transform(image)
        return augmented


class _Plan:
    """A batch sampler that reads the reader's plan anew for each pass."""

    def __init__(self, plan: list[list[Key]]) -> None:
        self.plan = plan

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.plan)

    def __len__(self) -> int:
        return len(self.plan)


def _collate(images: list[Any]) -> Tensor | str:
    broken = next((image for image in images if isinstance(image, str)), None)
    return broken if broken is not None else torch.stack(images)


def _begin_worker(number: int) -> None:  # noqa: ARG001
    """Terminals and schedulers signal every process; only the main one answers. A worker ends with it, however it ends.

    Torch looks whether the parent is gone, which is the small server here, and that one waits for its workers.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None:
        threading.Thread(target=_end_after, args=(main,), daemon=True).start()


def _end_after(main: multiprocessing.process.BaseProcess) -> None:
    main.join()
    os._exit(1)


def _processes() -> multiprocessing.context.BaseContext:
    """Not a plain fork of this process, which has threads and may hold an accelerator.

    Workers are forked from a small server that has already imported what they need.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torchvision.transforms.v2"])
    return context
