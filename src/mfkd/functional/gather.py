"""The whole batch on every process, for losses between the images of a batch.

Shapes:    W processes; b rows of one process; B = W b rows of all.
"""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable


def gather(rows: Tensor) -> Tensor:
    """The rows of all processes in their order; without a process group the tensor itself.

    For a loss that every process computes from the gathered rows. Only a process's own rows carry
    gradients, and those W times: DDP averages the gradients over the processes, so what arrives at
    the weights is the gradient of one process that has the whole batch.

    Args:
        rows: (b, ...) of this process, as many and of one dtype on each.

    Returns:
        (B, ...), the same values on every process.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    gathered: Tensor = _Gather.apply(rows)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.own, world = len(rows), distributed.get_world_size()
        everyones = rows.new_empty(world * len(rows), *rows.shape[1:])
        distributed.all_gather_single(everyones, rows.contiguous())
        return everyones

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # No second collective: every process has the same loss, hence the same gradient of all rows.
        return gradient.narrow(0, distributed.get_rank() * ctx.own, ctx.own) * distributed.get_world_size()
