"""Optimisers, the learning-rate schedule as a pure function of the step, and the averaged copy."""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mfkd.config import TrainConfig
from mfkd.distill import Distiller
from mfkd.taps.probe import InputShape
from mfkd.train.finetune import layer_depths

ONECYCLE_WARMUP = 0.2  # share of the run; short CIFAR budgets train best with a fifth
ONECYCLE_START, ONECYCLE_END = 25.0, 1e4  # torch.optim.lr_scheduler.OneCycleLR's defaults


STUDENT = "student."
FUSED = ("cpu", "cuda")
"""Devices on which torch updates all parameters in one kernel."""


def parameter_groups(distiller: Distiller, config: TrainConfig, input_shape: InputShape) -> list[dict[str, Any]]:
    """Parameters that learn, grouped by their share of the learning rate and whether they decay.

    One group of everything by default, as the published protocol has it. `layer_decay` gives a student's layer
    the factor layer_decay ** (layers above it), as in BEiT (Bao et al., ICLR 2022, https://arxiv.org/abs/2106.08254);
    a method's own parameters have factor 1. `no_decay` takes out what has one dimension, biases, and what a network
    of timm says itself.

    Args:
        distiller: after `prepare`.
        config: of the training.
        input_shape: (C, H, W) of an image.

    Returns:
        Groups for an optimiser; besides torch's keys each has its `factor`, for `set_lr`.
    """
    named = {name: p for name, p in distiller.named_parameters() if p.requires_grad}
    if config.layer_decay == 1 and not config.no_decay:
        return [{"params": list(named.values())}]
    depths = layer_depths(distiller.student, input_shape) if config.layer_decay < 1 else {}
    told = getattr(distiller.student, "no_weight_decay", set)
    spared = {STUDENT + name for name in (told() if config.no_decay else ())}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        depth = depths.get(name.removeprefix(STUDENT), 0) if name.startswith(STUDENT) else 0
        spare = config.no_decay and (parameter.ndim < 2 or name.endswith(".bias") or name in spared)
        factor = config.layer_decay**depth
        group = {"params": [], "factor": factor, "lr": config.lr * factor}
        group |= {"weight_decay": 0.0 if spare else config.weight_decay}
        groups.setdefault((depth, spare), group)["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]], config: TrainConfig
) -> torch.optim.Optimizer:
    """SGD or AdamW over parameters or the groups of `parameter_groups`, all tensors in one call where torch can."""
    given: list[Any] = list(parameters)
    tensors = [tensor for part in given for tensor in (part["params"] if isinstance(part, dict) else [part])]
    common: dict[str, Any] = {
        "lr": config.lr,
        "weight_decay": config.weight_decay,
        "fused": all(tensor.device.type in FUSED for tensor in tensors),
    }
    if config.optimizer == "adamw":
        return torch.optim.AdamW(given, **common)
    sgd = torch.optim.SGD(given, momentum=config.momentum, nesterov=config.nesterov, **common)
    if config.precision == "fp16" and config.momentum:
        # A first update that the scaler skips would leave the fused momentum as the memory was.
        for tensor in tensors:
            sgd.state[tensor]["momentum_buffer"] = torch.zeros_like(tensor)
    return sgd


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
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


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
