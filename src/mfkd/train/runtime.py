"""One accelerate session a training: device, precision, processes, trackers."""

import atexit
import gc
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

# Before a process group exists: its functions take the group of that moment as a default, and would keep it for ever.
import torch.distributed.nn.functional
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from mfkd.config import LogConfig, TrainConfig
from mfkd.errors import ConfigError, TrainingError

PATIENCE = timedelta(hours=6)  # of the processes that wait while the first one prepares a method


def start(training: TrainConfig, log: LogConfig, folder: Path) -> Accelerator:
    """Make the accelerator of one training.

    The process group, if any, is kept from one training to the next; precision may differ.

    Raises:
        ConfigError: a precision or option that the device does not have, or a tracker that is not installed.
    """
    cuda = torch.cuda.is_available()
    if training.precision == "fp16" and not cuda:
        raise ConfigError("train.precision: fp16 needs a CUDA device, this machine has none; use bf16 or fp32.")
    if training.sync_batchnorm and not cuda:
        raise ConfigError("train.sync_batchnorm needs CUDA devices, this machine has none; leave it false.")
    for tracker in log.trackers:
        if find_spec(tracker) is None:
            raise ConfigError(f"log.trackers: {tracker} is not installed; run `pip install {tracker}` or drop it.")
    AcceleratorState._reset_state()
    GradientState._reset_state()
    _leave_at_exit()
    return Accelerator(
        cpu=not cuda,
        mixed_precision={"bf16": "bf16", "fp16": "fp16"}.get(training.precision, "no"),
        gradient_accumulation_steps=training.accumulate,
        log_with=list(log.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def finish(accelerator: Accelerator) -> None:
    """Close the trackers; accelerate's own `end_training` would end the process group for later trainings too."""
    for tracker in accelerator.trackers:
        tracker.finish()


def device() -> torch.device:
    """Where this process computes, before any accelerator exists."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def dtype(training: TrainConfig) -> torch.dtype:
    """The dtype of weights and images; half precisions are autocast over fp32."""
    return torch.float64 if training.precision == "fp64" else torch.float32


def processes() -> tuple[int, int]:
    """(rank, world) as the launcher says, before any accelerator exists."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def share() -> tuple[int, int]:
    """(rank, world) of those that can add up what they measure; (0, 1) where there is no process group."""
    group = torch.distributed
    return (group.get_rank(), group.get_world_size()) if group.is_initialized() else (0, 1)


@contextmanager
def together() -> Iterator[None]:
    """A block in which the end of another process is told in one line.

    Raises:
        TrainingError: this process waited for one that is gone.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises the base class; the words are those of its and NCCL's sockets.
        if not torch.distributed.is_initialized() or not re.search(r"gloo|NCCL|onnection (closed|reset)", str(error)):
            raise
        raise TrainingError(
            "another process of this training has ended, and the launcher tells which and why; "
            "start the same command again, it goes on from the last checkpoint."
        ) from error


@cache
def _leave_at_exit() -> None:
    """Once a process: end the process group, if there is one by then, and its threads with it.

    A thread of gloo that is left over drops its last result while Python shuts down, asks for an interpreter that
    answers no more, and aborts the process.
    """

    def leave() -> None:
        if torch.distributed.is_initialized():
            gc.collect()  # what refers to the group in a circle would keep it, too
            torch.distributed.destroy_process_group()

    atexit.register(leave)
