"""The one training loop, for teachers, plain students and distilled ones alike."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mfkd.config import config_hash
from mfkd.data import ImageData, eval_loader, train_loader
from mfkd.data.loader import TrainLoader
from mfkd.distill import Distiller, DistillOutput
from mfkd.errors import TrainingError
from mfkd.files import write_csv
from mfkd.records import RunRecord, environment
from mfkd.seeding import derive
from mfkd.train.checkpoint import load_checkpoint, save_checkpoint
from mfkd.train.evaluate import evaluate
from mfkd.train.interrupt import Interrupt, Interrupted
from mfkd.train.job import Job, State
from mfkd.train.meter import Meter
from mfkd.train.optim import averaged, build_optimizer, lr_factor, set_lr
from mfkd.train.progress import Display, epoch_line
from mfkd.train.runtime import dtype
from mfkd.types import Batch

READ_EVERY = 50  # updates between looks at the loss; each look waits for the device
EVAL_BATCH = 500


class _Passes:
    """The training images for a preparation stage; each pass is the next epoch's order and view."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader, self.passes = loader, 0

    def __len__(self) -> int:
        return self.loader.steps

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return self.loader.epoch(self.passes - 1)


def fit(job: Job, distiller: Distiller, data: ImageData, accelerator: Accelerator) -> tuple[RunRecord, nn.Module]:
    """Train `distiller.student`, or go on where an earlier start was interrupted.

    Args:
        job: what, where, how long.
        distiller: on any device; moved to the accelerator's.
        data: images; the test split is reported, never used to choose.
        accelerator: from `runtime.start`.

    Returns:
        The record (not yet saved), and the network to evaluate and keep: the student, or its
        averaged copy where `ema` is set.

    Raises:
        TrainingError: the loss is not finite; the last good checkpoint is intact.
        Interrupted: after Ctrl-C, once everything is on disk.
    """
    return _Fit(job, distiller, data, accelerator).run()


class _Fit:
    def __init__(self, job: Job, distiller: Distiller, data: ImageData, accelerator: Accelerator) -> None:
        self.job, self.training, self.data, self.accelerator = job, job.training, data, accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.main = accelerator.is_main_process
        self.state = State()
        self.distiller = distiller.to(accelerator.device, dtype(self.training))
        self.loader = self._loader(self.rank, self.world, self.training.accumulate)
        self.total = self.training.epochs * self.loader.steps

    def _loader(self, rank: int, world: int, accumulate: int) -> TrainLoader:
        return train_loader(
            self.data,
            self.job.config.data,
            self.job.config.augment,
            batch_size=self.training.batch_size,
            seed=self.job.seed,
            device=self.accelerator.device,
            rank=rank,
            world=world,
            accumulate=accumulate,
            dtype=dtype(self.training),
            channels_last=self.training.channels_last,
        )

    def run(self) -> tuple[RunRecord, nn.Module]:
        saved = load_checkpoint(self.job.checkpoint)
        if saved is not None:
            self._restore_state(saved)
        if self.training.channels_last:
            self.distiller.student.to(memory_format=torch.channels_last)
            if self.distiller.teacher is not None:
                self.distiller.teacher.to(memory_format=torch.channels_last)
        if not self.state.prepared:
            self._prepare()
        student = self.distiller.student
        self.average = averaged(student, self.training.ema) if self.training.ema else None
        if self.training.sync_batchnorm:
            self.distiller.student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        optimizer = build_optimizer(self.distiller.trainable_parameters(), self.training)
        if saved is not None and saved["optimizer"] is not None:
            optimizer.load_state_dict(saved["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(saved["average"])
        self.model, self.optimizer = self.accelerator.prepare(self.distiller, optimizer)
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and saved is not None and saved["scaler"]:
            scaler.load_state_dict(saved["scaler"])
        done = self.state.epoch * self.loader.steps + self.state.step
        if self.job.config.log.trackers:
            self.accelerator.init_trackers("logs")
        try:
            with (
                Interrupt(active=self.world == 1) as interrupt,
                Display(self.job.title, self.total, done, self.main) as display,
            ):
                while self.state.epoch < self.training.epochs:
                    self._epoch(interrupt, display)
        finally:
            self.accelerator.end_training()
        return self._record(), self.average.module if self.average is not None else self.distiller.student

    def _epoch(self, interrupt: Interrupt, display: Display) -> None:
        state, begun = self.state, time.perf_counter()
        batches = self.loader.epoch(state.epoch, state.step)
        self.model.train()
        while state.step < self.loader.steps:
            if interrupt.pending:
                state.seconds += time.perf_counter() - begun
                self._save()
                raise Interrupted(
                    f"{self.job.title}: stopped in epoch {state.epoch + 1} of {self.training.epochs}; "
                    f"the same command goes on from here. Everything is in {self.job.folder}."
                )
            lr = self._update(batches)
            state.step += 1
            display.step(self.training.batch_size)
            if state.step % READ_EVERY == 0 or state.step == self.loader.steps:
                means = self._means()
                display.state(f"loss {means['loss']:.3f} top1 {means['train_top1']:.1f}")
        seconds = time.perf_counter() - begun
        state.seconds += seconds
        row = {
            "epoch": state.epoch + 1,
            "lr": lr,
            **self._means(),
            "seconds": round(seconds, 2),
            **self._evaluate(state.epoch + 1),
        }
        state.rows.append(row)
        state.epoch, state.step, state.meter = state.epoch + 1, 0, Meter()
        self._save()
        self.accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=state.epoch)
        display.epoch(epoch_line(row, self.training.epochs, self.loader.steps * self.training.batch_size))

    def _update(self, batches: Iterator[Batch]) -> float:
        """One optimiser update over all accumulated parts; returns the learning rate used."""
        step = self.state.epoch * self.loader.steps + self.state.step
        lr = self.training.lr * lr_factor(self.training, step, self.loader.steps)
        set_lr(self.optimizer, lr)
        self.distiller.set_progress(step / self.total)
        torch.manual_seed(derive(self.job.seed, "step", step, self.rank))
        for _ in range(self.training.accumulate):
            batch = next(batches)
            with self.accelerator.accumulate(self.model):
                out: DistillOutput = self.model(batch.image, batch.label, batch.index, batch.target)
                self.accelerator.backward(out.loss)
                if self.training.clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.distiller.trainable_parameters(), self.training.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.state.meter.add(out, batch.label)
        if self.average is not None:
            self.average.update_parameters(self.distiller.student)
        return lr

    def _means(self) -> dict[str, float]:
        """Means so far this epoch, over all processes; refuses a loss that is not finite."""
        means = self.state.meter.means(lambda sums: self.accelerator.reduce(sums, reduction="sum"))
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise TrainingError(
                f"{self.job.title}: {' and '.join(broken)} is {means[broken[0]]} in epoch {self.state.epoch + 1}, "
                f"step {self.state.step}; lower train.lr (now {self.training.lr:g}) or set train.clip. "
                f"The last good state is in {self.job.folder}."
            )
        return means

    def _evaluate(self, epoch: int) -> dict[str, float]:
        if epoch % self.training.evaluate_every and epoch != self.training.epochs:
            return {}
        network = self.average.module if self.average is not None else self.distiller.student
        row = {}
        for name, split in (("test", self.data.test), ("val", self.data.val)):
            if split is None:
                continue
            loader = eval_loader(
                split, self.data, self.job.config.data, batch_size=EVAL_BATCH, device=self.accelerator.device,
                rank=self.rank, world=self.world, dtype=dtype(self.training),
            )  # fmt: skip
            metrics = evaluate(network, loader, len(self.data.classes))
            row |= {f"{name}_top1": metrics["top1"], f"{name}_loss": metrics["loss"]}
        return row

    def _prepare(self) -> None:
        begun = time.perf_counter()
        if self.main:
            with Display(f"{self.job.title}, preparation", 0, active=True) as display:
                passes = _Passes(self._loader(0, 1, 1))
                self.distiller.prepare(passes, autocast=self.accelerator.autocast, on_step=display.prepared)
        if self.world > 1:
            _broadcast(self.distiller)
        self.state.prepared = True
        self.state.preparation_seconds = time.perf_counter() - begun
        self._save()

    def _save(self) -> None:
        if not self.main:
            return
        optimizer = getattr(self, "optimizer", None)
        average = getattr(self, "average", None)
        scaler = getattr(self.accelerator, "scaler", None)
        save_checkpoint(
            self.job.checkpoint,
            {
                "hash": config_hash(self.job.config),
                "seed": self.job.seed,
                "model": self.distiller.state_dict(),
                "optimizer": optimizer.state_dict() if optimizer is not None else None,
                "average": average.state_dict() if average is not None else None,
                "scaler": scaler.state_dict() if scaler is not None else None,
                "state": asdict(self.state),
            },
        )
        if self.state.rows:
            columns = dict.fromkeys(name for row in self.state.rows for name in row)
            write_csv(self.job.folder / "log.csv", self.state.rows, columns)

    def _restore_state(self, saved: dict[str, Any]) -> None:
        self.distiller.load_state_dict(saved["model"])
        self.state = State(**{**saved["state"], "meter": Meter(**saved["state"]["meter"])})

    def _record(self) -> RunRecord:
        rows = self.state.rows
        evaluated = [row for row in rows if "test_top1" in row]
        images = self.total * self.training.batch_size
        return RunRecord(
            kind=self.job.kind,
            config=self.job.config.model_dump(mode="json"),
            config_hash=config_hash(self.job.config),
            seed=self.job.seed,
            training=self.training.model_dump(mode="json"),
            method=self.distiller.objective.describe(),
            notes=self.distiller.notes,
            curves=rows,
            last=evaluated[-1],
            best=max(evaluated, key=lambda row: row["test_top1"]),
            seconds=round(self.state.seconds, 2),
            preparation_seconds=round(self.state.preparation_seconds, 2),
            steps=self.total,
            images=images,
            images_per_second=round(images / max(1e-9, self.state.seconds), 1),
            processes=self.world,
            environment=environment(self.accelerator.device.type),
        )


def _broadcast(distiller: Distiller) -> None:
    """Give every process the first one's weights, so that preparation need run only once."""
    state = distiller.state_dict()
    for tensor in state.values():
        torch.distributed.broadcast(tensor, src=0)
    distiller.load_state_dict(state)
