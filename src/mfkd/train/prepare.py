"""The methods' stages before training: run once, on the first process, then handed to all."""

from collections.abc import Iterator

import torch
from torch import nn

from mfkd.data.loader import TrainLoader
from mfkd.types import Batch


class Passes:
    """The training images for a preparation stage; each pass is the next epoch's order and view."""

    def __init__(self, loader: TrainLoader) -> None:
        self.loader, self.passes = loader, 0

    def __len__(self) -> int:
        return self.loader.steps

    def __iter__(self) -> Iterator[Batch]:
        self.passes += 1
        return self.loader.epoch(self.passes - 1)


def broadcast(module: nn.Module) -> None:
    """Give every process the first one's weights and statistics; nothing to do for one process."""
    if not torch.distributed.is_initialized():
        return
    state = module.state_dict()
    for name, tensor in state.items():
        sent = tensor.contiguous()  # a process group takes no other memory format
        torch.distributed.broadcast(sent, src=0)
        state[name] = sent
    module.load_state_dict(state)
