"""The one training loop, for teachers, plain students and distilled ones alike."""

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from mfkd.data import ImageData, eval_loader
from mfkd.distill import Distiller
from mfkd.errors import TrainingError
from mfkd.files import write_csv
from mfkd.methods.stage import Course
from mfkd.models.finite import own_soundness
from mfkd.nn.restore import restore_optimizer
from mfkd.records import RunRecord
from mfkd.sections import split_name
from mfkd.seeding import derive
from mfkd.train import memory
from mfkd.train.batches import training_batches
from mfkd.train.checkpoint import fitting, load_newest, save_checkpoint
from mfkd.train.compile import Compiled, compile_networks
from mfkd.train.evaluate import evaluate
from mfkd.train.finetune import freeze
from mfkd.train.interrupt import Interrupt, Interrupted, stopped
from mfkd.train.job import Job, State
from mfkd.train.meter import Meter
from mfkd.train.optim import Average, build_optimizer, lr_factor, parameter_groups, set_lr
from mfkd.train.outcome import make_record
from mfkd.train.pace import Pace
from mfkd.train.prepare import broadcast, prepare
from mfkd.train.progress import Display, epoch_line
from mfkd.train.runtime import dtype, finish
from mfkd.train.snapshot import restored, snapshot
from mfkd.types import Batch, DistillOutput

READ_EVERY = 50  # updates between looks at the loss; each look waits for the device
EVAL_BATCH = 500


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
        Interrupted: after Ctrl-C, SIGTERM or SIGUSR1, once everything is on disk.
    """
    return Fit(job, distiller, data, accelerator).run()


class Fit:
    """One training under way; `fit` runs it, `profile` takes single updates of it."""

    def __init__(self, job: Job, distiller: Distiller, data: ImageData, accelerator: Accelerator) -> None:
        self.job, self.training, self.data, self.accelerator = job, job.training, data, accelerator
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.main = accelerator.is_main_process
        self.state = State(processes=[self.world])
        self.distiller = distiller.to(accelerator.device, dtype(self.training))
        self.shape = (data.channels, *data.size)
        self.own_classifier = self.distiller.deployed() is self.distiller.student
        self.distiller.resting = freeze(distiller.student, self.training.freeze, self.shape)
        self.loader = training_batches(job, data, accelerator.device, self.rank, self.world)
        self.total = self.training.epochs * self.loader.steps
        self.compiled = Compiled()

    def run(self) -> tuple[RunRecord, nn.Module]:
        """What `fit` returns."""
        self.display = Display(self.job.title, self.main)
        saved = load_newest(self.job.checkpoint, self.display.tell)
        if saved is not None:
            self.state = restored(self.job, saved, self.distiller, self.rank, self.world, self.loader.steps)
            if self.main:
                self._log()
        if self.training.channels_last:
            self.distiller.to(memory_format=torch.channels_last)
        self.distiller.quicken()
        memory.begin(self.accelerator.device)
        done = self.state.epoch * self.loader.steps + self.state.step
        with (
            Interrupt(insist=self.world == 1) as self.interrupt,
            self.display,
        ):
            self.pace = Pace(self.job.config.checkpoint, self.interrupt, self.accelerator)
            if not self.state.prepared:
                self._prepare(saved)
                done = self.state.epoch * self.loader.steps
            try:
                self.set_up(saved, self.total - done)
                self.display.begin(self.total, done)
                while self.state.epoch < self.training.epochs:
                    self._epoch()
            finally:
                self.compiled.remove()
                finish(self.accelerator)
            self.pace.look(self.total, last=True)
            if self.pace.signum:
                raise self._stopped("at its end")
        record = make_record(self.job, self.state, self.distiller, self.total, self.accelerator)
        return record, self._result()

    def set_up(self, saved: dict[str, Any] | None, steps: int) -> None:
        """Build the optimiser, compile what pays in so many updates, and wrap all for the device."""
        student = self.distiller.student
        self.average = Average(self.distiller.deployed(), self.training.ema) if self.training.ema else None
        if self.training.sync_batchnorm:
            self.distiller.student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        self.parameters = self.distiller.trainable_parameters()
        optimizer = build_optimizer(parameter_groups(self.distiller, self.training, self.shape), self.training)
        scaler = getattr(self.accelerator, "scaler", None)
        with fitting(self.job.checkpoint):
            if saved is not None and saved["optimizer"] is not None:
                restore_optimizer(optimizer, saved["optimizer"])
                if self.average is not None:
                    self.average.load_state_dict(saved["average"])
                if scaler is not None and saved["scaler"]:
                    scaler.load_state_dict(saved["scaler"])
        self._compile(steps)
        self.model, self.optimizer = self.accelerator.prepare(self.distiller, optimizer)
        if self.job.config.log.trackers:
            self.accelerator.init_trackers("mfkd")

    def _compile(self, steps: int) -> None:
        if steps == 0:
            return
        begun = time.perf_counter()
        self.distiller.train()
        self.compiled = compile_networks(
            self.distiller,
            self.training,
            batch=self.training.batch_size // (self.world * self.training.accumulate),
            steps=steps * self.training.accumulate,
            known=self.state.compiled,
            autocast=self.accelerator.autocast,
            agree=lambda own: all(gather_object([own])),
        )
        self.state.compiled = self.compiled.names
        self.distiller.notes += self.compiled.notes
        self.state.preparation_seconds += time.perf_counter() - begun

    def _result(self) -> nn.Module:
        """The network to evaluate and keep."""
        return self.distiller.deployed() if self.average is None else self.average.module

    def _epoch(self) -> None:
        state, self.begun = self.state, time.perf_counter()
        batches = self.loader.epoch(state.epoch, state.step)
        self.distiller.train()
        while state.step < self.loader.steps:
            if self.pace.signum or self.pace.due:
                self._save_within()
            if self.pace.signum:
                raise self._stopped(f"in epoch {state.epoch + 1} of {self.training.epochs}")
            lr = self.update(batches)
            state.step += 1
            self.display.step(self.training.batch_size)
            last = state.step == self.loader.steps
            self.pace.look(state.epoch * self.loader.steps + state.step, last)
            if state.step % READ_EVERY == 0 or last:
                means = self._means()
                top1 = f" top1 {means['train_top1']:.1f}" if self.own_classifier else ""
                self.display.state(f"loss {means['loss']:.3f}{top1}")
        self._count_seconds()
        row = {
            "epoch": state.epoch + 1,
            "lr": lr,
            **means,
            # By difference, since an interrupted epoch is trained in parts.
            "seconds": round(state.seconds - sum(row["seconds"] for row in state.rows), 2),
            **self._evaluate(state.epoch + 1),
        }
        state.rows.append(row)
        state.epoch, state.step, state.meter = state.epoch + 1, 0, Meter()
        self._save()
        if self.main:
            self._log()
        self.accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=state.epoch)
        split = split_name(self.job.config.data.evaluate)
        self.display.epoch(epoch_line(row, self.training.epochs, self.loader.steps * self.training.batch_size, split))

    def update(self, batches: Iterator[Batch]) -> float:
        """One optimiser update over all accumulated parts; returns the learning rate used."""
        step = self.state.epoch * self.loader.steps + self.state.step
        lr = self.training.lr * lr_factor(self.training, step, self.loader.steps)
        set_lr(self.optimizer, lr)
        self.distiller.set_progress(step / self.total)
        torch.manual_seed(derive(self.job.seed, "step", step, self.rank))
        for _ in range(self.training.accumulate):
            batch = next(batches)
            known = self.distiller.ahead(batch)
            with self.accelerator.accumulate(self.model):
                out: DistillOutput = self.model(batch.image, batch.label, batch.index, batch.target, known)
                self.accelerator.backward(out.loss)
                if self.training.clip is not None and self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.parameters, self.training.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.state.meter.add(out, batch.label)
        if self.average is not None:
            self.average.update(self.distiller.deployed())
        return lr

    def _means(self) -> dict[str, float]:
        """Means so far this epoch, over all processes; refuses what is not finite."""
        means = self.state.meter.means(lambda sums: self.accelerator.reduce(sums, reduction="sum"))
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        # The last update comes after the last loss.
        if not broken and not torch.stack([*own_soundness(self.distiller.student).values()]).all():
            broken.append("the student's weights")
        if broken:
            raise TrainingError(
                f"{self.job.title}: {' and '.join(broken)} not finite in epoch {self.state.epoch + 1}, "
                f"step {self.state.step}; lower train.lr (now {self.training.lr:g}) or set train.clip. "
                f"The last good state is in {self.job.folder}."
            )
        if not self.own_classifier:
            del means["train_top1"]  # of a classifier that nobody trains or keeps
        return means

    def _stopped(self, where: str) -> Interrupted:
        return stopped(f"{self.job.title}: stopped {where}", self.job.folder, self.pace.signum)

    def _evaluate(self, epoch: int) -> dict[str, float]:
        if epoch % self.training.evaluate_every and epoch != self.training.epochs:
            return {}
        network = self._result()
        broadcast(network)  # each process has BatchNorm statistics of its own; the first one's are kept
        row: dict[str, float] = {}
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

    def _prepare(self, saved: dict[str, Any] | None) -> None:
        begun, taken = time.perf_counter() - self.state.preparation_seconds, [0]

        def save(course: Course) -> None:
            self.state.preparation_seconds = time.perf_counter() - begun
            found = snapshot(self.job, self.state, self.distiller, [], preparation=course)
            save_checkpoint(self.job.checkpoint, found, self.job.config.checkpoint.keep)

        if self.main:
            taken[0] = prepare(
                self.job, self.distiller, self.data, self.accelerator, interrupt=self.interrupt, display=self.display,
                saved=(saved or {}).get("preparation"), save=save,
            )  # fmt: skip
        broadcast(self.distiller)
        self.state.epoch = self.state.prepared_epochs = broadcast_object_list(taken)[0]
        self.state.prepared = True
        self.state.preparation_seconds = time.perf_counter() - begun
        self._save()

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.state.seconds, self.begun = self.state.seconds + now - self.begun, now

    def _save_within(self) -> None:
        """A checkpoint in the middle of an epoch."""
        self._count_seconds()
        if self.state.step:
            self._means()  # refuses to save what is broken
        self._save()
        self.begun = time.perf_counter()

    def _save(self) -> None:
        """Called by every process; done when all know that it is on the disk."""
        self.state.peak_mb = max(self.state.peak_mb, memory.peak(self.accelerator.device) / 1e6)
        sums = gather_object([{name: value.cpu() for name, value in self.state.meter.sums.items()}])
        if self.main:
            parts = {name: getattr(self, name, None) for name in ("optimizer", "average")}
            parts["scaler"] = getattr(self.accelerator, "scaler", None)
            found = snapshot(self.job, self.state, self.distiller, sums[1:], **parts)
            save_checkpoint(self.job.checkpoint, found, self.job.config.checkpoint.keep)
        self.accelerator.wait_for_everyone()
        self.pace.written()

    def _log(self) -> None:
        columns = dict.fromkeys(name for row in self.state.rows for name in row)
        if columns:
            write_csv(self.job.folder / "log.csv", self.state.rows, columns)
