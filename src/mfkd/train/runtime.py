"""One accelerate session a training: device, precision, processes, trackers."""

import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from mfkd.config import LogConfig, TrainConfig
from mfkd.errors import ConfigError


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
    AcceleratorState._reset_state()
    GradientState._reset_state()
    trackers = [name for name in log.trackers if _installed(name)]
    return Accelerator(
        cpu=not cuda,
        mixed_precision={"bf16": "bf16", "fp16": "fp16"}.get(training.precision, "no"),
        gradient_accumulation_steps=training.accumulate,
        log_with=trackers or None,
        project_dir=str(folder),
    )


def dtype(training: TrainConfig) -> torch.dtype:
    """The dtype of weights and images; half precisions are autocast over fp32."""
    return torch.float64 if training.precision == "fp64" else torch.float32


def processes() -> tuple[int, int]:
    """(rank, world) as the launcher says, before any accelerator exists."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _installed(tracker: str) -> bool:
    from importlib.util import find_spec

    module = {"comet_ml": "comet_ml", "tensorboard": "tensorboard"}.get(tracker, tracker)
    if find_spec(module) is None:
        raise ConfigError(f"log.trackers: {tracker} is not installed; run `pip install {tracker}` or drop it.")
    return True
