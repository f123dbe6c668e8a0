"""Class-stratified shares of a set of labels, decided by a seed."""

from collections.abc import Callable

import torch
from torch import Tensor

from mfkd import seeding


def keep_share(labels: Tensor, share: float, seed: int) -> Tensor:
    """Positions of a stratified share, rising; a smaller share is part of a larger one.

    Args:
        labels: (N,) int64.
        share: 0 < share <= 1; every class keeps at least one image.
        seed: the split_seed.

    Returns:
        (M,) int64 positions.
    """
    return _pick(labels, seed, "fraction", lambda count: max(1, round(share * count)))


def hold_out(labels: Tensor, share: float, seed: int, purpose: str = "validation") -> tuple[Tensor, Tensor]:
    """Cut a stratified share off: positions that stay, and positions held out, both rising.

    Every class with two or more images gives at least one away and keeps at least one.

    Args:
        labels: (N,) int64.
        share: 0 <= share < 1.
        seed: the split_seed.
        purpose: keeps different cuts by the same seed apart.
    """
    if share == 0:
        return torch.arange(len(labels)), torch.arange(0)
    held = _pick(labels, seed, purpose, lambda count: min(count - 1, max(1, round(share * count))))
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[held] = False
    return stays.nonzero()[:, 0], held


def _pick(labels: Tensor, seed: int, purpose: str, amount: Callable[[int], int]) -> Tensor:
    picked = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=seeding.generator(seed, purpose, label))
        picked.append(members[order[: amount(len(members))]])
    return torch.cat(picked).sort().values
