"""One finished training: fit, final measurement, files. A finished one is not run again."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mfkd.data import ImageData, eval_loader
from mfkd.distill import Distiller
from mfkd.errors import ConfigError
from mfkd.hardware import remarks
from mfkd.methods.projected import NOTE, Projected
from mfkd.records import RunRecord
from mfkd.seeding import seeded
from mfkd.train.cost import cost
from mfkd.train.evaluate import evaluate
from mfkd.train.job import Job
from mfkd.train.loop import EVAL_BATCH, fit
from mfkd.train.runtime import share, start
from mfkd.train.student import Card, save_student


def train(
    job: Job,
    build: Callable[[], Distiller],
    data: ImageData,
    card: Card,
    reference: Callable[[Tensor], Tensor] | None = None,
) -> RunRecord:
    """Train one network in its folder and leave weights, log and record there.

    Args:
        job: what, where, how long.
        build: makes the distiller; called with torch's generators seeded by the job's seed, so that
            runs of one seed start from the same weights.
        data: images.
        card: what the weights file says of the network.
        reference: the teacher's logits of a batch of images, for the agreement.

    Raises:
        ConfigError: the folder holds a finished run of other settings.
    """
    if job.record.exists():
        record = RunRecord.load(job.record)
        if record.config_hash != job.hash:
            raise ConfigError(f"{job.folder} holds a run of other settings; choose another folder with out=.")
        if job.weights.exists():
            return record
        # The checkpoint still holds what was trained; without it, all is done anew.
    accelerator = start(job.training, job.config.log, job.folder)
    with seeded(job.seed, "weights"):
        distiller = build()
    record, network = fit(job, distiller, data, accelerator)
    distiller.float()  # the teacher too, which others go on using
    network = network.float()
    metrics = measure(network, data, job, reference)
    if accelerator.is_main_process:
        save_student(job.weights, network, card)
        metrics |= cost(network, (data.channels, *data.size))
        notes = [
            *data.notes,
            *remarks(job.training.precision),
            *record.notes,
            *([NOTE] if isinstance(network, Projected) else []),
        ]
        record = record.model_copy(update={"metrics": metrics, "notes": notes})
        record.save(job.record)
    accelerator.wait_for_everyone()
    return RunRecord.load(job.record)


def measure(
    network: nn.Module,
    data: ImageData,
    job: Job,
    reference: Callable[[Tensor], Tensor] | None = None,
    logits: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """All metrics of a network on the test split in fp32, each process taking its share."""
    rank, world = share()
    device = next(network.parameters()).device
    batches = eval_loader(
        data.test,
        data,
        job.config.data,
        batch_size=EVAL_BATCH,
        device=device,
        rank=rank,
        world=world,
        dtype=torch.float32,
    )
    return evaluate(network, batches, len(data.classes), reference, logits)
