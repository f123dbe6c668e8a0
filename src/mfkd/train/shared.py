"""What is done once for all distilled students of a run: preparing the methods on the teacher, and its knowledge."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from mfkd.config import LogConfig, RunConfig, fingerprint
from mfkd.data import ImageData
from mfkd.data.loader import Loader
from mfkd.distill import Distiller
from mfkd.errors import CacheError, ConfigError
from mfkd.files import read_object, write_json
from mfkd.methods.stage import Course
from mfkd.models.weights import read_weights, save_weights
from mfkd.nn.once import once_state
from mfkd.seeding import seeded
from mfkd.teacher.cache import CachedSource, check_cacheable, tensors
from mfkd.teacher.identity import fields, teacher_fields
from mfkd.teacher.manifest import MANIFEST, Manifest, find, read_manifest
from mfkd.teacher.source import LiveSource
from mfkd.teacher.store import Store
from mfkd.teacher.writing import room
from mfkd.train.batches import training_batches
from mfkd.train.build import build_cache, seconds_an_image, shapes_of
from mfkd.train.checkpoint import fitting, generations, load_newest, save_checkpoint
from mfkd.train.interrupt import Interrupt
from mfkd.train.job import Job
from mfkd.train.prepare import prepare
from mfkd.train.progress import Display
from mfkd.train.runtime import dtype, start

ROOT = "~/.cache/mfkd/knowledge"
PREPARED, PLACE = "prepared.safetensors", "knowledge.json"
TOLERANCE = 0.1  # relative; storage and mixed precision stay well below, other pixels or weights far above


@dataclass(frozen=True)
class Shared:
    """Given to every distilled student of a run.

    Args:
        state: of the methods' prepared parts, by the names of the objective's state dict.
        seconds: what it took, by what.
        store: the teacher's knowledge; None asks the teacher itself.
        names: tensors of the store that the methods are fed.
        rows: (N,) source rows of the training split.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    store: Store | None = None
    names: tuple[str, ...] = ()
    rows: Tensor | None = None

    def give(self, distiller: Distiller) -> Distiller:
        """Put it into a distiller that is not trained yet; returns the same one."""
        if self.state:
            distiller.objective.load_state_dict(self.state, strict=False)
        distiller.shared_seconds = dict(self.seconds)
        if self.store is not None and self.rows is not None and distiller.source is not None:
            distiller.source = CachedSource(
                self.store, list(self.names), self.rows, distiller.objective, distiller.source
            )
        return distiller


def share(job: Job, build: Callable[[int], Distiller], data: ImageData, say: Callable[[str], None]) -> Shared:
    """Prepare the methods, and build or open the knowledge cache if the recipe wants one; called by every process.

    Args:
        job: of a distilled student; its folder is that of all of them, its seed the teacher's.
        build: makes the distiller of a seed.
        data: images.
        say: gets a line before the cache is built.

    Raises:
        CacheError: knowledge that does not belong to this run, or cannot be stored.
        ConfigError: a method that cannot be cached, or a folder prepared for another teacher.
    """
    accelerator = start(job.training, LogConfig(trackers=()), job.folder)
    distiller = _built(build, job.seed, job, accelerator)
    shared = _prepared(job, distiller, data, accelerator)
    if job.config.cache.views is not None and isinstance(distiller.source, LiveSource):
        check_cacheable(distiller.objective)
        distiller.quicken()
        source, loader = distiller.source, training_batches(job, data, accelerator.device, accumulate=1).loader
        wanted = manifest_of(job, shared.give(distiller), data, loader, accelerator)
        if wanted.names:
            folder = place_of(job, wanted)
            if not (folder / MANIFEST).exists() or not read_manifest(folder).complete:
                build_cache(folder, wanted, source, loader, accelerator, say=say)
            store = Store(folder, wanted.fields)
            seconds = {**shared.seconds, "cache": store.manifest.seconds}
            shared = replace(shared, store=store, names=tuple(wanted.names), rows=data.train.rows, seconds=seconds)
            other = shared.give(_built(build, job.seed + 1, job, accelerator))
            _check_answers(other, store, loader, accelerator)
            if accelerator.is_main_process:
                write_json(job.folder / PLACE, {"folder": str(folder.absolute())})
    if distiller.teacher is not None:
        distiller.teacher.slow()
    distiller.float()  # the teacher too, which others go on using
    return shared


def manifest_of(job: Job, distiller: Distiller, data: ImageData, loader: Loader, accelerator: Accelerator) -> Manifest:
    """What the knowledge of this job is, as a cache would hold it; the methods are prepared."""
    source = distiller.source
    if not isinstance(source, LiveSource) or job.config.cache.views is None:
        raise ConfigError("there is no knowledge to keep without cache.views and a method that needs a teacher.")
    shapes = shapes_of(source, loader, accelerator)
    return Manifest(fields(job.config, data, source, shapes, job.config.cache.views))


def check_wanted(distiller: Distiller) -> None:
    """Refuse a knowledge cache where the methods need no teacher, or nothing that can be kept."""
    if distiller.source is None:
        raise ConfigError("the methods of this recipe need nothing of the teacher; there is nothing to keep.")
    check_cacheable(distiller.objective)


def place_of(job: Job, wanted: Manifest) -> Path:
    """The folder of this knowledge."""
    folder = job.config.cache.folder
    return find(Path(ROOT).expanduser(), wanted) if folder is None else Path(folder).expanduser()


def known_place(config: RunConfig) -> Path:
    """The folder of the knowledge that the run of a recipe has built or used.

    Raises:
        CacheError: there was none.
    """
    if config.cache.folder is not None:
        return Path(config.cache.folder).expanduser()
    path = Path(config.out).expanduser() / "distilled" / PLACE
    if not path.exists():
        raise CacheError(f"{config.out} has used no knowledge cache yet; build one with `mfkd cache build`.")
    return Path(str(read_object(path, "folder")["folder"]))


def has_cache(config: RunConfig) -> bool:
    """Whether the run of a recipe has a finished cache."""
    try:
        return read_manifest(known_place(config)).complete
    except CacheError:
        return False


def foresee(job: Job, build: Callable[[int], Distiller], data: ImageData, few: int = 4) -> dict[str, Any]:
    """Size and time of the cache that a job would build; nothing is written, and the preparation is cut short.

    Returns:
        views, images, `tensors` (name to bytes), bytes, free (bytes on the disk), seconds, folder.

    Raises:
        MfkdError: what the building itself would refuse.
    """
    accelerator = start(job.training, LogConfig(trackers=()), job.folder)
    distiller = _built(build, job.seed, job, accelerator)
    check_cacheable(distiller.objective)
    batches = training_batches(job, data, accelerator.device, accumulate=1)
    distiller.prepare(list(islice(batches.epoch(0), few)), autocast=accelerator.autocast, teacher_only=True)
    distiller.quicken()
    wanted = manifest_of(job, distiller, data, batches.loader, accelerator)
    folder = Path(job.config.cache.folder or ROOT).expanduser()  # below it, where the teacher is yet to be trained
    source = distiller.source
    each = seconds_an_image(source, batches.loader, accelerator, wanted.chunk) if isinstance(source, LiveSource) else 0
    return {
        "views": wanted.views,
        "images": wanted.images,
        "tensors": {name: wanted.size(name) for name in wanted.names},
        "bytes": wanted.total,
        "free": room(folder, wanted),
        "seconds": each * wanted.views * wanted.images,
        "folder": str(folder),
    }


def _built(build: Callable[[int], Distiller], seed: int, job: Job, accelerator: Accelerator) -> Distiller:
    with seeded(seed, "weights"):
        distiller = build(seed)
    distiller.to(accelerator.device, dtype(job.training))
    if job.training.channels_last:
        distiller.to(memory_format=torch.channels_last)
    return distiller


def _prepared(job: Job, distiller: Distiller, data: ImageData, accelerator: Accelerator) -> Shared:
    """The stages of the methods that concern the teacher alone: read from the folder, or run on the first process."""
    if distiller.teacher is None:
        return Shared()
    path = job.folder / PREPARED
    key = fingerprint({"job": job.hash, "teacher": teacher_fields(job.config, distiller.teacher)})
    accelerator.wait_for_everyone()  # nobody looks before all have started
    if accelerator.is_main_process:
        if not path.exists():
            _prepare(key, job, distiller, data, accelerator)
        for one in generations(job.checkpoint):
            one.unlink()
        if job.checkpoint.parent.is_dir() and not any(job.checkpoint.parent.iterdir()):
            job.checkpoint.parent.rmdir()
    accelerator.wait_for_everyone()
    if not path.exists():
        return Shared()
    state, metadata = read_weights(path)
    if metadata.get("key") != key:
        raise _foreign(path)
    with fitting(path):
        wanted = distiller.objective.state_dict()
        for name, value in state.items():
            if wanted[name].shape != value.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}")
        return Shared(state, {"preparation": float(metadata["seconds"])})


def _prepare(key: str, job: Job, distiller: Distiller, data: ImageData, accelerator: Accelerator) -> None:
    """Run the stages on this process, or go on with them, and write down what they made."""
    begun = time.perf_counter()
    with Interrupt(insist=accelerator.num_processes == 1) as interrupt, Display("students distilled") as display:
        saved = load_newest(job.checkpoint, display.tell)
        if saved is not None:
            if saved.get("key") != key:
                raise _foreign(job.checkpoint)
            with fitting(job.checkpoint):
                distiller.objective.load_state_dict(saved["model"])
                begun, saved = begun - float(saved["seconds"]), dict(saved["preparation"])

        def save(course: Course) -> None:
            parts = {"model": distiller.objective.state_dict(), "preparation": course.state_dict()}
            found = {"key": key, "seconds": time.perf_counter() - begun, **parts}
            save_checkpoint(job.checkpoint, found, job.config.checkpoint.keep)

        prepare(
            job, distiller, data, accelerator, interrupt=interrupt, display=display, saved=saved, save=save,
            teacher_only=True,
        )  # fmt: skip
    state = once_state(distiller.objective)
    if state:
        save_weights(job.folder / PREPARED, state, {"key": key, "seconds": f"{time.perf_counter() - begun:.2f}"})


def _foreign(path: Path) -> ConfigError:
    return ConfigError(f"{path} was prepared for another teacher or other settings; choose another folder with out=.")


def _check_answers(distiller: Distiller, store: Store, loader: Loader, accelerator: Accelerator) -> None:
    """Compare two images of the last view with the teacher's own answer, as a student of another seed asks for it."""
    source = distiller.source
    if not isinstance(source, CachedSource) or not isinstance(source.live, LiveSource):
        return
    count, view = len(loader.host_rows), store.manifest.views - 1
    batch = next(iter(loader.batches([torch.arange(max(0, count - 2), count)], view)))
    with torch.no_grad(), accelerator.autocast():
        own, kept = tensors(source.live.knowledge(batch)), tensors(source.knowledge(batch))
    for name, tensor in own.items():
        expected = tensor.double()
        gap = float((kept[name].double() - expected).norm() / expected.norm().clamp(min=1e-12))
        if not gap < TOLERANCE:
            raise CacheError(
                f"knowledge cache {store.folder}: {name} differs from the teacher's own answer by {100 * gap:.0f}%; "
                f"remove it with `mfkd cache remove {store.folder}` and build it anew."
            )
