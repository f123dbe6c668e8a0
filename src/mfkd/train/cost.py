"""What a network costs to run: parameters, FLOPs, milliseconds an image."""

import statistics
import time

import torch
from torch import Tensor, nn

from mfkd.train.evaluate import eval_mode

SECONDS = 1.0  # of repeats that the latency is the median of


@torch.no_grad()
def cost(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, float]:
    """Cost of one image on the network's own device, in its own precision.

    Args:
        network: classifier; measured in eval mode, its mode restored.
        input_shape: (C, H, W).

    Returns:
        parameters (count), flops (two a multiply-add, from torch's own counter), latency_ms (median
        at batch 1, at least one second of repeats).
    """
    with eval_mode(network):
        latency = _latency(network, _image(network, input_shape))
    return {**size(network, input_shape), "latency_ms": 1000 * latency}


@torch.no_grad()
def size(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, float]:
    """The part of `cost` that no machine changes: parameters and flops."""
    from torch.utils.flop_counter import FlopCounterMode

    with eval_mode(network), FlopCounterMode(display=False) as counter:
        network(_image(network, input_shape))
    return {"parameters": sum(p.numel() for p in network.parameters()), "flops": counter.get_total_flops()}


def _image(network: nn.Module, input_shape: tuple[int, int, int]) -> Tensor:
    first = next(network.parameters())
    return torch.zeros(1, *input_shape, device=first.device, dtype=first.dtype)


def _latency(network: nn.Module, image: Tensor) -> float:
    """Median seconds of a call, five or more, after five to warm up."""
    taken: list[float] = []
    for _ in range(5):
        network(image)
    end = time.perf_counter() + SECONDS
    while len(taken) < 5 or time.perf_counter() < end:
        _finish(image.device)
        begun = time.perf_counter()
        network(image)
        _finish(image.device)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
