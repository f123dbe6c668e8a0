"""The one training loop, for teachers, plain students and distilled ones alike."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mfkd.data import ImageData, eval_loader
from mfkd.distill import Distiller, DistillOutput
from mfkd.errors import ConfigError, TrainingError
from mfkd.files import write_csv
from mfkd.records import RunRecord
from mfkd.seeding import derive
from mfkd.train.batches import training_batches
from mfkd.train.checkpoint import fitting, load_checkpoint, restore_optimizer, save_checkpoint
from mfkd.train.evaluate import evaluate
from mfkd.train.interrupt import Interrupt, Interrupted
from mfkd.train.job import Job, State
from mfkd.train.meter import Meter
from mfkd.train.optim import Average, build_optimizer, lr_factor, set_lr
from mfkd.train.outcome import make_record
from mfkd.train.prepare import Passes, broadcast
from mfkd.train.progress import Display, epoch_line
from mfkd.train.runtime import dtype, finish
from mfkd.types import Batch

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
        self.loader = training_batches(job, data, accelerator.device, self.rank, self.world)
        self.total = self.training.epochs * self.loader.steps

    def run(self) -> tuple[RunRecord, nn.Module]:
        saved = load_checkpoint(self.job.checkpoint)
        if saved is not None:
            self._restore_state(saved)
        if self.training.channels_last:
            self.distiller.to(memory_format=torch.channels_last)
        done = self.state.epoch * self.loader.steps + self.state.step
        with (
            Interrupt(active=self.world == 1) as self.interrupt,
            Display(self.job.title, self.main) as self.display,
        ):
            if not self.state.prepared:
                self._prepare()
            self._set_up(saved)
            self.display.begin(self.total, done)
            try:
                while self.state.epoch < self.training.epochs:
                    self._epoch()
            finally:
                finish(self.accelerator)
            if self.interrupt.pending:
                raise self._stopped("at its end")
        record = make_record(self.job, self.state, self.distiller, self.total, self.accelerator)
        return record, self._result()

    def _set_up(self, saved: dict[str, Any] | None) -> None:
        student = self.distiller.student
        self.average = Average(student, self.training.ema) if self.training.ema else None
        if self.training.sync_batchnorm:
            self.distiller.student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        self.parameters = self.distiller.trainable_parameters()
        optimizer = build_optimizer(self.parameters, self.training)
        scaler = getattr(self.accelerator, "scaler", None)
        with fitting(self.job.checkpoint):
            if saved is not None and saved["optimizer"] is not None:
                restore_optimizer(optimizer, saved["optimizer"])
                if self.average is not None:
                    self.average.load_state_dict(saved["average"])
                if scaler is not None and saved["scaler"]:
                    scaler.load_state_dict(saved["scaler"])
        self.model, self.optimizer = self.accelerator.prepare(self.distiller, optimizer)
        if self.job.config.log.trackers:
            self.accelerator.init_trackers("mfkd")

    def _result(self) -> nn.Module:
        """The network to evaluate and keep."""
        return self.average.module if self.average is not None else self.distiller.student

    def _epoch(self) -> None:
        state, begun = self.state, time.perf_counter()
        batches = self.loader.epoch(state.epoch, state.step)
        self.model.train()
        while state.step < self.loader.steps:
            if self.interrupt.pending:
                state.seconds += time.perf_counter() - begun
                if state.step:
                    self._means()  # refuses to save what is broken
                self._save()
                raise self._stopped(f"in epoch {state.epoch + 1} of {self.training.epochs}")
            lr = self._update(batches)
            state.step += 1
            self.display.step(self.training.batch_size)
            if state.step % READ_EVERY == 0 or state.step == self.loader.steps:
                means = self._means()
                self.display.state(f"loss {means['loss']:.3f} top1 {means['train_top1']:.1f}")
        state.seconds += time.perf_counter() - begun
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
        self.accelerator.log({name: value for name, value in row.items() if name != "epoch"}, step=state.epoch)
        self.display.epoch(epoch_line(row, self.training.epochs, self.loader.steps * self.training.batch_size))

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
                    self.accelerator.clip_grad_norm_(self.parameters, self.training.clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.state.meter.add(out, batch.label)
        if self.average is not None:
            self.average.update(self.distiller.student)
        return lr

    def _means(self) -> dict[str, float]:
        """Means so far this epoch, over all processes; refuses what is not finite."""
        means = self.state.meter.means(lambda sums: self.accelerator.reduce(sums, reduction="sum"))
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        # The last update comes after the last loss.
        values = [v for v in self.distiller.student.state_dict().values() if v.is_floating_point()]
        if not broken and not torch.stack([value.isfinite().all() for value in values]).all():
            broken.append("the student's weights")
        if broken:
            raise TrainingError(
                f"{self.job.title}: {' and '.join(broken)} not finite in epoch {self.state.epoch + 1}, "
                f"step {self.state.step}; lower train.lr (now {self.training.lr:g}) or set train.clip. "
                f"The last good state is in {self.job.folder}."
            )
        return means

    def _stopped(self, where: str) -> Interrupted:
        return Interrupted(
            f"{self.job.title}: stopped {where}; the same command goes on from here. "
            f"Everything is in {self.job.folder}."
        )

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

    def _prepare(self) -> None:
        begun = time.perf_counter()
        torch.manual_seed(derive(self.job.seed, "preparation"))
        if self.main:
            passes = Passes(training_batches(self.job, self.data, self.accelerator.device, accumulate=1))
            self.distiller.prepare(passes, autocast=self.accelerator.autocast, on_step=self._prepared)
        broadcast(self.distiller)
        self.state.prepared = True
        self.state.preparation_seconds = time.perf_counter() - begun
        self._save()

    def _prepared(self, name: str, done: int, total: int) -> None:
        self.display.prepared(name, done, total)
        if self.interrupt.pending:
            raise self._stopped("while preparing, which starts anew")

    def _save(self) -> None:
        if not self.main:
            return
        optimizer = getattr(self, "optimizer", None)
        average = getattr(self, "average", None)
        scaler = getattr(self.accelerator, "scaler", None)
        save_checkpoint(
            self.job.checkpoint,
            {
                "hash": self.job.hash,
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
        with fitting(self.job.checkpoint):
            if (saved["hash"], saved["seed"]) != (self.job.hash, self.job.seed):
                raise ConfigError(
                    f"{self.job.folder} holds an unfinished run of other settings; choose another folder with out=."
                )
            self.distiller.load_state_dict(saved["model"])
            self.state = State(**{**saved["state"], "meter": Meter(**saved["state"]["meter"])})
