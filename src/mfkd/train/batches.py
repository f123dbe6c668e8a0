"""The training images of one job."""

import torch

from mfkd.data import ImageData, train_loader
from mfkd.data.loader import TrainLoader
from mfkd.train.job import Job
from mfkd.train.runtime import dtype


def training_batches(  # noqa: PLR0917 - rank and world belong together
    job: Job, data: ImageData, device: torch.device | str, rank: int = 0, world: int = 1, accumulate: int | None = None
) -> TrainLoader:
    """What a job trains on.

    Unlabelled images belong to the distillation alone. Teacher and student alone train on labelled
    ones; the student alone gets as many updates as the distilled one, in further passes, so that
    both have the same budget.

    Args:
        job: decides settings, seed and kind.
        data: images.
        device: where the batches are made.
        rank: number of this process.
        world: number of processes.
        accumulate: micro-batches an update; None for those of the job.

    Raises:
        ConfigError: the batch size does not fit images or processes.
    """
    training = job.training
    return train_loader(
        data,
        job.config.data,
        job.config.augment,
        batch_size=training.batch_size,
        seed=job.seed,
        device=device,
        rank=rank,
        world=world,
        accumulate=training.accumulate if accumulate is None else accumulate,
        dtype=dtype(training),
        channels_last=training.channels_last,
        views=None if job.kind == "teacher" else job.config.augment.views,
        labelled_only=job.kind != "distilled",
        steps=len(data.train) // training.batch_size if job.kind == "alone" else None,
    )
