"""Building the knowledge cache: every process computes its share of the chunks."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor

from mfkd.data.loader import Loader
from mfkd.teacher.cache import tensors
from mfkd.teacher.journal import Unit, units
from mfkd.teacher.manifest import Manifest
from mfkd.teacher.source import LiveSource
from mfkd.teacher.writing import Writer, alone, begin, check, finish
from mfkd.train.interrupt import Interrupt, Interrupted
from mfkd.train.progress import Display
from mfkd.types import Batch

TITLE = "knowledge cache"


def shapes_of(source: LiveSource, loader: Loader, accelerator: Accelerator) -> dict[str, tuple[int, ...]]:
    """Of every tensor that the methods are fed, for one image."""
    batch = next(iter(loader.batches([torch.arange(min(2, len(loader.host_rows)))], 0)))
    return {name: tuple(tensor.shape[1:]) for name, tensor in _answer(source, batch, accelerator).items()}


def seconds_an_image(source: LiveSource, loader: Loader, accelerator: Accelerator, chunk: int) -> float:
    """Time that reading, augmenting and asking the teacher takes, by the second of two chunks."""
    count = min(chunk, len(loader.host_rows))
    batches = loader.batches([torch.arange(count)] * 2, 0)
    for _ in range(2):
        begun = time.perf_counter()
        for tensor in _answer(source, next(batches), accelerator).values():
            tensor.cpu()
        taken = time.perf_counter() - begun
    return taken / count


def announcement(folder: Path, manifest: Manifest, free: int, seconds: float) -> str:
    """What a build will take, in one line."""
    parts = ", ".join(f"{name} {manifest.size(name) / 1e6:,.1f} MB" for name in manifest.names)
    return (
        f"Knowledge cache: {manifest.views} view{'s' if manifest.views > 1 else ''} of {manifest.images:,} images, "
        f"{parts}; {manifest.total / 1e6:,.1f} MB in all of {free / 1e6:,.0f} MB free, "
        f"about {seconds:,.0f} s, in {folder}"
    )


def build_cache(
    folder: Path,
    manifest: Manifest,
    source: LiveSource,
    loader: Loader,
    accelerator: Accelerator,
    *,
    say: Callable[[str], None],
) -> None:
    """Fill a folder with knowledge, or go on where an earlier start ended; called by every process.

    Args:
        folder: where it shall lie; further processes see the same disk.
        manifest: what it shall be.
        source: gives the knowledge, on its device.
        loader: of the training split.
        accelerator: from `runtime.start`.
        say: gets a line with size and time before anything is written.

    Raises:
        CacheError: a folder with something else, a full disk, values that cannot be stored.
        Interrupted: after Ctrl-C, once everything is on disk.
    """
    main, rank, world = accelerator.is_main_process, accelerator.process_index, accelerator.num_processes
    if main:
        free = check(folder, manifest)
        each = seconds_an_image(source, loader, accelerator, manifest.chunk)
        say(announcement(folder, manifest, free, each * manifest.views * manifest.images / world))
    with alone(folder) if main else nullcontext():
        missing: list[list[Unit]] = [[]]
        if main:
            done = begin(folder, manifest)
            missing = [[] if done is None else [unit for unit in units(manifest) if unit not in done]]
        missing = broadcast_object_list(missing)
        if missing[0]:
            _fill(folder, manifest, missing[0][rank::world], source, loader, accelerator)
        accelerator.wait_for_everyone()
        if main and done is not None:
            finish(folder)
    accelerator.wait_for_everyone()


def _fill(  # noqa: PLR0917 - private
    folder: Path, manifest: Manifest, mine: list[Unit], source: LiveSource, loader: Loader, accelerator: Accelerator
) -> None:
    views, total = sorted({view for view, _ in mine}), manifest.views * manifest.chunks
    with (
        Interrupt(active=accelerator.num_processes == 1) as interrupt,
        Display(TITLE, accelerator.is_main_process) as display,
        Writer(folder, manifest, accelerator.process_index) as writer,
    ):
        display.begin(len(mine), 0)
        for number, view in enumerate(views, 1):
            chunks = [chunk for found, chunk in mine if found == view]
            for chunk, batch in zip(chunks, _read(loader, manifest, view, chunks), strict=True):
                writer.write((view, chunk), _answer(source, batch, accelerator))
                display.step(len(batch))
                if interrupt.pending:
                    raise Interrupted(
                        f"{TITLE}: stopped in view {view + 1} of {manifest.views} ({total} chunks in all); "
                        f"the same command goes on from here. Everything is in {folder}.",
                        interrupt.signum,
                    )
            display.epoch(f"view {view + 1}, {number} of {len(views)}")


def _read(loader: Loader, manifest: Manifest, view: int, chunks: list[int]) -> Iterator[Batch]:
    plan = [
        torch.arange(chunk * manifest.chunk, min((chunk + 1) * manifest.chunk, manifest.images)) for chunk in chunks
    ]
    return loader.batches(plan, view)


@torch.no_grad()
def _answer(source: LiveSource, batch: Batch, accelerator: Accelerator) -> dict[str, Tensor]:
    with accelerator.autocast():
        return tensors(source.knowledge(batch))
