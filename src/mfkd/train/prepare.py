"""The methods' stages before training: run once, on the first process, then handed to all."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mfkd.data import ImageData
from mfkd.data.loader import TrainLoader
from mfkd.distill import Distiller
from mfkd.methods.stage import Course
from mfkd.seeding import derive
from mfkd.train.batches import training_batches
from mfkd.train.checkpoint import fitting
from mfkd.train.interrupt import Interrupt, stopped
from mfkd.train.job import Job
from mfkd.train.pace import Pace
from mfkd.train.progress import Display
from mfkd.types import Batch


class Passes:
    """The training images for the stages; each pass is the next epoch's order and view.

    What an update draws is set anew from (seed, update), as in training, so that it does not depend on where the
    preparation was interrupted.

    Args:
        loader: of one part an update.
        seed: of the draws.
        done: updates done already; the first pass begins with the next one.
    """

    def __init__(self, loader: TrainLoader, seed: int, done: int = 0) -> None:
        self.loader, self.seed, self.done = loader, seed, done

    def __len__(self) -> int:
        return self.loader.steps

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader.epoch(*divmod(self.done, self.loader.steps)):
            torch.manual_seed(derive(self.seed, "preparation", self.done))
            self.done += 1
            yield batch


def prepare(
    job: Job,
    distiller: Distiller,
    data: ImageData,
    accelerator: Accelerator,
    *,
    interrupt: Interrupt,
    display: Display,
    saved: dict[str, Any] | None,
    save: Callable[[Course], None],
    teacher_only: bool = False,
) -> int:
    """Run the stages, or go on with them, on one process while any others wait.

    Args:
        job: decides images and seed, how often to save, and where.
        distiller: with the weights that belong to `saved`.
        data: images.
        accelerator: from `runtime.start`.
        interrupt: is looked at after each update.
        display: shows the updates.
        saved: state of the `Course` from which to go on; None begins at the beginning.
        save: writes a checkpoint.
        teacher_only: as of `Distiller.prepare`, which also tells what is returned.

    Raises:
        Interrupted: after a signal, once the checkpoint is on the disk.
        CheckpointError: a state that does not fit.
    """
    course = Course(saved, lambda: fitting(job.checkpoint))
    passes = Passes(training_batches(job, data, accelerator.device, accumulate=1), job.seed, course.updates)
    pace = Pace(job.config.checkpoint, interrupt, accelerator, alone=True)

    def on_step(name: str, done: int, total: int) -> None:
        display.prepared(name, done, total)
        pace.look(course.updates, last=False)
        signum = pace.signum
        if signum or pace.due:
            save(course)
            pace.written()
        if signum:
            where = f"{display.title}: stopped in the preparation of {name}, update {done} of {total}"
            raise stopped(where, job.folder, signum)

    return distiller.prepare(
        passes, autocast=accelerator.autocast, on_step=on_step, course=course, teacher_only=teacher_only
    )


def broadcast(module: nn.Module) -> None:
    """Give every process the first one's weights and statistics; nothing to do for one process."""
    if not torch.distributed.is_initialized():
        return
    state = module.state_dict()
    for name, tensor in state.items():
        sent = tensor.contiguous()  # a process group takes no other memory format
        torch.distributed.broadcast(sent, src=0)
        state[name] = sent
    module.load_state_dict(state)
