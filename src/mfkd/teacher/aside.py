"""Weights that nobody needs for a while, kept in a file in place of memory."""

import tempfile

import numpy as np
import torch
from torch import Tensor, nn

ALIGNED = 64  # bytes; convolution libraries like whole cache lines


def lay_aside(network: nn.Module) -> int:
    """Let the weights of a network lie in a nameless temporary file until they are used again.

    The network goes on answering as before: the system reads a page of the file when it is asked for, and may drop
    it whenever it wants the memory. Values, layout and identity of the parameters stay. The file ends with the
    network or the process.

    Args:
        network: its weights on the CPU are laid aside, those on other devices stay where they are.

    Returns:
        Bytes that were laid aside; 0 where there is no room for the file.
    """
    tensors = [t for t in (*network.parameters(), *network.buffers()) if _plain(t)]
    try:
        with tempfile.TemporaryFile(prefix="mfkd-") as file:
            places = []
            for tensor in tensors:
                places.append(file.tell() + -file.tell() % ALIGNED)
                file.seek(places[-1])
                file.write(_bytes(tensor.detach()).numpy().data)
            total = file.tell()
            if not total:
                return 0
            file.flush()
            mapped = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c"))
    except OSError:
        return 0
    for tensor, place in zip(tensors, places, strict=True):
        span = tensor.element_size() * _span(tensor)
        flat = mapped[place : place + span].view(tensor.dtype)
        tensor.data = flat.as_strided(tensor.shape, tensor.stride())
    return total


def _plain(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not tensor.is_quantized
        and tensor.numel() > 0
    )


def _span(tensor: Tensor) -> int:
    """Values from its first to its last one in memory."""
    return 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _bytes(tensor: Tensor) -> Tensor:
    """(span,) uint8 as they lie in memory."""
    return tensor.as_strided((_span(tensor),), (1,)).view(torch.uint8)
