"""Optimisers, the learning-rate schedule as a pure function of the step, and the averaged copy."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from mfkd.config import TrainConfig

ONECYCLE_WARMUP = 0.2  # share of the run; short CIFAR budgets train best with a fifth
ONECYCLE_START, ONECYCLE_END = 25.0, 1e4  # torch.optim.lr_scheduler.OneCycleLR's defaults


def build_optimizer(parameters: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over one group, weight decay on everything, as the published protocol has it."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def lr_factor(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate at an update, as a share of `config.lr`.

    Args:
        config: gives schedule, epochs, warm-up, milestones.
        step: updates done before this one, from 0.
        steps_per_epoch: updates an epoch.

    Returns:
        The factor; never negative, at most 1.
    """
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    if config.schedule == "onecycle":
        warmup = warmup or ONECYCLE_WARMUP * total
        if step < warmup:
            return _cosine(1 / ONECYCLE_START, 1.0, step / warmup)
        return _cosine(1.0, 1 / (ONECYCLE_START * ONECYCLE_END), (step - warmup) / max(1.0, total - warmup - 1))
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return _cosine(1.0, 0.0, (step - warmup) / max(1.0, total - warmup))
    if config.schedule == "multistep":
        return config.gamma ** sum(step >= milestone * steps_per_epoch for milestone in config.milestones)
    return 1.0


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


class Average(nn.Module):
    """An exponential moving average of weights and BatchNorm statistics, from the initial ones on.

    Args:
        student: copied into `module`.
        decay: share of the average that stays at each update.
    """

    def __init__(self, student: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = copy.deepcopy(student).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Move towards the student; counters are taken over. Nothing waits for the device here."""
        own, new = [], []
        for average, value in zip(self.module.state_dict().values(), student.state_dict().values(), strict=True):
            if average.is_floating_point():
                own.append(average)
                new.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(own, new, 1 - self.decay)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(1.0, share))) / 2
