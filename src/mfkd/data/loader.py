"""Batches for the trainer, from memory or from files, as a pure function of seeds, epoch and step.

Shapes: N images; B batch; C, H, W channels, height, width; K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mfkd import seeding
from mfkd.config import AugmentConfig, DataConfig
from mfkd.data.decode import normalise
from mfkd.data.mix import mix
from mfkd.data.readers import Reader, evaluation_reader, training_reader
from mfkd.data.sets import ImageData, Split
from mfkd.errors import ConfigError
from mfkd.types import UNLABELLED, Batch


class Loader:
    """What the trainer sees of any data: a reader, and labels, rows and statistics on the device."""

    def __init__(
        self,
        reader: Reader,
        split: Split,
        data: ImageData,
        *,
        device: torch.device,
        dtype: torch.dtype,
        channels_last: bool,
    ) -> None:
        self.reader, self.dtype = reader, dtype
        self.labels, self.rows, self.host_rows = split.labels.to(device), split.rows.to(device), split.rows.cpu()
        self.mean, self.std = torch.tensor(data.mean, device=device), torch.tensor(data.std, device=device)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def batches(self, plan: Sequence[Tensor], view: int | None) -> Iterator[Batch]:
        """Yield the normalised batch of each (B,) of positions; view None is evaluation."""
        for positions, images in zip(plan, self.reader.read(plan, view), strict=True):
            image = normalise(images, self.mean, self.std, self.dtype).contiguous(memory_format=self.layout)
            which = positions.to(self.labels.device, non_blocking=True)
            yield Batch(image, self.labels[which], self.rows[which], view=view, host_index=self.host_rows[positions])


class TrainLoader:
    """Augmented batches of one epoch after another.

    The order of an epoch depends on (seed, epoch), the pixels of an image on (view_seed, view,
    row) and mixing on (seed, epoch, step): a resumed epoch, another number of workers or of
    processes changes nothing.

    Attributes:
        steps: updates an epoch; the last incomplete batch of each pass over the images is dropped.
        passes: how often an epoch begins the images anew; 1 unless `steps` asked for more.
    """

    def __init__(
        self,
        loader: Loader,
        count: int,
        classes: int,
        augment: AugmentConfig,
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        accumulate: int,
        views: int | None,
        steps: int | None,
    ) -> None:
        if batch_size > count:
            raise ConfigError(
                f"train.batch_size={batch_size} is larger than the {count} training images; set it to {count} or less."
            )
        if batch_size % (world * accumulate):
            raise ConfigError(
                f"train.batch_size={batch_size} does not divide into {world} processes x train.accumulate={accumulate} "
                f"equal parts; make it a multiple of {world * accumulate}."
            )
        self.loader, self.count, self.classes, self.augment = loader, count, classes, augment
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.accumulate, self.views = accumulate, views
        self.pass_steps = count // batch_size
        self.steps = steps or self.pass_steps
        self.passes = -(-self.steps // self.pass_steps)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield (steps - start_step) * accumulate micro-batches of this rank.

        The global batch is cut into `world` contiguous parts, and each of them into `accumulate`.
        """
        for number in range(self.passes):
            begun = number * self.pass_steps
            take = min(self.pass_steps, self.steps - begun)
            if start_step < begun + take:
                yield from self._pass(epoch * self.passes + number, take, max(0, start_step - begun))

    def _pass(self, number: int, steps: int, start_step: int) -> Iterator[Batch]:
        """One way through the images, with an order and a view of its own."""
        order = torch.randperm(self.count, generator=seeding.generator(self.seed, "order", number))
        parts = order[: steps * self.batch_size].view(steps, self.world, self.accumulate, -1)
        plan = list(parts[start_step:, self.rank].flatten(0, 1))
        view = number if self.views is None else number % self.views
        for position, batch in enumerate(self.loader.batches(plan, view)):
            step, micro = divmod(start_step * self.accumulate + position, self.accumulate)
            yield self._mixed(batch, number, step, micro)

    def _mixed(self, batch: Batch, epoch: int, step: int, micro: int) -> Batch:
        """Mix within the rank's own part; every rank draws the same share, box and partner positions."""
        if not self.augment.mixup and not self.augment.cutmix:
            return batch
        generator = seeding.generator(self.seed, "mix", epoch, step, micro)
        image, target = mix(
            batch.image,
            batch.label,
            self.classes,
            generator,
            mixup_alpha=self.augment.mixup,
            cutmix_alpha=self.augment.cutmix,
        )
        return replace(batch, image=image, target=target)


class EvalLoader:
    """Every image of a split once, in order and without augmentation; rank r takes r::world."""

    def __init__(self, loader: Loader, count: int, batch_size: int, rank: int, world: int) -> None:
        self.loader = loader
        positions = torch.arange(rank, count, world)
        self.plan = list(positions.split(batch_size)) if len(positions) else []

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        return self.loader.batches(self.plan, None)


def train_loader(
    data: ImageData,
    config: DataConfig,
    augment: AugmentConfig,
    *,
    batch_size: int,
    seed: int,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
    accumulate: int = 1,
    dtype: torch.dtype = torch.float32,
    views: int | None = None,
    channels_last: bool = True,
    labelled_only: bool = False,
    steps: int | None = None,
) -> TrainLoader:
    """Batches of the training split.

    Args:
        data: from `load_data`.
        config: the `data` part of the recipe.
        augment: the `augment` part of the recipe; None values stand for the set's own default.
        batch_size: images an update, over all processes and accumulated parts.
        seed: decides order and mixing.
        device: where the batches are made.
        rank: number of this process.
        world: number of processes.
        accumulate: micro-batches an update.
        dtype: of the images.
        views: augmented views an image; None draws a new one each pass.
        channels_last: memory format of the images.
        labelled_only: leave out the images of `data.unlabelled`.
        steps: updates an epoch; None for one pass over the images.

    Raises:
        ConfigError: the batch is larger than the split, does not divide into equal parts, or the
            augmentation does not fit the kind of images.
    """
    device = torch.device(device)
    split = data.train
    if labelled_only and (split.labels == UNLABELLED).any():
        split = split.take((split.labels != UNLABELLED).nonzero().flatten())
    reader = training_reader(split, data, config, augment, device)
    return TrainLoader(
        Loader(reader, split, data, device=device, dtype=dtype, channels_last=channels_last),
        len(split),
        len(data.classes),
        augment,
        batch_size=batch_size,
        seed=seed,
        rank=rank,
        world=world,
        accumulate=accumulate,
        views=views,
        steps=steps,
    )


def eval_loader(
    split: Split,
    data: ImageData,
    config: DataConfig,
    *,
    batch_size: int,
    device: torch.device | str,
    rank: int = 0,
    world: int = 1,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
) -> EvalLoader:
    """Every image of `split` once, as it is; `len` is the number of batches of this rank.

    Args:
        split: of `data`.
        data: from `load_data`.
        config: the `data` part of the recipe.
        batch_size: images a batch of this process.
        device: where the batches are made.
        rank: number of this process, which takes the positions rank::world.
        world: number of processes.
        dtype: of the images.
        channels_last: memory format of the images.
    """
    device = torch.device(device)
    reader = evaluation_reader(split, data, config, device)
    return EvalLoader(
        Loader(reader, split, data, device=device, dtype=dtype, channels_last=channels_last),
        len(split),
        batch_size,
        rank,
        world,
    )
